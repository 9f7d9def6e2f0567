/**
 * Encoders of the structs that replies carry. Each writes at an offset where the caller has made room, and returns the
 * number of bytes written. Source: linux/fuse.h; sizes are in constants.ts, and golden bytes in the tests pin them.
 */

import { type Attr, S_IFMT, type Timespec } from '../base/attr.js';
import { LOCK_OFFSET_MAX } from '../base/lock_offset.js';
import { SIZE, STATX_BASIC_STATS_BTIME } from './constants.js';
import type { Writer } from './cursor.js';
import type { AttrOut, EntryOut, LockOut, NegativeEntry, OpenOut, StatfsOut } from './handlers.js';

/**
 * st_blksize. stdio, Python and many other programs read and write in units of it. Without a write-back cache in the
 * kernel each of their writes is one request to us: 4096 would make sixteen times as many as 64 KiB. A far larger unit
 * (NFS and Lustre use 1 MiB and 4 MiB) hurts programs that seek and read small records through stdio.
 */
export const PREFERRED_IO_BYTES = 65536;

const VALID_SEC_MAX = 0xffff_ffff;

function putValid(w: Writer, secAt: number, nsecAt: number, sec: number): void {
  if (sec === 0) {
    w.i64(secAt, 0);
    w.u32(nsecAt, 0);
    return;
  }
  const bounded = Math.min(VALID_SEC_MAX, Math.max(0, sec));
  const whole = Math.floor(bounded);
  w.i64(secAt, whole);
  w.u32(nsecAt, Math.floor((bounded - whole) * 1e9));
}

/** fuse_attr, 88 bytes. */
export function putAttr(w: Writer, at: number, attr: Attr): number {
  w.i64(at, attr.fid);
  w.i64(at + 8, attr.sizeBytes);
  w.i64(at + 16, attr.blocks);
  w.i64(at + 24, attr.atime.sec);
  w.i64(at + 32, attr.mtime.sec);
  w.i64(at + 40, attr.ctime.sec);
  w.u32(at + 48, attr.atime.nsec);
  w.u32(at + 52, attr.mtime.nsec);
  w.u32(at + 56, attr.ctime.nsec);
  w.u32(at + 60, attr.mode);
  w.u32(at + 64, attr.nlink);
  w.u32(at + 68, attr.uid);
  w.u32(at + 72, attr.gid);
  w.u32(at + 76, attr.rdev);
  w.u32(at + 80, PREFERRED_IO_BYTES);
  w.u32(at + 84, 0); // flags: SUBMOUNT and DAX do not apply
  return SIZE.ATTR;
}

/** fuse_entry_out, 128 bytes. */
export function putEntry(w: Writer, at: number, entry: EntryOut): number {
  w.i64(at, entry.attr.fid);
  w.i64(at + 8, entry.generation);
  putValid(w, at + 16, at + 32, entry.entryValidSec);
  putValid(w, at + 24, at + 36, entry.attrValidSec);
  putAttr(w, at + 40, entry.attr);
  return SIZE.ENTRY_OUT;
}

/** fuse_entry_out with nodeid 0: the kernel keeps a negative dentry for entryValidSec. */
export function putNegativeEntry(w: Writer, at: number, entry: NegativeEntry): number {
  w.zero(at, SIZE.ENTRY_OUT);
  putValid(w, at + 16, at + 32, entry.entryValidSec);
  return SIZE.ENTRY_OUT;
}

/** fuse_attr_out, 104 bytes. */
export function putAttrOut(w: Writer, at: number, out: AttrOut): number {
  putValid(w, at, at + 8, out.attrValidSec);
  w.u32(at + 12, 0);
  putAttr(w, at + 16, out.attr);
  return SIZE.ATTR_OUT;
}

/** fuse_open_out, 16 bytes. */
export function putOpen(w: Writer, at: number, open: OpenOut): number {
  w.i64(at, open.fh);
  w.u32(at + 8, open.openFlags);
  w.u32(at + 12, 0); // backing_id: passthrough only
  return SIZE.OPEN_OUT;
}

