/**
 * Converts between the values of handlers and those of fuse-native: stats in 32-bit numbers, times in milliseconds,
 * text for bytes.
 */

import type { Attr, Timespec } from '../../src/base/attr.js';
import { ERRNO } from '../../src/base/errno.js';
import type { StatfsOut } from '../../src/fuse/handlers.js';
import { PREFERRED_IO_BYTES } from '../../src/fuse/structs_out.js';

export const TWO_32 = 0x1_0000_0000;

/** Turns text that came from UTF-8 bytes into a string with one unit for each byte. */
export function latin1(text: string): string {
  return Buffer.from(text, 'utf8').toString('latin1');
}

/**
 * Puts an answer into libfuse's buffer. @returns its size, or -ERANGE if it does not fit; with an empty buffer only the
 * size.
 */
export function fill(target: Buffer, value: Uint8Array): number {
  if (target.length === 0) return value.length;
  if (value.length > target.length) return -ERRNO.ERANGE;
  target.set(value);
  return value.length;
}

/** A stat as fuse-native encodes it: unsigned 32-bit numbers, sizes and times in two of them. */
export const NO_STAT = {
  mode: 0,
  ino: 0,
  nlink: 1,
  uid: 0,
  gid: 0,
  size: 0,
  rdev: 0,
  blksize: 0,
  blocks: 0,
  atime: 0,
  mtime: 0,
  ctime: 0,
};

export function statOf(attr: Attr): typeof NO_STAT {
  return {
    mode: attr.mode,
    // Cut to 32 bits: if there are more than 2^32 files, numbers differ from those that other clients see.
    ino: attr.fid % TWO_32,
    nlink: attr.nlink,
    uid: attr.uid,
    gid: attr.gid,
    size: attr.sizeBytes,
    rdev: attr.rdev,
    blksize: PREFERRED_IO_BYTES,
    blocks: attr.blocks,
    atime: msOfTime(attr.atime),
    mtime: msOfTime(attr.mtime),
    ctime: msOfTime(attr.ctime),
  };
}

/** Times before 1970 become 1970: fuse-native would show them as far in the future. */
function msOfTime(time: Timespec): number {
  return Math.max(0, time.sec * 1000 + Math.floor(time.nsec / 1e6));
}

export function timeOfMs(ms: number): Timespec {
  return { sec: Math.floor(ms / 1000), nsec: (ms % 1000) * 1e6 };
}

/** Counts have 32 bits there, so a large target is shown in larger blocks. */
export function statvfsOf(out: StatfsOut): Record<string, number> {
  let scale = 1;
  while (out.blocks / scale >= TWO_32) scale *= 2;
  const cut = (count: number): number => Math.min(count, TWO_32 - 1);
  return {
    bsize: out.blockBytes * scale,
    frsize: out.blockBytes * scale,
    blocks: Math.floor(out.blocks / scale),
    bfree: Math.floor(out.blocksFree / scale),
    bavail: Math.floor(out.blocksAvailable / scale),
    files: cut(out.inodes),
    ffree: cut(out.inodesFree),
    favail: cut(out.inodesFree),
    namemax: out.nameMax,
  };
}
