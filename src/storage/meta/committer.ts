/**
 * Group commit: while one batch becomes durable, the next one collects.
 *
 * A commit takes these steps, in order. It seals the layer. It flushes the data device if content was written to it, unless
 * the database takes that little content along (logged_database.ts). It writes the records to the database in one
 * transaction, durable when the database says so. It lets the allocator hand out the
 * blocks that the batch freed. It advances lastCommitted. It resolves the waiters. So nothing durable names content
 * that is not durable.
 *
 * A commit starts one interval after the first change, or at once if somebody waits or the batch is large. After a
 * failed commit nobody can know what is on the devices: the target stops, for good.
 */

import { FsError } from '../../base/errno.js';
import type { Transno } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import { notice } from '../../base/notices.js';
import { Deferred } from '../../base/wait.js';
import type { BlockDevice, Runtime, Timer } from '../../runtime/ports.js';
import type { CommitOptions, ContentPiece, MetaDatabase } from '../meta_medium.js';
import type { Overlay } from './overlay.js';

const log = logger('storage:commit');

/** A batch with more records is committed at once: putting them blocks the event loop for about 4 ms. */
const RECORDS_AT_ONCE = 2048;
const BYTES_AT_ONCE = 4 << 20;
/**
 * A commit with file content flushes the data device, which costs more than lmdb's part. So if nobody waits, content
 * collects for longer, up to an amount whose flush does not stall the requests behind it.
 */
const DATA_INTERVAL_MS = 100;
const DATA_BYTES_AT_ONCE = 32 << 20;

interface Waiter {
  resolve(): void;
  reject(error: Error): void;
}

/** What a commit does besides: it always goes to the tree. */
export interface TreeCommit {
  /** Write the counters as they are, not ahead of use: the server is leaving the target clean. */
  readonly final?: boolean;
  readonly log?: CommitOptions['log'];
}

export interface CommitterOptions {
  readonly commitIntervalMs: number;
  /** Most records of a batch that the copied pages have room for; smaller devices commit smaller batches. */
  readonly recordsAtOnce: number;
}

export class Committer {
  readonly #runtime: Pick<Runtime, 'clock' | 'timers' | 'metrics' | 'faults'>;
  readonly #db: MetaDatabase;
  readonly #overlay: Overlay;
  readonly #data: BlockDevice;
  readonly #options: CommitterOptions;
  readonly #listeners: ((lastCommitted: Transno) => void)[] = [];
  readonly #seconds;
  #waiters: Waiter[] = [];
  #extras: TreeCommit[] = [];
  #timer: Timer | undefined;
  #soon = false;
  /** A test injected a fault: the committer commits nothing any more. */
  #held = false;
  #inFlight: Promise<void> | undefined;
  /** The overlay has collected something that no commit has sealed. */
  #collected = false;
  /** Bytes of content written to the device that no commit has begun to make durable. */
  #dataBytes = 0;
  /** All of that content; undefined: it is too much for a commit to take it along. */
  #content: ContentPiece[] | undefined = [];
  #lastCommitted: Transno;
  #failure: FsError | undefined;
  readonly #failed = new Deferred<Error>();
  readonly failed = this.#failed.promise;

  constructor(
    runtime: Pick<Runtime, 'clock' | 'timers' | 'metrics' | 'faults'>,
    db: MetaDatabase,
    overlay: Overlay,
    data: BlockDevice,
    options: CommitterOptions,
  ) {
    this.#runtime = runtime;
    this.#db = db;
    this.#overlay = overlay;
    this.#data = data;
    this.#options = options;
    this.#lastCommitted = overlay.lastTransno;
    this.#seconds = runtime.metrics.histogram('holdfast_storage_commit_seconds', 'Time a group commit takes');
  }

  get lastCommitted(): Transno {
    return this.#lastCommitted;
  }
  get failure(): FsError | undefined {
    return this.#failure;
  }
  onCommit(listener: (lastCommitted: Transno) => void): void {
    this.#listeners.push(listener);
  }

