/**
 * Which descriptor of /dev/fuse the client of a mount reads, and which its keeper has.
 *
 * If a client dies, what it had read and not answered must not wait for ever. If the kernel can ask again (NOTIFY_RESEND), the next client
 * makes it do so, and both processes have the same open file. Before Linux 6.9 it cannot. Then the client reads through an open file of
 * its own, and the keeper has a clone (FUSE_DEV_IOC_CLONE): when the client dies, its file closes, and the kernel ends what was read
 * through it with ECONNABORTED. The mount goes on with the clone, and calls that nobody has read wait for the next client.
 *
 * A process that takes a mount over gets the file that the one before reads: what was read through it stays.
 */

import { closeSync } from 'node:fs';
import type { Negotiated } from '../../mount/fuse_mount.js';
import { canAskAgain } from '../../mount/negotiated.js';
import { nativeBinding } from '../../native/binding.js';

/**
 * @param descriptor that the client reads.
 * @param give gets the keeper's descriptor, of which it makes copies in this turn.
 * @throws Error of the system: /dev/fuse cannot be opened.
 */
export function giveToKeeper<T>(
  descriptor: number,
  negotiated: Negotiated,
  give: (descriptor: number) => T,
): T {
  if (canAskAgain(negotiated)) return give(descriptor);
  const clone = nativeBinding().cloneFuse(descriptor);
  try {
    return give(clone);
  } finally {
    closeSync(clone);
  }
}

/** @param kept what a keeper has passed on; it is used up. @returns what the next client is to read. */
export function takenFromKeeper(kept: number, negotiated: Negotiated): number {
  if (canAskAgain(negotiated)) return kept;
  const clone = nativeBinding().cloneFuse(kept);
  closeSync(kept);
  return clone;
}
