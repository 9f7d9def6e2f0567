/**
 * Bytes of the redo log (docs/ONDISK.md, "Redo log"): the records in the log, and the record of the database that says
 * where the log lies and how far it is applied.
 *
 * A log record is valid if its checksum is right and it names this target, this instance and the expected sequence number.
 * So nothing that an earlier life of the device has left there is taken for one.
 */

import type { TargetUuid } from '../../base/ids.js';
import type { Checksum } from '../../runtime/ports.js';
import type { ContentPiece } from '../meta_medium.js';
import { BLOCK_BYTES } from './block_map.js';
import { damaged, getU64, putU64, uuidBytes } from './records.js';
import { crc32c } from './superblock.js';

const MAGIC = Buffer.from('HFlog001', 'latin1');
/**
 * 0 magic, 8 u32 length of the record, 12 u32 CRC-32C of all behind it, 16 target UUID, 32 u32 instance, 36 u32 flags,
 * 40 u64 sequence number, 48 u32 number of changes, 52 u32 number of pieces.
 */
const HEADER_BYTES = 56;
const CRC_AT = 12;
const FLAG_FLUSHED = 1;
/** u16 length of the key, u32 length of the value or REMOVED; then both. */
const CHANGE_BYTES = 6;
const REMOVED = 0xffff_ffff;
/** u64 offset on the data device, u32 length; then the content. */
const PIECE_BYTES = 12;

/** Records begin at multiples of this. */
export const LOG_ALIGN_BYTES = 4096;

/** A put or a remove of the database. */
export interface LoggedChange {
  readonly key: Buffer;
  /** undefined: the key is removed. */
  readonly value: Buffer | undefined;
}

export interface LogRecord {
  readonly instance: number;
  readonly sequence: number;
  readonly changes: readonly LoggedChange[];
  /** undefined: all content that was written before this record was flushed, so that of earlier records is not needed. */
  readonly content: readonly ContentPiece[] | undefined;
}

/** Bytes that the record takes in the log. */
export function logRecordBytes({ changes, content = [] }: Pick<LogRecord, 'changes' | 'content'>): number {
  let bytes = HEADER_BYTES;
  for (const { key, value } of changes) bytes += CHANGE_BYTES + key.length + (value?.length ?? 0);
  for (const piece of content) bytes += PIECE_BYTES + piece.bytes.length;
  return Math.ceil(bytes / LOG_ALIGN_BYTES) * LOG_ALIGN_BYTES;
}

/** @param target of at least logRecordBytes(record). @returns the part of it that goes to the log. */
export function encodeLogRecord(
  record: LogRecord,
  targetUuid: TargetUuid,
  checksum: Checksum,
  target: Buffer,
): Buffer {
  const { changes, content } = record;
  let at = HEADER_BYTES;
  for (const { key, value } of changes) {
    target.writeUInt16LE(key.length, at);
    target.writeUInt32LE(value?.length ?? REMOVED, at + 2);
    target.set(key, at + CHANGE_BYTES);
    at += CHANGE_BYTES + key.length;
    if (value === undefined) continue;
    target.set(value, at);
    at += value.length;
  }
  for (const { offset, bytes } of content ?? []) {
    putU64(target, offset, at);
    target.writeUInt32LE(bytes.length, at + 8);
    target.set(bytes, at + PIECE_BYTES);
    at += PIECE_BYTES + bytes.length;
  }
  target.set(MAGIC, 0);
  target.writeUInt32LE(at, 8);
  target.set(uuidBytes(targetUuid), 16);
  target.writeUInt32LE(record.instance, 32);
  target.writeUInt32LE(content === undefined ? FLAG_FLUSHED : 0, 36);
  putU64(target, record.sequence, 40);
  target.writeUInt32LE(changes.length, 48);
  target.writeUInt32LE(content?.length ?? 0, 52);
  target.writeUInt32LE(crc32c(checksum, target.subarray(CRC_AT + 4, at)), CRC_AT);
  const end = Math.ceil(at / LOG_ALIGN_BYTES) * LOG_ALIGN_BYTES;
  return target.fill(0, at, end).subarray(0, end);
}

/** @returns the length that the first bytes of a record promise; undefined if they are not those of a record. */
export function promisedLogBytes(start: Buffer, mostBytes: number): number | undefined {
  if (start.length < HEADER_BYTES || !start.subarray(0, 8).equals(MAGIC)) return undefined;
  const bytes = start.readUInt32LE(8);
  return bytes < HEADER_BYTES || bytes > mostBytes ? undefined : bytes;
}

/**
 * @param source at least as long as promisedLogBytes() says. The record refers to it.
 * @returns undefined if it is not the record of this target, instance and sequence number, or not whole.
 */
