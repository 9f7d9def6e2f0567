/**
 * Whether a caller may change a file's content without the loss of its set-id bits (CAP_FSETID).
 *
 * WRITE, OPEN and SETATTR say it in a flag. FALLOCATE and COPY_FILE_RANGE carry none (FUSE_HANDLE_KILLPRIV_V2), so the caller is looked
 * at in /proc. Root alone is believed: the capability of another user may be one of a user namespace, which does not count.
 */

import { readFileSync } from 'node:fs';

const CAP_FSETID = 4n;

/** @param procFolder for tests. */
export function keepsSetId(
  caller: { readonly uid: number; readonly pid: number },
  procFolder = '/proc',
): boolean {
  // pid 0: a caller of another pid namespace, of which nobody can tell.
  if (caller.uid !== 0 || caller.pid === 0) return false;
  try {
    const status = readFileSync(`${procFolder}/${caller.pid}/status`, 'latin1');
    const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1];
    return effective !== undefined && ((BigInt(`0x${effective}`) >> CAP_FSETID) & 1n) === 1n;
  } catch {
    return false;
  }
}
