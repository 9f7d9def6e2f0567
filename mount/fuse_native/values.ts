/** Between the values of handlers and those of fuse-native: stats in small numbers, times in milliseconds, text for bytes. */

import type { Attr, Timespec } from '../../src/base/attr.js';
import { ERRNO } from '../../src/base/errno.js';
import type { StatfsOut } from '../../src/fuse/handlers.js';
import { PREFERRED_IO_BYTES } from '../../src/fuse/structs_out.js';

export const TWO_32 = 0x1_0000_0000;

/** Text that came from bytes in UTF-8, as one unit a byte. */
export function latin1(text: string): string {
  return Buffer.from(text, 'utf8').toString('latin1');
}

/** Puts an answer where libfuse wants it: its size, -ERANGE when it does not fit; no room at all asks for the size. */
export function fill(target: Buffer, value: Uint8Array): number {
  if (target.length === 0) return value.length;
  if (value.length > target.length) return -ERRNO.ERANGE;
  target.set(value);
  return value.length;
}

/** What fuse-native makes of a stat: unsigned 32-bit numbers, sizes and times in two of them. */
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
    // Cut to what fits: numbers differ from those that other clients see when there are more than 2^32 files.
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

/** Times before 1970 would come out as far future. */
function msOfTime(time: Timespec): number {
  return Math.max(0, time.sec * 1000 + Math.floor(time.nsec / 1e6));
}

export function timeOfMs(ms: number): Timespec {
  return { sec: Math.floor(ms / 1000), nsec: (ms % 1000) * 1e6 };
}

/** Counts are 32 bits wide there: a large target is told in larger blocks. */
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