/** fuse_entry_out and fuse_open_out: the answer to CREATE and TMPFILE. */
export function putCreate(w: Writer, at: number, out: EntryOut & OpenOut): number {
  putEntry(w, at, out);
  putOpen(w, at + SIZE.ENTRY_OUT, out);
  return SIZE.ENTRY_OUT + SIZE.OPEN_OUT;
}

/** fuse_write_out, 8 bytes. */
export function putWrite(w: Writer, at: number, sizeBytes: number): number {
  w.u32(at, sizeBytes);
  w.u32(at + 4, 0);
  return SIZE.WRITE_OUT;
}

/** fuse_lseek_out and fuse_copy_file_range_out: one u64. */
export function putU64(w: Writer, at: number, value: number): number {
  w.i64(at, value);
  return 8;
}

/** fuse_statfs_out (fuse_kstatfs), 80 bytes. */
export function putStatfs(w: Writer, at: number, out: StatfsOut): number {
  w.zero(at, SIZE.STATFS_OUT);
  w.i64(at, out.blocks);
  w.i64(at + 8, out.blocksFree);
  w.i64(at + 16, out.blocksAvailable);
  w.i64(at + 24, out.inodes);
  w.i64(at + 32, out.inodesFree);
  w.u32(at + 40, out.blockBytes);
  w.u32(at + 44, out.nameMax);
  // f_frsize is the unit of the counts. f_bsize has the same value, because half of all programs multiply by f_bsize.
  w.u32(at + 48, out.blockBytes);
  return SIZE.STATFS_OUT;
}

const LOCK_TYPE = { read: 0, write: 1, unlock: 2 } as const;

/** fuse_lk_out (fuse_file_lock), 24 bytes; the kernel's ends are inclusive, and 2^63-1 means "to the end of the file". */
export function putLock(w: Writer, at: number, lock: LockOut): number {
  w.bigI64(at, BigInt(lock.start));
  w.bigI64(at + 8, lock.end === undefined ? LOCK_OFFSET_MAX : BigInt(lock.end) - 1n);
  w.u32(at + 16, LOCK_TYPE[lock.type]);
  w.u32(at + 20, lock.pid);
  return SIZE.LK_OUT;
}

function putStatxTime(w: Writer, at: number, time: Timespec): void {
  w.i64(at, time.sec);
  w.u32(at + 8, time.nsec);
  w.u32(at + 12, 0);
}

/** fuse_statx_out, 288 bytes: validity, flags, spare and a struct statx as in statx(2). */
export function putStatx(w: Writer, at: number, out: AttrOut): number {
  const { attr } = out;
  w.zero(at, SIZE.STATX_OUT);
  putValid(w, at, at + 8, out.attrValidSec);
  const sx = at + 32;
  w.u32(sx, STATX_BASIC_STATS_BTIME);
  w.u32(sx + 4, PREFERRED_IO_BYTES);
  w.u32(sx + 16, attr.nlink);
  w.u32(sx + 20, attr.uid);
  w.u32(sx + 24, attr.gid);
  w.u16(sx + 28, attr.mode);
  w.i64(sx + 32, attr.fid);
  w.i64(sx + 40, attr.sizeBytes);
  w.i64(sx + 48, attr.blocks);
  putStatxTime(w, sx + 64, attr.atime);
  putStatxTime(w, sx + 80, attr.btime);
  putStatxTime(w, sx + 96, attr.ctime);
  putStatxTime(w, sx + 112, attr.mtime);
  // attr.rdev has new_encode_dev's form: minor in bits 0-7 and 20-31, major in bits 8-19.
  w.u32(sx + 128, (attr.rdev >>> 8) & 0xfff);
  w.u32(sx + 132, (attr.rdev & 0xff) | ((attr.rdev >>> 12) & 0xfff00));
  return SIZE.STATX_OUT;
}

/** fuse_dirent.type from S_IFMT bits, as readdir(3)'s d_type. */
export function direntType(mode: number): number {
  return (mode & S_IFMT) >>> 12;
}
