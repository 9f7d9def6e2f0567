/**
 * Values of the meta device's database: fixed little-endian layouts, each with a version byte first. The code here
 * encodes and decodes them by hand. Golden bytes: test/unit/storage/format/records.test.ts. Tables: docs/ONDISK.md.
 *
 * The caller gives a decoder views of memory that lmdb uses again; the result holds copies only. A record of an unknown
 * version or of a wrong length is damaged: FsError EIO that names the record.
 */

import type { Timespec } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { ClientUuid, Fid, Name, Transno, Xid } from '../../base/ids.js';
import {
  type ClientRecord,
  type Dirent,
  type Inode,
  type NumberedEviction,
  PRINCIPAL_BYTES_MAX,
  type ReplyRecord,
  TICKET_SECRET_BYTES,
} from '../api.js';

const VERSION = 1;
const SPAN_32 = 2 ** 32;

export function damaged(what: string): FsError {
  return new FsError('EIO', `damaged record on the meta device: ${what}`);
}

function check(value: Buffer, minBytes: number, what: string): void {
  if (value.length < minBytes || value[0] !== VERSION) throw damaged(what);
}

export function putU64(target: Buffer, value: number, at: number): void {
  target.writeUInt32LE(value % SPAN_32, at);
  target.writeUInt32LE(Math.floor(value / SPAN_32), at + 4);
}
export function getU64(source: Buffer, at: number): number {
  return source.readUInt32LE(at) + source.readUInt32LE(at + 4) * SPAN_32;
}
function putI64(target: Buffer, value: number, at: number): void {
  const high = Math.floor(value / SPAN_32);
  target.writeUInt32LE(value - high * SPAN_32, at);
  target.writeInt32LE(high, at + 4);
}
function getI64(source: Buffer, at: number): number {
  return source.readUInt32LE(at) + source.readInt32LE(at + 4) * SPAN_32;
}

/** ticket secret, 33 bytes: 0 u8 version, 1 32 bytes. */
const TICKET_SECRET_RECORD_BYTES = 1 + TICKET_SECRET_BYTES;

export function encodeTicketSecret(secret: Uint8Array): Buffer {
  if (secret.length !== TICKET_SECRET_BYTES) {
    throw new FsError('EINVAL', `a ticket secret of ${secret.length} bytes`);
  }
  return Buffer.concat([Buffer.from([VERSION]), secret]);
}
export function decodeTicketSecret(value: Buffer): Buffer {
  check(value, TICKET_SECRET_RECORD_BYTES, 'ticket secret');
  if (value.length !== TICKET_SECRET_RECORD_BYTES) throw damaged('ticket secret');
  return Buffer.from(value.subarray(1));
}

/**
 * inode, 96 bytes: 0 u8 version, 1 u8 flags (1: no extended attributes), 4 u32 mode, 8 u32 nlink, 12 u32 uid, 16 u32 gid,
 * 20 u32 rdev, 24 u64 size, 32 u64 blocks, 40 u64 parent, 48 i64 x4 atime mtime ctime btime seconds, 80 u32 x4 their nanoseconds. With a digest
 * 100 bytes: 96 u32 digest.
 */
export const INODE_BYTES = 96;
/** Of the flags. Releases that do not know it write 0 with each change: the inode may have some. */
const NO_XATTRS = 1;
const INODE_DIGEST_BYTES = 100;

export function inodeBytes(inode: Inode): number {
  return inode.digest === undefined ? INODE_BYTES : INODE_DIGEST_BYTES;
}
export function isInodeLength(lengthBytes: number): boolean {
  return lengthBytes === INODE_BYTES || lengthBytes === INODE_DIGEST_BYTES;
}

