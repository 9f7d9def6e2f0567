/**
 * The limits of a file, each defined only here: the client refuses, in the system call, what the store could not keep.
 *
 * A FUSE filesystem cannot tell Linux its largest file size (INIT has no field for it), so the kernel passes on sizes
 * up to 2^63 - 1.
 */

import type { Timespec } from './attr.js';
import { FsError } from './errno.js';

/** The largest file: keys and sizes stay safe integers with room to spare. */
export const FILE_MAX_BYTES = 2 ** 52;

/** @throws FsError EFBIG */
export function checkFileEnd(endBytes: number): void {
  if (endBytes > FILE_MAX_BYTES) throw new FsError('EFBIG', `a file of more than ${FILE_MAX_BYTES} bytes`);
}

/** The range of ext4 with 256-byte inodes: 1901-12-13 to 2446-05-10. */
const TIME_MIN_SEC = -(2 ** 31);
const TIME_MAX_SEC = 2 ** 34 - 2 ** 31 - 1;

/**
 * A time beyond a limit becomes that limit, without nanoseconds, as on every local filesystem (timestamp_truncate in
 * Linux).
 */
export function clampTime(time: Timespec): Timespec {
  if (time.sec > TIME_MIN_SEC && time.sec < TIME_MAX_SEC) return time;
  return { sec: Math.min(Math.max(time.sec, TIME_MIN_SEC), TIME_MAX_SEC), nsec: 0 };
}
