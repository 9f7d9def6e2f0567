/** Attributes of an inode, in the form that the wire, the store and the kernel codec share. */

import type { Fid } from './ids.js';

/** Seconds since the epoch (may be negative) and nanoseconds 0..999999999. */
export interface Timespec {
  readonly sec: number;
  readonly nsec: number;
}

export interface Attr {
  readonly fid: Fid;
  /** Type and permission bits, as st_mode. */
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  /** Device number of a device node, kernel encoding (new_encode_dev); else 0. */
  readonly rdev: number;
  readonly sizeBytes: number;
  /** 512-byte units, as st_blocks. */
  readonly blocks: number;
  readonly atime: Timespec;
  readonly mtime: Timespec;
  readonly ctime: Timespec;
  readonly btime: Timespec;
  /** true: it has no extended attributes, so nobody need ask for one. Undefined: it may have some. */
  readonly noXattrs?: true | undefined;
}

/** A block in st_blocks units. */
export const SECTORS_PER_BLOCK = 8;

/**
 * st_blocks of data that is in a client's cache and not yet in the store. That client and the server show the same
 * value. It is never 0 for a file with data: archivers would take the file for a hole.
 */
export function blocksOfUnwritten(lengthBytes: number): number {
  return Math.ceil(lengthBytes / 4096) * SECTORS_PER_BLOCK;
}

/** st_blocks as every machine shows it: content stored with the metadata counts as one block. */
export function shownBlocks(blocks: number): number {
  return Math.ceil(blocks / SECTORS_PER_BLOCK) * SECTORS_PER_BLOCK;
}

export const S_IFMT = 0o170000;
export const S_IFSOCK = 0o140000;
export const S_IFLNK = 0o120000;
export const S_IFREG = 0o100000;
export const S_IFBLK = 0o060000;
export const S_IFDIR = 0o040000;
export const S_IFCHR = 0o020000;
export const S_IFIFO = 0o010000;
export const S_ISUID = 0o4000;
export const S_ISGID = 0o2000;
export const S_ISVTX = 0o1000;
export const SET_ID_BITS = S_ISUID | S_ISGID;

export function isDir(mode: number): boolean {
  return (mode & S_IFMT) === S_IFDIR;
}
export function isRegular(mode: number): boolean {
  return (mode & S_IFMT) === S_IFREG;
}
export function isSymlink(mode: number): boolean {
  return (mode & S_IFMT) === S_IFLNK;
}

/** Negative, 0 or positive, as a is before, at or after b. */
export function compareTime(a: Timespec, b: Timespec): number {
  return a.sec - b.sec || a.nsec - b.nsec;
}

/** open(2) flags, x86-64 and arm64 generic values. The kernel strips O_CREAT, O_EXCL and O_NOCTTY before OPEN. */
export const O_ACCMODE = 0o3;
export const O_WRONLY = 0o1;
export const O_RDWR = 0o2;
export const O_EXCL = 0o200;
export const O_TRUNC = 0o1000;
export const O_APPEND = 0o2000;
export const O_DIRECT = 0o40000;

/** Whether a handle opened with these flags may change data. */
export function opensForWrite(flags: number): boolean {
  return (flags & O_ACCMODE) !== 0;
}

/** What a handle allows: bits. */
export const ACCESS_READ = 1;
export const ACCESS_WRITE = 2;
/** open(2): the handle names the inode, and nothing more. */
export const O_PATH = 0o10000000;

export function accessOf(flags: number): number {
  if ((flags & O_PATH) !== 0) return 0;
  switch (flags & O_ACCMODE) {
    case 0:
      return ACCESS_READ;
    case O_WRONLY:
      return ACCESS_WRITE;
    default:
      // 3 is a mode of old drivers, for which open(2) checks both.
      return ACCESS_READ | ACCESS_WRITE;
  }
}