/** @param target has inodeBytes() bytes. */
export function encodeInode(inode: Inode, target: Buffer): void {
  target.writeUInt32LE(VERSION | (inode.noXattrs === true ? NO_XATTRS << 8 : 0), 0);
  target.writeUInt32LE(inode.mode, 4);
  target.writeUInt32LE(inode.nlink, 8);
  target.writeUInt32LE(inode.uid, 12);
  target.writeUInt32LE(inode.gid, 16);
  target.writeUInt32LE(inode.rdev, 20);
  putU64(target, inode.sizeBytes, 24);
  putU64(target, inode.blocks, 32);
  putU64(target, inode.parent, 40);
  putI64(target, inode.atime.sec, 48);
  putI64(target, inode.mtime.sec, 56);
  putI64(target, inode.ctime.sec, 64);
  putI64(target, inode.btime.sec, 72);
  target.writeUInt32LE(inode.atime.nsec, 80);
  target.writeUInt32LE(inode.mtime.nsec, 84);
  target.writeUInt32LE(inode.ctime.nsec, 88);
  target.writeUInt32LE(inode.btime.nsec, 92);
  if (inode.digest !== undefined) target.writeUInt32LE(inode.digest, INODE_BYTES);
}

export function encodedInode(inode: Inode): Buffer {
  const value = Buffer.alloc(inodeBytes(inode));
  encodeInode(inode, value);
  return value;
}

function timeAt(value: Buffer, index: number): Timespec {
  return { sec: getI64(value, 48 + 8 * index), nsec: value.readUInt32LE(80 + 4 * index) };
}

export function decodeInode(fid: Fid, value: Buffer): Inode {
  check(value, INODE_BYTES, `inode ${fid}`);
  return {
    fid,
    mode: value.readUInt32LE(4),
    nlink: value.readUInt32LE(8),
    uid: value.readUInt32LE(12),
    gid: value.readUInt32LE(16),
    rdev: value.readUInt32LE(20),
    sizeBytes: getU64(value, 24),
    blocks: getU64(value, 32),
    parent: getU64(value, 40) as Fid | 0,
    atime: timeAt(value, 0),
    mtime: timeAt(value, 1),
    ctime: timeAt(value, 2),
    btime: timeAt(value, 3),
    noXattrs: ((value[1] as number) & NO_XATTRS) !== 0 ? true : undefined,
    digest: value.length === INODE_DIGEST_BYTES ? value.readUInt32LE(INODE_BYTES) : undefined,
  };
}

/** dirent by name, 18 bytes: 0 u8 version, 1 u8 type (S_IFMT >> 12), 2 u64 fid, 10 u64 cookie. */
export const DIRENT_BY_NAME_BYTES = 18;

export function encodeDirentByName(dirent: Dirent, target: Buffer): void {
  target[0] = VERSION;
  target[1] = dirent.type >>> 12;
  putU64(target, dirent.fid, 2);
  putU64(target, dirent.cookie, 10);
}
export function decodeDirentByName(name: Name, value: Buffer): Dirent {
  check(value, DIRENT_BY_NAME_BYTES, `directory entry ${JSON.stringify(name)}`);
  return {
    name,
    fid: getU64(value, 2) as Fid,
    type: (value[1] ?? 0) << 12,
    cookie: getU64(value, 10),
  };
}

/** dirent by cookie: 0 u8 version, 1 u8 type, 2 u64 fid, 10 name bytes. */
export const DIRENT_BY_COOKIE_HEADER = 10;

export function encodeDirentByCookie(dirent: Dirent, target: Buffer): void {
  target[0] = VERSION;
  target[1] = dirent.type >>> 12;
  putU64(target, dirent.fid, 2);
  target.write(dirent.name, DIRENT_BY_COOKIE_HEADER, 'latin1');
}
export function decodeDirentByCookie(cookie: number, value: Buffer): Dirent {
  check(value, DIRENT_BY_COOKIE_HEADER + 1, `directory entry at ${cookie}`);
  return {
    name: value.toString('latin1', DIRENT_BY_COOKIE_HEADER, value.length) as Name,
    fid: getU64(value, 2) as Fid,
    type: (value[1] ?? 0) << 12,
    cookie,
  };
}

/** xattr value and symlink target: 0 u8 version, 1 bytes. */
export function encodeBytes(bytes: Uint8Array, target: Buffer): void {
  target[0] = VERSION;
  target.set(bytes, 1);
}
export function decodeBytes(value: Buffer, what: string): Buffer {
  check(value, 1, what);
  return Buffer.from(value.subarray(1, value.length));
}

