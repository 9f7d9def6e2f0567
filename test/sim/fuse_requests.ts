/**
 * What the kernel writes into its requests and reads out of the replies: the other side of src/fuse's codec, written from
 * linux/fuse.h on its own, so that a mistake in one is not a mistake in both.
 */

import type { Attr } from '../../src/base/attr.js';
import type { Fid } from '../../src/base/ids.js';

/** Fields in order: number = u32, bigint = u64, string = with its NUL. */
export type Part = number | bigint | string | Uint8Array;

export function body(...parts: readonly Part[]): Buffer {
  return Buffer.concat(parts.map(partBytes));
}

function partBytes(part: Part): Uint8Array {
  if (typeof part === 'string') return Buffer.from(`${part}\0`, 'latin1');
  if (typeof part === 'object') return part;
  const bytes = Buffer.alloc(typeof part === 'number' ? 4 : 8);
  if (typeof part === 'number') bytes.writeUInt32LE(part >>> 0);
  else bytes.writeBigUInt64LE(BigInt.asUintN(64, part));
  return bytes;
}

export interface Head {
  readonly opcode: number;
  readonly unique: bigint;
  readonly nodeid: number;
  readonly pid: number;
}

export function message(head: Head, content: Uint8Array): Buffer {
  const bytes = Buffer.alloc((40 + content.length + 7) & ~7);
  bytes.writeUInt32LE(40 + content.length, 0);
  bytes.writeUInt32LE(head.opcode, 4);
  bytes.writeBigUInt64LE(head.unique, 8);
  bytes.writeBigUInt64LE(BigInt(head.nodeid), 16);
  bytes.writeUInt32LE(head.pid, 32);
  bytes.set(content, 40);
  return bytes;
}

function u64(bytes: Buffer, at: number): number {
  return Number(bytes.readBigUInt64LE(at));
}

function time(bytes: Buffer, secAt: number, nsecAt: number): { sec: number; nsec: number } {
  return { sec: Number(bytes.readBigInt64LE(secAt)), nsec: bytes.readUInt32LE(nsecAt) };
}

/** struct fuse_attr. */
export function readAttr(bytes: Buffer, at: number): Attr {
  return {
    fid: u64(bytes, at) as Fid,
    sizeBytes: u64(bytes, at + 8),
    blocks: u64(bytes, at + 16),
    atime: time(bytes, at + 24, at + 48),
    mtime: time(bytes, at + 32, at + 52),
    ctime: time(bytes, at + 40, at + 56),
    btime: { sec: 0, nsec: 0 },
    mode: bytes.readUInt32LE(at + 60),
    nlink: bytes.readUInt32LE(at + 64),
    uid: bytes.readUInt32LE(at + 68),
    gid: bytes.readUInt32LE(at + 72),
    rdev: bytes.readUInt32LE(at + 76),
  };
}

function validMs(bytes: Buffer, secAt: number, nsecAt: number): number {
  return u64(bytes, secAt) * 1000 + bytes.readUInt32LE(nsecAt) / 1e6;
}

export interface Entry {
  /** 0: there is no such name. */
  readonly nodeid: number;
  readonly entryValidMs: number;
  readonly attrValidMs: number;
  readonly attr: Attr;
}

/** struct fuse_entry_out. */
export function readEntry(bytes: Buffer, at = 0): Entry {
  return {
    nodeid: u64(bytes, at),
    entryValidMs: validMs(bytes, at + 16, at + 32),
    attrValidMs: validMs(bytes, at + 24, at + 36),
    attr: readAttr(bytes, at + 40),
  };
}

/** struct fuse_attr_out. */
export function readAttrOut(bytes: Buffer): { readonly attr: Attr; readonly attrValidMs: number } {
  return { attrValidMs: validMs(bytes, 0, 8), attr: readAttr(bytes, 16) };
}

/** struct fuse_open_out. */
export function readOpen(bytes: Buffer, at = 0): { readonly fh: number; readonly openFlags: number } {
  return { fh: u64(bytes, at), openFlags: bytes.readUInt32LE(at + 8) };
}

export interface Dirent {
  readonly name: string;
  readonly ino: number;
  readonly type: number;
  readonly offset: number;
  readonly entry: Entry;
}

/** A READDIRPLUS reply. */
export function readDirents(bytes: Buffer): Dirent[] {
  const found: Dirent[] = [];
  for (let at = 0; at + 152 <= bytes.length; ) {
    const dirent = at + 128;
    const nameLength = bytes.readUInt32LE(dirent + 16);
    found.push({
      entry: readEntry(bytes, at),
      ino: u64(bytes, dirent),
      offset: u64(bytes, dirent + 8),
      type: bytes.readUInt32LE(dirent + 20),
      name: bytes.toString('latin1', dirent + 24, dirent + 24 + nameLength),
    });
    at += (152 + nameLength + 7) & ~7;
  }
  return found;
}