export function decodeLogRecord(
  source: Buffer,
  expected: { readonly targetUuid: TargetUuid; readonly instance: number; readonly sequence: number },
  checksum: Checksum,
): LogRecord | undefined {
  const end = promisedLogBytes(source, source.length);
  if (end === undefined) return undefined;
  if (crc32c(checksum, source.subarray(CRC_AT + 4, end)) !== source.readUInt32LE(CRC_AT)) return undefined;
  const { targetUuid, instance, sequence } = expected;
  if (!source.subarray(16, 32).equals(uuidBytes(targetUuid)) || source.readUInt32LE(32) !== instance) {
    return undefined;
  }
  if (getU64(source, 40) !== sequence) return undefined;
  const isFlushed = (source.readUInt32LE(36) & FLAG_FLUSHED) !== 0;
  let at = HEADER_BYTES;
  /** The checksum is right, so a length that leaves the record was written so: by a bug. */
  const take = (bytes: number): Buffer => {
    if (at + bytes > end) throw damaged(`record ${sequence} of the redo log`);
    at += bytes;
    return source.subarray(at - bytes, at);
  };
  const changes: LoggedChange[] = [];
  for (let count = source.readUInt32LE(48); count > 0; count--) {
    const lengths = take(CHANGE_BYTES);
    const valueBytes = lengths.readUInt32LE(2);
    const key = take(lengths.readUInt16LE(0));
    changes.push({ key, value: valueBytes === REMOVED ? undefined : take(valueBytes) });
  }
  const content: ContentPiece[] = [];
  for (let count = source.readUInt32LE(52); count > 0; count--) {
    const header = take(PIECE_BYTES);
    content.push({ offset: getU64(header, 0), bytes: take(header.readUInt32LE(8)) });
  }
  return { instance, sequence, changes, content: isFlushed ? undefined : content };
}

/** Where the log lies on the meta device. */
export interface LogPlace {
  readonly offset: number;
  readonly bytes: number;
}

const LARGEST_LOG_BYTES = 16 << 20;
/** The log takes at most this part of the device. */
const LOG_SHARE = 1 / 16;

/** The log lies at the end of the device. */
export function logPlace(metaSizeBytes: number): LogPlace {
  const end = Math.floor(metaSizeBytes / BLOCK_BYTES) * BLOCK_BYTES;
  const most = Math.floor((metaSizeBytes * LOG_SHARE) / LOG_ALIGN_BYTES) * LOG_ALIGN_BYTES;
  const bytes = Math.min(LARGEST_LOG_BYTES, most);
  return { offset: end - bytes, bytes };
}

/** What the database knows of its log. Part of the transaction that applies log records. */
export interface LogState {
  readonly place: LogPlace;
  /** That wrote the log. */
  readonly instance: number;
  /** The last record that is applied. */
  readonly sequence: number;
  /** In the log: where the next record begins, unless there is no room for it before the end; then at 0. */
  readonly next: number;
}

/** 0 u8 1, 4 u32 instance, 8 u64 offset, 16 u64 bytes, 24 u64 sequence, 32 u64 next, 40 u32 CRC-32C of all before it. */
const STATE_BYTES = 44;

export function encodeLogState({ place, instance, sequence, next }: LogState, checksum: Checksum): Buffer {
  const value = Buffer.alloc(STATE_BYTES);
  value[0] = 1;
  value.writeUInt32LE(instance, 4);
  putU64(value, place.offset, 8);
  putU64(value, place.bytes, 16);
  putU64(value, sequence, 24);
  putU64(value, next, 32);
  value.writeUInt32LE(crc32c(checksum, value.subarray(0, STATE_BYTES - 4)), STATE_BYTES - 4);
  return value;
}

/** @throws FsError EIO */
export function decodeLogState(value: Buffer, metaSizeBytes: number, checksum: Checksum): LogState {
  const isWhole =
    value.length === STATE_BYTES &&
    value[0] === 1 &&
    crc32c(checksum, value.subarray(0, STATE_BYTES - 4)) === value.readUInt32LE(STATE_BYTES - 4);
  if (!isWhole) throw damaged('state of the redo log');
  const place = { offset: getU64(value, 8), bytes: getU64(value, 16) };
  const next = getU64(value, 32);
  const isPlausible =
    place.offset + place.bytes <= metaSizeBytes &&
    place.offset % LOG_ALIGN_BYTES === 0 &&
    place.bytes % LOG_ALIGN_BYTES === 0 &&
    next % LOG_ALIGN_BYTES === 0 &&
    next <= place.bytes;
  if (!isPlausible) throw damaged('state of the redo log');
  return { place, instance: value.readUInt32LE(4), sequence: getU64(value, 24), next };
}
