/**
 * A checksum for every record: wraps the meta device's database, and everything above uses the wrapper.
 *
 * On the device a value has an envelope: its first byte (the version of the record) with the bit 0x80 set, the rest of
 * the value, and a u32 CRC-32C of the key and all these bytes. The checksum covers the key, so it also finds a value
 * that lies under a wrong key. Only the superblock and the state of the redo log have no such envelope: they have a
 * checksum of their own. Software that knows no other checksums reads the superblock.
 *
 * Targets of earlier releases have records without an envelope. There the store uses the envelope only if the
 * superblock says so; it then reads old records as they are until they are rewritten (FEATURE_CHECKSUMS without
 * FEATURE_ALL_CHECKSUMS).
 */

import { FsError } from '../../base/errno.js';
import { logger } from '../../base/log.js';
import { notice } from '../../base/notices.js';
import type { Checksum } from '../../runtime/ports.js';
import type { Superblock } from '../api.js';
import { accessNameOf, KEY, readU64 } from '../format/keys.js';
import { FEATURE_ALL_CHECKSUMS, FEATURE_CHECKSUMS } from '../format/superblock.js';
import type { CommitOptions, MetaDatabase, TreeUse, Writer } from '../meta_medium.js';

const log = logger('storage');

/** Set in the first byte of a value that has a checksum. */
const HAS_CHECKSUM = 0x80;
export const CHECKSUM_BYTES = 4;
/** For at most this many bytes a table in JavaScript is faster than a call of the addon. */
const TABLE_BYTES_MAX = 512;
const POLYNOMIAL = 0x82f6_3b78;
const NO_VALUE = Buffer.alloc(0);

/** Tables for four bytes at once: TABLES[n * 256 + b] is the effect of byte b when n more bytes follow it. */
const TABLES = makeTables();

function makeTables(): Uint32Array {
  const tables = new Uint32Array(4 * 256);
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 1) === 0 ? crc >>> 1 : (crc >>> 1) ^ POLYNOMIAL;
    tables[byte] = crc;
  }
  for (let at = 256; at < tables.length; at++) {
    const before = tables[at - 256] ?? 0;
    tables[at] = (tables[before & 0xff] ?? 0) ^ (before >>> 8);
  }
  return tables;
}

/** CRC-32C register after `length` more bytes. */
function extend(register: number, bytes: Buffer, length: number): number {
  let crc = register;
  let at = 0;
  for (; at + 4 <= length; at += 4) {
    crc ^= bytes.readUInt32LE(at);
    crc =
      (TABLES[768 + (crc & 0xff)] ?? 0) ^
      (TABLES[512 + ((crc >>> 8) & 0xff)] ?? 0) ^
      (TABLES[256 + ((crc >>> 16) & 0xff)] ?? 0) ^
      (TABLES[crc >>> 24] ?? 0);
  }
  for (; at < length; at++) crc = (TABLES[(crc ^ (bytes[at] ?? 0)) & 0xff] ?? 0) ^ (crc >>> 8);
  return crc;
}

/** CRC-32C of a key and `length` bytes of the value. For large values: of the key and the CRC-32C of the value. */
function sum(checksum: Checksum, key: Buffer, value: Buffer, length: number): number {
  let crc = extend(-1, key, key.length);
  if (length <= TABLE_BYTES_MAX) return ~extend(crc, value, length) >>> 0;
  const ofValue = Buffer.allocUnsafe(4);
  ofValue.writeUInt32LE(checksum.crc32cBlocks(value.subarray(0, length), length)[0] ?? 0, 0);
  crc = extend(crc, ofValue, 4);
  return ~crc >>> 0;
}

/** These records have a checksum inside. */
export function hasOwnChecksum(key: Buffer): boolean {
  return key[0] === KEY.superblock || key[0] === KEY.redoLog;
}

export function hasChecksum(value: Buffer): boolean {
  return ((value[0] ?? 0) & HAS_CHECKSUM) !== 0;
}

/** The value as it was before it got a checksum; a value without one comes back as it is. Checks nothing. */
export function withoutChecksum(value: Buffer): Buffer {
  if (!hasChecksum(value)) return value;
  const plain = Buffer.from(value.subarray(0, value.length - CHECKSUM_BYTES));
  plain[0] = (plain[0] ?? 0) & ~HAS_CHECKSUM;
  return plain;
}