/** inline data: 0 u8 version, 4 u32 CRC-32C of the bytes, 8 the bytes (all of the file). */
export const INLINE_HEADER = 8;

export function encodeInline(bytes: Uint8Array, crc: number, target: Buffer): void {
  target.writeUInt32LE(VERSION, 0);
  target.writeUInt32LE(crc, 4);
  target.set(bytes, INLINE_HEADER);
}
export function decodeInline(fid: Fid, value: Buffer): { readonly bytes: Buffer; readonly crc: number } {
  check(value, INLINE_HEADER, `inline data of ${fid}`);
  return { bytes: Buffer.from(value.subarray(INLINE_HEADER, value.length)), crc: value.readUInt32LE(4) };
}

/**
 * client: 0 u8 version, 1 u64 last transno, 9 u64 reserved (0), 17 u16 length and UTF-8 name, then u16 length and UTF-8
 * software version, then u16 length and ASCII secret, then u16 length and ASCII principal. Records of earlier releases end
 * before the secret or before the principal; those releases ignore what they do not know.
 *
 * An empty secret stands for none, to keep the place of a principal behind it. Builds that know secrets and no principals
 * take an empty secret for one that no client has. So it is only written if the principal is of an entry of the access
 * table: then FEATURE_ACCESS keeps these builds off the target.
 */
export function encodeClient(record: ClientRecord): Buffer {
  const name = Buffer.from(record.name, 'utf8');
  const version = Buffer.from(record.softwareVersion, 'utf8');
  const secret = Buffer.from(record.secret ?? '', 'latin1');
  const principal = Buffer.from(record.principal ?? '', 'latin1');
  const isOfTable = /^(key|certificate):/.test(record.principal ?? '');
  const fields = [name, version];
  if (secret.length > 0 || isOfTable) fields.push(secret);
  if (principal.length > 0 && fields.length > 2) fields.push(principal);
  const value = Buffer.alloc(fields.reduce((sum, { length }) => sum + 2 + length, 17));
  value[0] = VERSION;
  putU64(value, record.lastTransno, 1);
  let at = 17;
  for (const field of fields) {
    value.writeUInt16LE(field.length, at);
    value.set(field, at + 2);
    at += 2 + field.length;
  }
  return value;
}
export function decodeClient(uuid: ClientUuid, value: Buffer): ClientRecord {
  check(value, 21, `client ${uuid}`);
  let at = 17;
  const next = (encoding: 'utf8' | 'latin1'): string => {
    const end = value.length < at + 2 ? Number.POSITIVE_INFINITY : at + 2 + value.readUInt16LE(at);
    if (value.length < end) throw damaged(`client ${uuid}`);
    const text = value.toString(encoding, at + 2, end);
    at = end;
    return text;
  };
  const optional = (): string | undefined => (value.length === at ? undefined : next('latin1') || undefined);
  const name = next('utf8');
  const softwareVersion = next('utf8');
  const secret = optional();
  const principal = optional();
  if ((principal?.length ?? 0) > PRINCIPAL_BYTES_MAX) throw damaged(`client ${uuid}`);
  return { uuid, secret, lastTransno: getU64(value, 1) as Transno, name, softwareVersion, principal };
}

/** reply, 40 bytes: 0 u8 version, 2 u16 opcode, 8 u64 xid, 16 u64 transno, 24 u64 fid, 32 u64 copied. */
export const REPLY_BYTES = 40;

export function encodeReply(reply: ReplyRecord, target: Buffer): void {
  target.fill(0, 0, 8);
  target[0] = VERSION;
  target.writeUInt16LE(reply.opcode, 2);
  putU64(target, reply.xid, 8);
  putU64(target, reply.transno, 16);
  putU64(target, reply.fid, 24);
  putU64(target, reply.copiedBytes, 32);
}
export function decodeReply(what: string, value: Buffer): ReplyRecord {
  check(value, REPLY_BYTES, what);
  return {
    opcode: value.readUInt16LE(2),
    xid: getU64(value, 8) as Xid,
    transno: getU64(value, 16) as Transno,
    fid: getU64(value, 24) as Fid | 0,
    copiedBytes: getU64(value, 32),
  };
}

