/**
 * Decoders of the structs that follow fuse_in_header in requests. Each reads its fields in order from a cursor at the
 * start of the body; their names follow the struct. Source: linux/fuse.h.
 *
 * Offsets and lengths of 2^53 and above fail with the errno that the system call documents for "too large": our files
 * cannot have them.
 */

import { FsError } from '../base/errno.js';
import {
  F_RDLCK,
  F_UNLCK,
  F_WRLCK,
  FATTR,
  LK_FLOCK,
  READ_LOCKOWNER,
  WRITE_CACHE,
  WRITE_KILL_SUIDGID,
} from './constants.js';
import type { Cursor } from './cursor.js';
import type { LockIn, ReadIn, ReleaseIn, SetattrIn, WriteIn } from './handlers.js';

const HALF_2_32 = 0x1_0000_0000;

/** fuse_setattr_in, 88 bytes: valid, fh, size, lock_owner, three times, their nanoseconds, mode, uid, gid. */
export function readSetattr(c: Cursor): SetattrIn {
  const valid = c.u32();
  c.skip(4);
  const fh = fieldIf(c, valid & FATTR.FH, readU64);
  const sizeBytes = fieldIf(c, valid & FATTR.SIZE, readFileSize);
  c.skip(8); // lock_owner: for mandatory locks, which Linux no longer has
  const atimeSec = fieldIf(c, valid & FATTR.ATIME, readS64);
  const mtimeSec = fieldIf(c, valid & FATTR.MTIME, readS64);
  const ctimeSec = fieldIf(c, valid & FATTR.CTIME, readS64);
  const atimeNsec = c.u32();
  const mtimeNsec = c.u32();
  const ctimeNsec = c.u32();
  const mode = c.u32();
  c.skip(4);
  const uid = c.u32();
  const gid = c.u32();
  c.skip(4);
  return {
    fh,
    sizeBytes,
    mode: (valid & FATTR.MODE) !== 0 ? mode : undefined,
    uid: (valid & FATTR.UID) !== 0 ? uid : undefined,
    gid: (valid & FATTR.GID) !== 0 ? gid : undefined,
    atime: setTime(valid & FATTR.ATIME_NOW, atimeSec, atimeNsec),
    mtime: setTime(valid & FATTR.MTIME_NOW, mtimeSec, mtimeNsec),
    ctime: ctimeSec === undefined ? undefined : { sec: ctimeSec, nsec: ctimeNsec },
    killSuidgid: (valid & FATTR.KILL_SUIDGID) !== 0,
  };
}

/** A field that the kernel did not declare valid may hold anything, so it is not even range-checked. */
function fieldIf(c: Cursor, present: number, read: (c: Cursor) => number): number | undefined {
  if (present !== 0) return read(c);
  c.skip(8);
  return undefined;
}
const readU64 = (c: Cursor): number => c.u64();
const readFileSize = (c: Cursor): number => c.u64('EFBIG');
const readS64 = (c: Cursor): number => c.s64();

function setTime(now: number, sec: number | undefined, nsec: number): SetattrIn['atime'] {
  if (now !== 0) return 'now';
  return sec === undefined ? undefined : { sec, nsec };
}

/** fuse_read_in, 40 bytes: fh, offset, size, read_flags, lock_owner, flags. Used by READDIR too. */
export function readRead(c: Cursor): ReadIn {
  const fh = c.u64();
  // The offset is clamped, not refused: a read beyond every possible file is just a read beyond its end.
  const offset = c.u64Clamped();
  const sizeBytes = c.u32();
  const direct = (c.u32() & READ_LOCKOWNER) !== 0;
  c.skip(8);
  const flags = c.u32();
  c.skip(4);
  return { fh, offset, sizeBytes, flags, direct };
}

/** fuse_write_in, 40 bytes: fh, offset, size, write_flags, lock_owner, flags; the data follows. */
export function readWrite(c: Cursor): WriteIn {
  const fh = c.u64();
  const offset = c.u64('EFBIG');
  const sizeBytes = c.u32();
  const writeFlags = c.u32();
  c.skip(8);
  const flags = c.u32();
  c.skip(4);
  return {
    fh,
    offset,
    data: c.take(sizeBytes),
    flags,
    writeback: (writeFlags & WRITE_CACHE) !== 0,
    killSuidgid: (writeFlags & WRITE_KILL_SUIDGID) !== 0,
  };
}

/** fuse_release_in, 24 bytes: fh, flags, release_flags, lock_owner. */
export function readRelease(c: Cursor): ReleaseIn {
  const fh = c.u64();
  const flags = c.u32();
  const releaseFlags = c.u32();
  return { fh, flags, owner: c.hex64(), flockUnlock: (releaseFlags & 2) !== 0 };
}

/**
 * fuse_lk_in, 48 bytes: fh, owner, start, end (inclusive), type, pid, lk_flags. An end of OFFSET_MAX means "to the end
 * of the file". In the kernel neither exceeds it, because loff_t is signed.
 */
export function readLock(c: Cursor, wait: boolean): LockIn {
  const fh = c.u64();
  const owner = c.hex64();
  const start = c.lockOffset();
  const end = c.lockEnd();
  const type = c.u32();
  const pid = c.u32();
  const lkFlags = c.u32();
  c.skip(4);
  if (end !== undefined && end <= start) throw new FsError('EINVAL', 'lock range ends before it starts');
  return {
    fh,
    owner,
    type: lockType(type),
    start,
    end,
    pid,
    flock: (lkFlags & LK_FLOCK) !== 0,
    wait,
  };
}

function lockType(type: number): LockIn['type'] {
  if (type === F_RDLCK) return 'read';
  if (type === F_WRLCK) return 'write';
  if (type === F_UNLCK) return 'unlock';
  throw new FsError('EINVAL', `lock type ${type}`);
}

export interface CopyRangeIn {
  readonly fhIn: number;
  readonly offsetIn: number;
  readonly nodeidOut: number;
  readonly fhOut: number;
  readonly offsetOut: number;
  readonly length: number;
}

/** fuse_copy_file_range_in, 56 bytes; no flags are defined so far. */
export function readCopyRange(c: Cursor): CopyRangeIn {
  const fhIn = c.u64();
  const offsetIn = c.u64Clamped();
  const nodeidOut = c.u64();
  const fhOut = c.u64();
  const offsetOut = c.u64('EFBIG');
  const length = c.u64Clamped();
  const flags = c.u64();
  if (flags !== 0) throw new FsError('EINVAL', `copy_file_range flags ${flags}`);
  return { fhIn, offsetIn, nodeidOut, fhOut, offsetOut, length };
}

/** unique as exact text, for logs. */
export function uniqueText(high: number, low: number): string {
  return high < 0x20_0000
    ? String(high * HALF_2_32 + low)
    : `0x${high.toString(16)}${low.toString(16).padStart(8, '0')}`;
}