/** What a record is, for a line in the log. */
export function recordName(key: Buffer): string {
  const name = (Object.entries(KEY) as [string, number][]).find(([, type]) => type === key[0])?.[0];
  if (name === undefined) return `of key ${key.subarray(0, 40).toString('hex')}`;
  if (key[0] === KEY.access) return `access entry ${JSON.stringify(accessNameOf(key.subarray(0, 65)))}`;
  const isOfFid = key.length >= 9 && key[0] !== KEY.client && key[0] !== KEY.reply;
  const fid = isOfFid ? ` of fid ${readU64(key, 1)}` : '';
  if (key[0] === KEY.blockMap && key.length === 17) return `block map ${readU64(key, 9)}${fid}`;
  return `${name}${fid}`;
}

export interface ChecksumRules {
  /** Values get a checksum when they are written. The wrapper always checks values that have one. */
  readonly write: boolean;
  /** A value without one is damaged. */
  readonly required: boolean;
  /** Reads a damaged value as an empty one, which no record is: for a check that goes on. Otherwise FsError EIO. */
  readonly lenient?: boolean;
}

export class ChecksummedDatabase implements MetaDatabase {
  readonly #db: MetaDatabase;
  readonly #checksum: Checksum;
  readonly #rules: ChecksumRules;

  constructor(db: MetaDatabase, checksum: Checksum, rules: ChecksumRules) {
    this.#db = db;
    this.#checksum = checksum;
    this.#rules = rules;
  }

  get(key: Buffer): Buffer | undefined {
    const value = this.#db.get(key);
    return value === undefined ? undefined : this.#opened(key, value);
  }
  prefetch(keys: readonly Buffer[]): void {
    this.#db.prefetch(keys);
  }
  *range(start: Buffer, end: Buffer, limit?: number): Iterable<{ key: Buffer; value: Buffer }> {
    for (const { key, value } of this.#db.range(start, end, limit)) {
      yield { key, value: this.#opened(key, value) };
    }
  }
  commit(write: (writer: Writer) => void, options?: CommitOptions): Promise<void> {
    if (!this.#rules.write) return this.#db.commit(write, options);
    return this.#db.commit(
      (writer) =>
        write({
          put: (key, value) => writer.put(key, this.#sealed(key, value)),
          remove: (key) => writer.remove(key),
        }),
      options,
    );
  }
  get carriesBytes(): number {
    return this.#db.carriesBytes;
  }
  use(): TreeUse {
    return this.#db.use();
  }
  close(): Promise<void> {
    return this.#db.close();
  }

  #sealed(key: Buffer, value: Buffer): Buffer {
    if (hasOwnChecksum(key) || value.length === 0) return value;
    const { length } = value;
    const sealed = Buffer.allocUnsafe(length + CHECKSUM_BYTES);
    sealed.set(value, 0);
    sealed[0] = (value[0] ?? 0) | HAS_CHECKSUM;
    sealed.writeUInt32LE(sum(this.#checksum, key, sealed, length), length);
    return sealed;
  }

  #opened(key: Buffer, value: Buffer): Buffer {
    if (hasOwnChecksum(key)) return value;
    const first = value[0] ?? 0;
    // Only values with a checksum begin with this bit, so check them whatever the superblock says.
    if ((first & HAS_CHECKSUM) === 0) {
      return this.#rules.required ? this.#damaged(key, 'has no checksum') : value;
    }
    const length = value.length - CHECKSUM_BYTES;
    if (length < 1 || sum(this.#checksum, key, value, length) !== value.readUInt32LE(length)) {
      return this.#damaged(key, 'does not match its checksum');
    }
    const opened = value.subarray(0, length);
    // We may change the view: it is ours until the next call.
    opened[0] = first & ~HAS_CHECKSUM;
    return opened;
  }

  #damaged(key: Buffer, how: string): Buffer {
    if (this.#rules.lenient === true) return NO_VALUE;
    const text = `damaged record on the meta device: ${recordName(key)} ${how}`;
    log('%s', text);
    notice('checksum-wrong', text);
    throw new FsError('EIO', text);
  }
}

/** The meta device's database, wrapped with the checksum rules of this target. */
export function checkedRecords(
  db: MetaDatabase,
  checksum: Checksum,
  { featuresIncompat }: Pick<Superblock, 'featuresIncompat'>,
  options: { readonly lenient?: boolean } = {},
): MetaDatabase {
  return new ChecksummedDatabase(db, checksum, {
    write: (featuresIncompat & FEATURE_CHECKSUMS) !== 0,
    required: (featuresIncompat & FEATURE_ALL_CHECKSUMS) !== 0,
    ...options,
  });
}