/**
 * eviction: 0 u8 version, 1 u8 1 if it is known what the client had, 4 u32 instance, 8 u64 number, 16 u64 milliseconds
 * since 1970, 24 uuid, 40 u32 opens, 44 u32 locks, 48 u64 dirty bytes, 56 u16 length and UTF-8 name, then u16 length and
 * UTF-8 reason.
 */
const EVICTION_HEADER = 56;

export function encodeEviction(record: NumberedEviction): Buffer {
  const name = Buffer.from(record.name, 'utf8');
  const reason = Buffer.from(record.reason, 'utf8');
  const { opens, locks, dirtyBytes } = record.had ?? { opens: 0, locks: 0, dirtyBytes: 0 };
  const value = Buffer.alloc(EVICTION_HEADER + 4 + name.length + reason.length);
  value[0] = VERSION;
  value[1] = record.had === undefined ? 0 : 1;
  value.writeUInt32LE(record.instance, 4);
  putU64(value, record.number, 8);
  putU64(value, record.atMs, 16);
  value.set(uuidBytes(record.uuid), 24);
  value.writeUInt32LE(opens, 40);
  value.writeUInt32LE(locks, 44);
  putU64(value, dirtyBytes, 48);
  value.writeUInt16LE(name.length, EVICTION_HEADER);
  value.set(name, EVICTION_HEADER + 2);
  const reasonAt = EVICTION_HEADER + 2 + name.length;
  value.writeUInt16LE(reason.length, reasonAt);
  value.set(reason, reasonAt + 2);
  return value;
}
export function decodeEviction(what: string, value: Buffer): NumberedEviction {
  check(value, EVICTION_HEADER + 4, what);
  const nameEnd = EVICTION_HEADER + 2 + value.readUInt16LE(EVICTION_HEADER);
  if (value.length < nameEnd + 2) throw damaged(what);
  const reasonEnd = nameEnd + 2 + value.readUInt16LE(nameEnd);
  if (value.length < reasonEnd) throw damaged(what);
  const had = {
    opens: value.readUInt32LE(40),
    locks: value.readUInt32LE(44),
    dirtyBytes: getU64(value, 48),
  };
  return {
    number: getU64(value, 8),
    instance: value.readUInt32LE(4),
    atMs: getU64(value, 16),
    uuid: uuidFromBytes(value.subarray(24, 40)) as ClientUuid,
    name: value.toString('utf8', EVICTION_HEADER + 2, nameEnd),
    reason: value.toString('utf8', nameEnd + 2, reasonEnd),
    had: value[1] === 1 ? had : undefined,
  };
}

export function uuidBytes(uuid: string): Buffer {
  return Buffer.from(uuid.replaceAll('-', ''), 'hex');
}
export function uuidFromBytes(bytes: Buffer): string {
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

/**
 * The counters of a target, rewritten in each transaction. On an unclean target next* are above every number handed
 * out, because the overlay writes them ahead of use (see Overlay).
 */
export interface Counters {
  readonly lastTransno: Transno;
  readonly nextObject: number;
  readonly nextCookie: number;
  readonly inodes: number;
}
/** counters, 40 bytes: 0 u8 version, 8 u64 last transno, 16 u64 next object, 24 u64 next cookie, 32 u64 inodes. */
export const COUNTERS_BYTES = 40;

export function encodeCounters(counters: Counters, target: Buffer): void {
  target.fill(0, 0, 8);
  target[0] = VERSION;
  putU64(target, counters.lastTransno, 8);
  putU64(target, counters.nextObject, 16);
  putU64(target, counters.nextCookie, 24);
  putU64(target, counters.inodes, 32);
}
export function decodeCounters(value: Buffer): Counters {
  check(value, COUNTERS_BYTES, 'counters');
  return {
    lastTransno: getU64(value, 8) as Transno,
    nextObject: getU64(value, 16),
    nextCookie: getU64(value, 24),
    inodes: getU64(value, 32),
  };
}

/** orphan, doomed: the version byte alone; the key says it all. */
export const MARK_RECORD = Buffer.from([VERSION]);
