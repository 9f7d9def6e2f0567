/**
 * A database with a redo log in front of it: a small commit goes to the log, and its changes wait in memory until a later
 * transaction of lmdb (a checkpoint) applies many of them together. A commit that is large, or must be in the tree, is a
 * checkpoint itself. Readers see all of it as one database.
 *
 * The log also takes along small content that was just written to the data device. So an fsync of a small write is one
 * flush of one device. The data device is flushed before the log forgets that content.
 *
 * A target has a log from begin() of an instance to its clean end, or until the tree comes near the log. In between its
 * superblock, which is never in the log itself, has FEATURE_REDO_LOG: the transaction that sets or clears it begins or ends
 * the log. After the end nothing of the log is left, and releases without a log can serve the target.
 *
 * After a failure nothing is applied any more: what one checkpoint could not bring to the tree is only in the log, and the next
 * one would say that it is applied.
 *
 * Invariants: what waits is in the log, in the same order; the log forgets nothing that the tree, or the data device's
 * flush, has not got; the tree stays off the log, whatever pages lmdb takes for what waits.
 */

import { assert } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import type { TargetUuid } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import { Deferred } from '../../base/wait.js';
import type { BlockDevice, Checksum, Runtime, Timer } from '../../runtime/ports.js';
import { bareKey, KEY } from '../format/keys.js';
import {
  decodeLogState,
  encodeLogState,
  type LoggedChange,
  logPlace,
  logRecordBytes,
} from '../format/log_record.js';
import { damaged } from '../format/records.js';
import {
  decodeSuperblock,
  encodeSuperblock,
  FEATURE_REDO_LOG,
  type SuperblockRecord,
} from '../format/superblock.js';
import type {
  CommitOptions,
  ContentPiece,
  MetaDatabase,
  MetaMedium,
  TreeUse,
  Writer,
} from '../meta_medium.js';
import { LMDB_PAGE_BYTES, readMeta } from './meta_probe.js';
import { pagesOfCommit, recordsAtOnce } from './meta_space.js';
import { RedoLog } from './redo_log.js';
import { WaitingChanges } from './waiting_changes.js';

const log = logger('storage:log');

/** More content is not written twice: the data device is flushed. */
const CARRIED_BYTES = 64 << 10;
/** Putting so many records blocks the event loop for about 4 ms. */
const CHECKPOINT_RECORDS = 2048;
/** The part of the ring that is filled when a checkpoint begins. */
const CHECKPOINT_SHARE = 1 / 4;
/** What is in the log is durable; applying it soon keeps a start after a crash short. */
const CHECKPOINT_MS = 1000;

const STATE_KEY = bareKey(KEY.redoLog);

/**
 *   none      no log is in use, and none was found
 *   found     a log of an instance without a clean end was read; its changes wait
 *   on        commits go to the log
 */
type LogUse = 'none' | 'found' | 'on';

export interface LoggedDatabaseOptions {
  readonly timers: Pick<Runtime['timers'], 'after'>;
  readonly data: BlockDevice;
}

export class LoggedDatabase implements MetaDatabase {
  readonly #db: MetaDatabase;
  /** undefined: this target has no log, and gets none. */
  readonly #log: RedoLog | undefined;
  readonly #checksum: Checksum;
  readonly #options: LoggedDatabaseOptions;
  #use: LogUse;
  #waiting = new WaitingChanges();
  /** Being put into the tree. */
  #applying: WaitingChanges | undefined;
  #checkpointing: Promise<void> | undefined;
  #timer: Timer | undefined;
  #scratch = Buffer.alloc(4096);
  /** Nothing may be applied any more. */
  #broken: Error | undefined;
  /** Of the log that was found: content to be written again. */
  #foundContent: readonly ContentPiece[] = [];
  readonly #failed = new Deferred<Error>();
  /** A checkpoint that nobody waited for has failed: the target must stop. */
  readonly failed = this.#failed.promise;

