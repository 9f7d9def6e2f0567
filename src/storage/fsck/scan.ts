/**
 * How a check reads the database: in key order, batch by batch; other events run in between. It reads the kinds of
 * records that belong to inodes side by side. So it sees all records of one inode together, and need not remember any
 * of them.
 */

import type { Fid } from '../../base/ids.js';
import type { Runtime } from '../../runtime/ports.js';
import { afterPrefix, bareKey, KEY, type KeyType, readU64 } from '../format/keys.js';
import type { SuperblockRecord } from '../format/superblock.js';
import type { MetaDatabase } from '../meta_medium.js';
import type { Findings, FsckCounts } from './report.js';

/** Number of records between two pauses: takes a few milliseconds. */
const BATCH = 1000;
const LONGEST_KEY = 264;
/** A FID or number in a key is below 2^53. */
const SAFE_HIGH = 2 ** 21;

export type FsckRuntime = Pick<Runtime, 'timers' | 'checksum'>;

/** The part of a check that is running. */
export type FsckPhase = 'pages' | 'inodes' | 'names' | 'positions' | 'blocks';

export interface FsckContext {
  readonly runtime: FsckRuntime;
  readonly db: MetaDatabase;
  readonly superblock: SuperblockRecord;
  readonly findings: Findings;
  readonly counts: FsckCounts;
  progress(phase: FsckPhase, done: number): void;
}

export interface KeyValue {
  readonly key: Buffer;
  readonly value: Buffer;
}

export function breathe(runtime: FsckRuntime): Promise<void> {
  return new Promise((resolve) => runtime.timers.soon(resolve));
}

/** Calls visit for each record with start <= key < end. */
export async function scan(
  { runtime, db }: Pick<FsckContext, 'runtime' | 'db'>,
  start: Buffer,
  end: Buffer,
  visit: (record: KeyValue) => void,
): Promise<void> {
  for (let from = start; ; ) {
    const batch = [...db.range(from, end, BATCH)];
    for (const record of batch) visit(record);
    const last = batch.at(-1);
    if (last === undefined || batch.length < BATCH) return;
    from = nextKey(last.key);
    await breathe(runtime);
  }
}

export function scanType(
  context: Pick<FsckContext, 'runtime' | 'db'>,
  type: KeyType,
  visit: (record: KeyValue) => void,
): Promise<void> {
  const prefix = bareKey(type);
  return scan(context, prefix, afterPrefix(prefix), visit);
}

/** The least key above this one. */
function nextKey(key: Buffer): Buffer {
  return Buffer.concat([key, Buffer.alloc(1)]);
}

/** Bytes of a key, at least and at most. */
const KEY_BYTES: Readonly<Record<KeyType, readonly [number, number]>> = {
  [KEY.superblock]: [1, 1],
  [KEY.counters]: [1, 1],
  [KEY.redoLog]: [1, 1],
  [KEY.ticketSecret]: [1, 1],
  [KEY.inode]: [9, 9],
  [KEY.direntByName]: [10, LONGEST_KEY],
  [KEY.direntByCookie]: [17, 17],
  [KEY.xattr]: [10, LONGEST_KEY],
  [KEY.symlink]: [9, 9],
  [KEY.inlineData]: [9, 9],
  [KEY.blockMap]: [17, 17],
  [KEY.spaceGroup]: [5, 5],
  [KEY.orphan]: [9, 9],
  [KEY.client]: [17, 17],
  [KEY.doomed]: [9, 9],
  [KEY.reply]: [19, 19],
  [KEY.eviction]: [2, 2],
  [KEY.access]: [2, 65],
};
const WITH_FID: readonly KeyType[] = [
  KEY.inode,
  KEY.direntByName,
  KEY.direntByCookie,
  KEY.xattr,
  KEY.symlink,
  KEY.inlineData,
  KEY.blockMap,
  KEY.orphan,
  KEY.doomed,
];

/** Whether a key has the shape that its type requires: all later code may read it by offset. */
export function isSoundKey(key: Buffer): boolean {
  const type = key[0] as KeyType;
  const bounds = KEY_BYTES[type] as readonly [number, number] | undefined;
  if (bounds === undefined || key.length < bounds[0] || key.length > bounds[1]) return false;
  if (!WITH_FID.includes(type)) return true;
  if (key.readUInt32BE(1) >= SAFE_HIGH || readU64(key, 1) === 0) return false;
  return bounds[1] !== 17 || key.readUInt32BE(9) < SAFE_HIGH;
}

/** Reports records of unknown types, and keys whose shape does not fit their type; other passes skip them. */
export async function checkKeys(context: FsckContext): Promise<void> {
  const types = Object.values(KEY).sort((a, b) => a - b);
  const report = ({ key }: KeyValue): void => {
    context.findings.add({
      kind: 'unknown-record',
      text: `a record with key ${key.subarray(0, 40).toString('hex')} is of no known kind`,
    });
  };
  let from: Buffer = Buffer.alloc(1);
  for (const type of types) {
    await scan(context, from, bareKey(type), report);
    const isOneRecord = KEY_BYTES[type][1] === 1;
    from = isOneRecord ? nextKey(bareKey(type)) : afterPrefix(bareKey(type));
  }
  await scan(context, from, Buffer.alloc(LONGEST_KEY + 1, 0xff), report);
}

/** Reads the records of one type in FID order, one record ahead. */
export class FidCursor {
  readonly #db: MetaDatabase;
  readonly #findings: Findings;
  readonly #end: Buffer;
  #from: Buffer;
  #batch: KeyValue[] = [];
  #at = 0;
  #ended = false;

  constructor({ db, findings }: Pick<FsckContext, 'db' | 'findings'>, type: KeyType) {
    this.#db = db;
    this.#findings = findings;
    this.#from = bareKey(type);
    this.#end = afterPrefix(this.#from);
  }

  /** FID of the next record; infinite at the end. */
  get fid(): number {
    const record = this.#peek();
    return record === undefined ? Number.POSITIVE_INFINITY : readU64(record.key, 1);
  }
  /** The next record if it is of this FID. */
  take(fid: Fid): KeyValue | undefined {
    const record = this.#peek();
    if (record === undefined || readU64(record.key, 1) !== fid) return undefined;
    this.#at++;
    return record;
  }
  /** The next record, of whatever FID. */
  next(): KeyValue | undefined {
    const record = this.#peek();
    if (record !== undefined) this.#at++;
    return record;
  }

  #peek(): KeyValue | undefined {
    for (;;) {
      const record = this.#batch[this.#at];
      if (record !== undefined) {
        if (isSoundKey(record.key)) return record;
        reportKey(this.#findings, record);
        this.#at++;
        continue;
      }
      if (this.#ended) return undefined;
      this.#batch = [...this.#db.range(this.#from, this.#end, BATCH)];
      this.#at = 0;
      this.#ended = this.#batch.length < BATCH;
      const last = this.#batch.at(-1);
      if (last !== undefined) this.#from = nextKey(last.key);
    }
  }
}

export function reportKey(findings: Findings, { key }: KeyValue): void {
  findings.add({
    kind: 'unknown-record',
    text: `a record with key ${key.subarray(0, 40).toString('hex')} has no key of its kind`,
  });
}
