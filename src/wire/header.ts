/**
 * The fixed frame header, 56 bytes, little-endian; the MessagePack body and the raw bulk follow it.
 *
 *  0 u32 magic 'HFS1'      4 u8 protocol version   5 u8 kind      6 u16 opcode
 *  8 u32 flags            12 u32 errno (replies)  16 u64 xid     24 u64 ackXid | lastCommitted
 * 32 u64 transno          40 u32 connCount        44 u32 body    48 u32 bulk       52 u32 reserved, 0
 *
 * decodeHeader() checks the limits before anything is allocated for the frame.
 */

import { FsError } from '../base/errno.js';
import type { Transno, Xid } from '../base/ids.js';

export const HEADER_SIZE = 56;
export const MAGIC = 0x31534648;
/** Range of protocol versions that this build speaks. CONNECT selects the highest version that both sides have. */
export const PROTOCOL_MIN = 1;
export const PROTOCOL_MAX = 1;
/** The largest body: a READDIR reply or a CONNECT fits with room to spare. */
export const BODY_MAX = 1 << 20;
/** The largest bulk: one WRITE or READ of 4 MiB. */
export const BULK_MAX = 4 << 20;

export const KIND = { request: 1, reply: 2, notice: 3 } as const;
/**
 * request: the peer answers it with one reply of the same xid. notice: the peer does not answer it. Either side may
 * send any kind.
 */
export type Kind = (typeof KIND)[keyof typeof KIND];

/** Header flags. */
export const FLAG_REPLAY = 1; // an operation that was executed before, sent again during recovery with its old transno
export const FLAG_RESENT = 2; // was sent before on an older connection; the answer may exist already
export const FLAG_RECOVERY = 4; // part of recovery (open replay, lock replay): the server admits it in the recovery window

export interface Header {
  readonly version: number;
  readonly kind: Kind;
  readonly opcode: number;
  readonly flags: number;
  /** Linux errno of a reply, 0 for success; the body of a failed reply is ErrorReply. */
  readonly errno: number;
  readonly xid: Xid;
  /** Requests: every reply to an xid below this has arrived. Replies: the target's lastCommitted. */
  readonly ackXidOrCommitted: number;
  /** Replies: the change's transno, 0 if it changed nothing. Replays: the old transno. */
  readonly transno: Transno;
  /** Number of the sender's connection; the server drops a message with a lower one. */
  readonly connCount: number;
  readonly bodyLength: number;
  readonly bulkLength: number;
}

const U32 = 2 ** 32;

function u64(buffer: Buffer, offset: number, what: string): number {
  const high = buffer.readUInt32LE(offset + 4);
  if (high >= 2 ** 21) throw new FsError('EPROTO', `${what} is 2^53 or more`);
  return high * U32 + buffer.readUInt32LE(offset);
}

function putU64(buffer: Buffer, offset: number, value: number): void {
  buffer.writeUInt32LE(value % U32, offset);
  buffer.writeUInt32LE(Math.floor(value / U32), offset + 4);
}

export function encodeHeader(header: Header): Buffer {
  return putHeader(Buffer.allocUnsafe(HEADER_SIZE), header);
}

/** Fills the first HEADER_SIZE bytes of the buffer. @returns the buffer. */
export function putHeader(buffer: Buffer, header: Header): Buffer {
  buffer.writeUInt32LE(MAGIC, 0);
  buffer[4] = header.version;
  buffer[5] = header.kind;
  buffer.writeUInt16LE(header.opcode, 6);
  buffer.writeUInt32LE(header.flags, 8);
  buffer.writeUInt32LE(header.errno, 12);
  putU64(buffer, 16, header.xid);
  putU64(buffer, 24, header.ackXidOrCommitted);
  putU64(buffer, 32, header.transno);
  buffer.writeUInt32LE(header.connCount, 40);
  buffer.writeUInt32LE(header.bodyLength, 44);
  buffer.writeUInt32LE(header.bulkLength, 48);
  buffer.writeUInt32LE(0, 52);
  return buffer;
}

/** @param buffer holds at least the first 4 bytes of a header from offset. @throws FsError EPROTO */
export function checkMagic(buffer: Buffer, offset: number): void {
  const magic = buffer.readUInt32LE(offset);
  if (magic !== MAGIC) throw new FsError('EPROTO', `not a Holdfast frame (magic 0x${magic.toString(16)})`);
}

/**
 * @param buffer holds at least HEADER_SIZE bytes from offset.
 * @throws FsError EPROTO for a wrong magic, an unknown kind, a reserved field in use or a length over its limit. Does
 *   not check the protocol version: CONNECT must be able to answer any version.
 */
export function decodeHeader(buffer: Buffer, offset = 0): Header {
  checkMagic(buffer, offset);
  const kind = buffer.readUInt8(offset + 5);
  if (kind < 1 || kind > 3) throw new FsError('EPROTO', `unknown frame kind ${kind}`);
  const bodyLength = buffer.readUInt32LE(offset + 44);
  if (bodyLength > BODY_MAX) throw new FsError('EPROTO', `body of ${bodyLength} bytes is over ${BODY_MAX}`);
  const bulkLength = buffer.readUInt32LE(offset + 48);
  if (bulkLength > BULK_MAX) throw new FsError('EPROTO', `bulk of ${bulkLength} bytes is over ${BULK_MAX}`);
  if (buffer.readUInt32LE(offset + 52) !== 0) throw new FsError('EPROTO', 'reserved header field in use');
  return {
    version: buffer.readUInt8(offset + 4),
    kind: kind as Kind,
    opcode: buffer.readUInt16LE(offset + 6),
    flags: buffer.readUInt32LE(offset + 8),
    errno: buffer.readUInt32LE(offset + 12),
    xid: u64(buffer, offset + 16, 'xid') as Xid,
    ackXidOrCommitted: u64(buffer, offset + 24, 'ackXid'),
    transno: u64(buffer, offset + 32, 'transno') as Transno,
    connCount: buffer.readUInt32LE(offset + 40),
    bodyLength,
    bulkLength,
  };
}