  /** @param log absent: a plain database. Its waiting changes are filled in by openLogged(). */
  constructor(
    db: MetaDatabase,
    redoLog: RedoLog | undefined,
    checksum: Checksum,
    options: LoggedDatabaseOptions,
    found?: { readonly waiting: WaitingChanges; readonly content: readonly ContentPiece[] },
  ) {
    this.#db = db;
    this.#log = redoLog;
    this.#checksum = checksum;
    this.#options = options;
    this.#use = found === undefined ? 'none' : 'found';
    if (found !== undefined) {
      this.#waiting = found.waiting;
      this.#foundContent = found.content;
    }
  }

  // ---- Reading: the newest of waiting, applying and the tree.

  get(key: Buffer): Buffer | undefined {
    const changed = this.#changed(key);
    if (changed === undefined) return this.#db.get(key);
    const { value } = changed;
    if (value === undefined) return undefined;
    // A caller may change what it gets until its next call.
    if (value.length > this.#scratch.length) this.#scratch = Buffer.alloc(2 * value.length);
    this.#scratch.set(value);
    return this.#scratch.subarray(0, value.length);
  }

  #changed(key: Buffer): LoggedChange | undefined {
    if (this.#waiting.size === 0 && this.#applying === undefined) return undefined;
    const text = key.toString('latin1');
    return this.#waiting.get(text) ?? this.#applying?.get(text);
  }

  prefetch(keys: readonly Buffer[]): void {
    this.#db.prefetch(keys);
  }

  *range(
    start: Buffer,
    end: Buffer,
    limit: number = Number.POSITIVE_INFINITY,
  ): Iterable<{ key: Buffer; value: Buffer }> {
    const changed = new Map(this.#applying?.between(start, end));
    for (const [text, change] of this.#waiting.between(start, end)) changed.set(text, change);
    if (changed.size === 0) {
      yield* this.#db.range(start, end, limit);
      return;
    }
    const ours = [...changed].sort(([one], [other]) => (one < other ? -1 : 1));
    let at = 0;
    let left = limit;
    for (const record of this.#db.range(start, end, limit + ours.length)) {
      const text = record.key.toString('latin1');
      for (let next = ours[at]; next !== undefined && next[0] <= text; next = ours[++at]) {
        const copied = copyOf(next[1]);
        if (copied === undefined) continue;
        if (left-- <= 0) return;
        yield copied;
      }
      if (changed.has(text)) continue;
      if (left-- <= 0) return;
      yield record;
    }
    for (; at < ours.length; at++) {
      const copied = copyOf((ours[at] as (typeof ours)[number])[1]);
      if (copied === undefined) continue;
      if (left-- <= 0) return;
      yield copied;
    }
  }

  use(): TreeUse {
    const use = this.#db.use();
    if (this.#log === undefined) return use;
    const [waiting, applying] = [this.#waiting, this.#applying];
    return {
      ...use,
      waitingRecords: waiting.records + (applying?.records ?? 0),
      waitingBytes: waiting.bytes + (applying?.bytes ?? 0),
    };
  }

  // ---- The life of the log.

  /** This target can have a log: the tree must keep off its place. */
  get logOffset(): number | undefined {
    return this.#log?.place.offset;
  }
  get carriesBytes(): number {
    return this.#use === 'on' ? CARRIED_BYTES : 0;
  }
  /** Content that a log has and the data device may have lost: read it instead of the device, or restore it. */
  get foundContent(): readonly ContentPiece[] {
    return this.#foundContent;
  }

  /** Writes the content of the log that was found to the data device. Call it before the first commit. */
  async restoreContent(): Promise<void> {
    const { data } = this.#options;
    for (const { offset, bytes } of this.#foundContent) await data.write(offset, [bytes]);
    if (this.#foundContent.length > 0) await data.flush();
    this.#foundContent = [];
  }

  /**
   * The next commit begins the log (`log: 'begins'`). @returns whether it may: a target without room for a log gets none.
   */
  start(instance: number): boolean {
    if (this.#log === undefined) return false;
    if (!this.#fits(this.#log, 2 * recordsAtOnce(this.#log.place.offset), 0)) return false;
    this.#log.begin(instance);
    return true;
  }

  /** The target has failed: nothing is applied any more, and the log forgets nothing. */
  giveUp(cause: Error): void {
    this.#broken ??= cause;
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  /**
   * @returns whether the tree stays off the log whatever pages lmdb takes for all that waits and these changes. A value of
   * several pages needs them in a row: with a free list of scattered pages, they are behind the last page.
   */
  #fits(redoLog: RedoLog, changes: number, bytes: number): boolean {
    let pages = this.#db.use().lastPage + 1 + pagesOfCommit(changes, bytes);
    for (const layer of [this.#waiting, this.#applying]) {
      if (layer !== undefined && layer.size > 0) pages += pagesOfCommit(layer.size, layer.bytes);
    }
    return pages * LMDB_PAGE_BYTES <= redoLog.place.offset;
  }

  async commit(write: (writer: Writer) => void, options: CommitOptions = {}): Promise<void> {
    const redoLog = this.#log;
    if (redoLog === undefined) return await this.#db.commit(write);
    if (this.#broken !== undefined) throw this.#broken;
    const changes = collect(write);
    const { content } = options;
    if (this.#use === 'on' && options.log === undefined && !(await this.#makeRoom(redoLog, changes))) {
      // Nothing waits: no record of the log is needed any more.
      changes.push(this.#superblockWithoutLog(changes));
      await this.#through(changes, content, 'ends');
      return;
    }
    // Whoever opens the target reads the superblock before the log.
    const isForTree = options.through === true || changes.some(({ key }) => key[0] === KEY.superblock);
    if (this.#use === 'on' && options.log === undefined && !isForTree) {
      const bytes = logRecordBytes({ changes, content });
      if (redoLog.takes(bytes)) {
        while (!redoLog.hasRoom(bytes)) await this.#checkpoint();
        await redoLog.write({ changes, content });
        redoLog.wrote(bytes);
        this.#waiting.add(changes);
        if (content === undefined) this.#waiting.isContentLoose = false;
        else if (content.length > 0) this.#waiting.isContentLoose = true;
        this.#plan(redoLog);
        return;
      }
    }
    await this.#through(changes, content, options.log);
  }

  /** Commits to the tree, together with what waits. */
  async #through(
    changes: readonly LoggedChange[],
    content: CommitOptions['content'],
    change: CommitOptions['log'],
  ): Promise<void> {
    // The end of one may begin the next.
    while (this.#checkpointing !== undefined) await this.#checkpointing;
    assert(
      this.#use !== 'found' || change !== undefined,
      'a commit would leave a log behind that it has applied',
    );
    if (change === undefined && this.#use === 'on') this.#log?.skip();
    if (change !== undefined) this.#use = change === 'begins' ? 'on' : 'none';
    if (content !== undefined && content.length > 0) this.#waiting.isContentLoose = true;
    this.#waiting.add(changes);
    await this.#checkpoint();
  }

  /** @returns false: the tree may grow into the log with these changes, also when nothing else waits; and nothing does. */
  async #makeRoom(redoLog: RedoLog, changes: readonly LoggedChange[]): Promise<boolean> {
    const bytes = changes.reduce((sum, { key, value }) => sum + key.length + (value?.length ?? 0), 0);
    while (!this.#fits(redoLog, changes.length, bytes)) {
      if (this.#waiting.size === 0 && this.#applying === undefined) return false;
      await this.#checkpoint();
    }
    return true;
  }

  /** @param changes of the same commit: they may have another superblock, to which this is to be added. */
  #superblockWithoutLog(changes: readonly LoggedChange[]): LoggedChange {
    const key = bareKey(KEY.superblock);
    const value = (changes.findLast((change) => change.key.equals(key)) ?? { value: this.get(key) }).value;
    if (value === undefined) throw damaged('superblock, which is missing');
    const superblock = decodeSuperblock(value, this.#checksum, 'the meta device');
    const featuresIncompat = superblock.featuresIncompat & ~FEATURE_REDO_LOG;
    log('the tree comes near the log: the log ends');
    return { key, value: encodeSuperblock({ ...superblock, featuresIncompat }, this.#checksum) };
  }

  /** Begins a checkpoint now if much waits, else later. */
  #plan(redoLog: RedoLog): void {
    if (this.#broken !== undefined || this.#use !== 'on' || this.#waiting.size === 0) return;
    const most = Math.min(CHECKPOINT_RECORDS, recordsAtOnce(redoLog.place.offset));
    const isMuch = this.#waiting.size >= most || redoLog.liveBytes >= redoLog.place.bytes * CHECKPOINT_SHARE;
    if (isMuch) {
      this.#inBackground();
    } else {
      this.#timer ??= this.#options.timers.after(CHECKPOINT_MS, () => {
        this.#timer = undefined;
        this.#inBackground();
      });
    }
  }

  #inBackground(): void {
    if (this.#checkpointing !== undefined || this.#broken !== undefined) return;
    this.#checkpoint().catch((cause: unknown) => {
      log('a checkpoint failed: %O', cause);
      this.#failed.resolve(cause as Error);
    });
  }

  /** Puts what waits into the tree. If a checkpoint is running, waits for that one alone. */
  #checkpoint(): Promise<void> {
    // What a checkpoint did not bring to the tree is only in the log, and the next one would say that it is applied.
    if (this.#broken !== undefined) return Promise.reject(this.#broken);
    this.#checkpointing ??= this.#apply()
      .catch((thrown: unknown) => {
        this.giveUp(thrown as Error);
        throw thrown;
      })
      .finally(() => {
        this.#checkpointing = undefined;
        if (this.#log !== undefined) this.#plan(this.#log);
      });
    return this.#checkpointing;
  }

  async #apply(): Promise<void> {
    const redoLog = this.#log;
    assert(redoLog !== undefined, 'a checkpoint of a database without a log');
    this.#timer?.cancel();
    this.#timer = undefined;
    const layer = this.#waiting;
    this.#waiting = new WaitingChanges();
    this.#applying = layer;
    const isLogged = this.#use === 'on';
    const state = isLogged ? encodeLogState(redoLog.state, this.#checksum) : undefined;
    const { liveBytes } = redoLog;
    if (layer.isContentLoose) await this.#options.data.flush();
    // Another flush has failed meanwhile: it may have taken the error that this one should have got.
    if (this.#broken !== undefined) throw this.#broken;
    await this.#db.commit((writer) => {
      for (const { key, value } of layer.changes()) {
        if (value === undefined) writer.remove(key);
        else writer.put(key, value);
      }
      if (state === undefined) writer.remove(STATE_KEY);
      else writer.put(STATE_KEY, state);
    });
    if (isLogged && (this.#db.use().lastPage + 1) * LMDB_PAGE_BYTES > redoLog.place.offset) {
      // #fits() prevents it. Everything is in the tree now, so a start without a log loses nothing.
      throw new FsError('EIO', 'the database has grown into its redo log');
    }
    this.#applying = undefined;
    redoLog.release(liveBytes);
  }

  async close(): Promise<void> {
    this.#timer?.cancel();
    this.#timer = undefined;
    // A failure is known to the target already, or does not matter any more: the log has everything.
    await this.#checkpointing?.catch((cause: unknown) => log('the last checkpoint failed: %O', cause));
    await this.#log?.close();
    await this.#db.close();
  }

  checkInvariants(): void {
    this.#log?.checkInvariants();
    this.#waiting.checkInvariants();
    this.#applying?.checkInvariants();
    assert(
      this.#use !== 'none' || this.#waiting.size === 0,
      `${this.#waiting.size} changes wait, and there is no log`,
    );
  }
}

function copyOf({ key, value }: LoggedChange): { key: Buffer; value: Buffer } | undefined {
  return value && { key: Buffer.from(key), value: Buffer.from(value) };
}

function collect(write: (writer: Writer) => void): LoggedChange[] {
  const changes: LoggedChange[] = [];
  write({
    put: (key, value) => changes.push({ key, value }),
    remove: (key) => changes.push({ key, value: undefined }),
  });
  return changes;
}

/**
 * Puts a log in front of an open database of this target. If the last instance left one, its changes wait, and the
 * caller sees them. Nothing is written.
 * @param wanted false: a target without a log gets none.
 * @throws FsError EIO if the log that the superblock promises cannot be read.
 */
export async function openLogged(
  medium: MetaMedium,
  db: MetaDatabase,
  device: string,
  superblock: SuperblockRecord,
  checksum: Checksum,
  options: LoggedDatabaseOptions & { readonly wanted: boolean },
): Promise<LoggedDatabase> {
  const { metaSizeBytes, targetUuid } = superblock;
  if ((superblock.featuresIncompat & FEATURE_REDO_LOG) !== 0) {
    return await openFound(medium, db, { metaSizeBytes, targetUuid }, checksum, options);
  }
  const place = logPlace(metaSizeBytes);
  const hasPlace = async (): Promise<boolean> => {
    const meta = await medium.withRawReader((read) => readMeta(read, device, metaSizeBytes));
    return meta !== undefined && (meta.lastPage + 1) * LMDB_PAGE_BYTES <= place.offset;
  };
  if (!options.wanted || !(await hasPlace())) return new LoggedDatabase(db, undefined, checksum, options);
  const redoLog = new RedoLog(await medium.openLog(), place, targetUuid, checksum);
  return new LoggedDatabase(db, redoLog, checksum, options);
}

async function openFound(
  medium: MetaMedium,
  db: MetaDatabase,
  { metaSizeBytes, targetUuid }: { readonly metaSizeBytes: number; readonly targetUuid: TargetUuid },
  checksum: Checksum,
  options: LoggedDatabaseOptions,
): Promise<LoggedDatabase> {
  const value = db.get(STATE_KEY);
  if (value === undefined) throw damaged('state of the redo log, which is missing');
  const applied = decodeLogState(Buffer.from(value), metaSizeBytes, checksum);
  const device = await medium.openLog();
  try {
    const redoLog = new RedoLog(device, applied.place, targetUuid, checksum);
    const records = await redoLog.readFrom(applied);
    const waiting = new WaitingChanges();
    let content: ContentPiece[] = [];
    for (const record of records) {
      waiting.add(record.changes);
      if (record.content === undefined) content = [];
      else content.push(...record.content);
    }
    for (const { offset, bytes } of content) {
      if (offset + bytes.length > options.data.sizeBytes) {
        throw new FsError(
          'EIO',
          `the redo log has content for offset ${offset}, behind the end of the data device`,
        );
      }
    }
    log('%d records of the log wait, with %d pieces of content', records.length, content.length);
    return new LoggedDatabase(db, redoLog, checksum, options, { waiting, content });
  } catch (thrown) {
    await device.close();
    throw thrown;
  }
}

/**
 * For a tool that changes a target without serving it: everything that the log has goes to the tree and to the data device,
 * and the target has no log then. @returns its superblock.
 */
export async function applyFound(
  db: LoggedDatabase,
  superblock: SuperblockRecord,
  checksum: Checksum,
): Promise<SuperblockRecord> {
  if ((superblock.featuresIncompat & FEATURE_REDO_LOG) === 0) return superblock;
  await db.restoreContent();
  return await dropLog(db, superblock, checksum);
}

/** The target has no log then. @returns its superblock. */
export async function dropLog(
  db: MetaDatabase,
  before: SuperblockRecord,
  checksum: Checksum,
): Promise<SuperblockRecord> {
  const superblock = { ...before, featuresIncompat: before.featuresIncompat & ~FEATURE_REDO_LOG };
  await db.commit(
    (writer) => {
      writer.put(bareKey(KEY.superblock), encodeSuperblock(superblock, checksum));
      writer.remove(STATE_KEY);
    },
    { through: true, log: 'ends' },
  );
  return superblock;
}
