/** The supplementary groups of a process that has called: the kernel's requests have its user and group alone. */

import { readFileSync } from 'node:fs';

/**
 * @param caller whose request is not answered yet: so the process is still there.
 * @param procFolder for tests.
 */
export function groupsOf(
  { pid = 0 }: { readonly pid?: number | undefined },
  procFolder = '/proc',
): readonly number[] {
  // 0: the caller is in another pid namespace, so we cannot know.
  if (pid === 0) return [];
  try {
    const status = readFileSync(`${procFolder}/${pid}/status`, 'latin1');
    const groups = /^Groups:([\d \t]*)$/m.exec(status)?.[1] ?? '';
    return groups.split(/\s+/).flatMap((text) => (text === '' ? [] : Number(text)));
  } catch {
    return [];
  }
}
