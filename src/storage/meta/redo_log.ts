/**
 * The redo log: a ring of records at the end of the meta device. A batch that is in it is durable with one write and one
 * flush, where a transaction of lmdb takes two flushes, and one more for content on the data device.
 *
 * A record begins at a multiple of LOG_ALIGN_BYTES, right behind the one before it, or at the start of the ring if there
 * is no room before the end. One record is written at a time, and the next only when it is durable. So all records before
 * the last one are whole after a crash, and the last one is there as a whole or not at all.
 *
 * Invariants: the live records (those that are not applied) and what was left free before the end of the ring take no more
 * than the ring has.
 */

import { assert } from '../../base/assert.js';
import type { TargetUuid } from '../../base/ids.js';
import type { Checksum } from '../../runtime/ports.js';
import {
  decodeLogRecord,
  encodeLogRecord,
  LOG_ALIGN_BYTES,
  type LogPlace,
  type LogRecord,
  type LogState,
  logRecordBytes,
  promisedLogBytes,
} from '../format/log_record.js';
import type { LogDevice } from '../meta_medium.js';

/** A record may take this part of the ring, so that one can be written while others are applied. */
const RECORD_SHARE = 1 / 4;
const RECORD_MAX_BYTES = 1 << 20;
const READ_BYTES = 64 << 10;

export class RedoLog {
  readonly #device: LogDevice;
  readonly #place: LogPlace;
  readonly #targetUuid: TargetUuid;
  readonly #checksum: Checksum;
  #scratch = Buffer.alloc(0);
  #instance = 0;
  #sequence = 0;
  #next = 0;
  #liveBytes = 0;

  constructor(device: LogDevice, place: LogPlace, targetUuid: TargetUuid, checksum: Checksum) {
    this.#device = device;
    this.#place = place;
    this.#targetUuid = targetUuid;
    this.#checksum = checksum;
  }

  get place(): LogPlace {
    return this.#place;
  }
  /** Bytes that are free again when everything up to now is applied. */
  get liveBytes(): number {
    return this.#liveBytes;
  }
  /** As of the last record: what the transaction that applies all of them says. */
  get state(): LogState {
    const [place, instance, sequence, next] = [this.#place, this.#instance, this.#sequence, this.#next];
    return { place, instance, sequence, next };
  }

  /** Begins anew: what is in the ring counts no more. */
  begin(instance: number): void {
    this.#instance = instance;
    this.#sequence = 0;
    this.#next = 0;
    this.#liveBytes = 0;
  }

  /** @returns whether a record of this length may be in the log at all. */
  takes(bytes: number): boolean {
    return bytes <= Math.min(RECORD_MAX_BYTES, this.#place.bytes * RECORD_SHARE);
  }
  /** @returns whether there is room for a record of this length now. */
  hasRoom(bytes: number): boolean {
    return this.#liveBytes + this.#taken(bytes).bytes <= this.#place.bytes;
  }
  /** Where a record of this length goes, and the bytes that it takes with what it leaves free before the end. */
  #taken(bytes: number): { readonly at: number; readonly bytes: number } {
    const left = this.#place.bytes - this.#next;
    return bytes <= left ? { at: this.#next, bytes } : { at: 0, bytes: left + bytes };
  }

  /** The record is durable when this resolves; call wrote() in that turn. @throws FsError EIO */
  async write(record: Pick<LogRecord, 'changes' | 'content'>): Promise<void> {
    const bytes = logRecordBytes(record);
    assert(this.hasRoom(bytes), 'the redo log has no room for the record');
    if (bytes > this.#scratch.length) this.#scratch = Buffer.allocUnsafeSlow(bytes);
    const whole = { ...record, instance: this.#instance, sequence: this.#sequence + 1 };
    const encoded = encodeLogRecord(whole, this.#targetUuid, this.#checksum, this.#scratch);
    await this.#device.write(this.#place.offset + this.#taken(bytes).at, encoded);
  }
  /** Counts the record of this length: from now on `state` covers it. */
  wrote(bytes: number): void {
    const taken = this.#taken(bytes);
    this.#sequence += 1;
    this.#next = taken.at + bytes;
    this.#liveBytes += taken.bytes;
  }

  /**
   * A commit goes past the log: it takes a number too. So if the tree has lost it (fsck goes back a transaction), the records
   * behind it, which build on it, count no more.
   */
  skip(): void {
    this.#sequence += 1;
  }

  /** @param bytes that liveBytes had when the records were taken that are applied now. */
  release(bytes: number): void {
    this.#liveBytes -= bytes;
  }

  /** The records behind the applied ones, in order. @throws FsError EIO */
  async readFrom(applied: LogState): Promise<LogRecord[]> {
    const records: LogRecord[] = [];
    let { sequence, next } = applied;
    for (;;) {
      sequence += 1;
      const expected = { targetUuid: this.#targetUuid, instance: applied.instance, sequence };
      let found = await this.#readAt(next, expected);
      if (found === undefined && next !== 0) {
        next = 0;
        found = await this.#readAt(0, expected);
      }
      if (found === undefined) return records;
      records.push(found);
      next += logRecordBytes(found);
    }
  }

  async #readAt(at: number, expected: Parameters<typeof decodeLogRecord>[1]): Promise<LogRecord | undefined> {
    const room = this.#place.bytes - at;
    if (room < LOG_ALIGN_BYTES) return undefined;
    const start = await this.#device.read(this.#place.offset + at, Math.min(READ_BYTES, room));
    const bytes = promisedLogBytes(start, room);
    if (bytes === undefined) return undefined;
    const wholeBytes = Math.ceil(bytes / LOG_ALIGN_BYTES) * LOG_ALIGN_BYTES;
    const whole =
      bytes <= start.length ? start : await this.#device.read(this.#place.offset + at, wholeBytes);
    return decodeLogRecord(whole, expected, this.#checksum);
  }

  async close(): Promise<void> {
    await this.#device.close();
  }

  checkInvariants(): void {
    const { bytes } = this.#place;
    assert(this.#liveBytes >= 0 && this.#liveBytes <= bytes, `${this.#liveBytes} of ${bytes} bytes are live`);
    assert(this.#next <= bytes && this.#next % LOG_ALIGN_BYTES === 0, `the next record is at ${this.#next}`);
  }
}
