/**
 * Whether a file keeps its set-id bits when this caller changes its content (CAP_FSETID).
 *
 * The kernel says so with a flag in WRITE, OPEN and SETATTR. FALLOCATE and COPY_FILE_RANGE have no such flag
 * (FUSE_HANDLE_KILLPRIV_V2), so we read the caller's capabilities in /proc. We believe them only for root: another
 * user's capability may come from a user namespace, where it does not count.
 */

import { readFileSync } from 'node:fs';

const CAP_FSETID = 4n;

/** @param procFolder for tests. */
export function keepsSetId(
  caller: { readonly uid: number; readonly pid: number },
  procFolder = '/proc',
): boolean {
  // pid 0: the caller is in another pid namespace, so we cannot know.
  if (caller.uid !== 0 || caller.pid === 0) return false;
  try {
    const status = readFileSync(`${procFolder}/${caller.pid}/status`, 'latin1');
    const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1];
    return effective !== undefined && ((BigInt(`0x${effective}`) >> CAP_FSETID) & 1n) === 1n;
  } catch {
    return false;
  }
}