  /** Content was written to the data device that the next commit must make durable. */
  contentWritten(offset: number, chunks: readonly Uint8Array[]): void {
    for (const chunk of chunks) this.#dataBytes += chunk.length;
    if (this.#dataBytes > this.#db.carriesBytes) this.#content = undefined;
    // The caller's memory gets other content soon.
    this.#content?.push({ offset, bytes: Buffer.concat(chunks) });
  }

  /** An operation changed something. */
  changed(): void {
    this.#collected = true;
    if (
      this.#overlay.collectedRecords >= Math.min(RECORDS_AT_ONCE, this.#options.recordsAtOnce) ||
      this.#overlay.pendingBytes >= BYTES_AT_ONCE ||
      this.#dataBytes >= DATA_BYTES_AT_ONCE
    ) {
      this.#startSoon();
    } else if (this.#inFlight === undefined && this.#timer === undefined) {
      const { commitIntervalMs } = this.#options;
      const ms = this.#dataBytes > 0 ? Math.max(commitIntervalMs, DATA_INTERVAL_MS) : commitIntervalMs;
      this.#timer = this.#runtime.timers.after(ms, () => {
        this.#timer = undefined;
        this.#start();
      });
    }
  }

  /** Resolves when every operation executed before the call is durable. Callers share a commit. */
  async sync(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (!this.#collected) {
      await this.#inFlight;
      if (this.#failure !== undefined) throw this.#failure;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      this.#waiters.push({ resolve, reject });
      this.#startSoon();
    });
  }

  /** Commits what is collected to the tree, also if that is nothing. */
  async commitToTree(how: TreeCommit = {}): Promise<void> {
    this.#collected = true;
    this.#extras.push(how);
    await this.sync();
  }

  /** The target must commit nothing any more, for a reason outside the committer. */
  fail(cause: Error): void {
    if (this.#failure === undefined) this.#stop(cause);
  }

  /** Finishes the running commit and begins no other; changes that are collected and not durable are lost. */
  async close(): Promise<void> {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#failure ??= new FsError('EIO', 'the target was closed');
    for (const waiter of this.#waiters.splice(0)) waiter.reject(this.#failure);
    await this.#inFlight;
  }

  /** Callers of the same event-loop turn share the commit. */
  #startSoon(): void {
    if (this.#soon || this.#inFlight !== undefined) return;
    this.#soon = true;
    this.#runtime.timers.soon(() => {
      this.#soon = false;
      this.#start();
    });
  }

  #start(): void {
    if (this.#inFlight !== undefined || this.#failure !== undefined || !this.#collected) return;
    this.#held ||= this.#runtime.faults.strikes('commit.hold');
    if (this.#held) return;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#collected = false;
    this.#inFlight = this.#commit(this.#waiters.splice(0), this.#extras.splice(0)).then(() => {
      this.#inFlight = undefined;
      if (this.#failure !== undefined || !this.#collected) return;
      if (this.#waiters.length > 0) this.#start();
      else this.changed();
    });
  }

  /** Never rejects. */
  async #commit(waiters: readonly Waiter[], extras: readonly TreeCommit[]): Promise<void> {
    const started = this.#runtime.clock.nowMs();
    const transno = this.#overlay.lastTransno;
    this.#overlay.seal(extras.some((extra) => extra.final === true));
    const through = extras.length > 0 || this.#overlay.isForTree;
    try {
      const content = await this.#flushed(through);
      const log = extras.find((extra) => extra.log !== undefined)?.log;
      await this.#db.commit((writer) => this.#overlay.write(writer), { content, through, log });
    } catch (cause) {
      const failure = this.#stop(cause);
      for (const waiter of waiters) waiter.reject(failure);
      return;
    }
    this.#overlay.settle();
    this.#lastCommitted = transno;
    this.#seconds.observe((this.#runtime.clock.nowMs() - started) / 1000);
    for (const listener of this.#listeners) listener(transno);
    for (const waiter of waiters) waiter.resolve();
  }

  /** Flushes the content that was written. @returns instead the content, if the commit takes it along. */
  async #flushed(through: boolean): Promise<ContentPiece[] | undefined> {
    const [bytes, content] = [this.#dataBytes, this.#content];
    this.#dataBytes = 0;
    this.#content = [];
    if (!through && this.#db.carriesBytes > 0 && content !== undefined) return content;
    if (bytes > 0) await this.#data.flush();
    return undefined;
  }

  #stop(cause: unknown): FsError {
    const failure = new FsError('EIO', `the target has failed: ${(cause as Error).message}`, { cause });
    log('the target stops: %O', cause);
    notice('device-failed', `nothing can be committed any more: ${(cause as Error).message}`);
    this.#failure ??= failure;
    for (const waiter of this.#waiters.splice(0)) waiter.reject(failure);
    this.#failed.resolve(failure);
    return failure;
  }
}
