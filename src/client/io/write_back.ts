/**
 * Write-back: dirty pages to the target, in the background.
 *
 * The client writes a granule at once when it is dirty from end to end. It writes everything of a file when somebody flushes
 * the file (fsync, a lock called back, a drain), when it is closed (small files a moment later, together), when it has been
 * dirty for a second, or when too much is dirty. Up to eight WRITEs of up to 1 MiB, or more small ones, are in flight for each
 * target, never two that overlap; fewer and smaller ones over a slow line (bulk_pace.ts).
 *
 * The client keeps what is written and not committed for a replay (replay_list.ts). When that is too much, it asks the target
 * to commit, and sends nothing more until the target has done so.
 *
 * A WRITE that fails for good (ENOSPC, EIO, ...) drops its pages, as the kernel does: keeping them would only fail again
 * and stop every lock callback. Each handle that may have written keeps the error, and reports it once.
 *
 * Invariants: exactly the files that are not clean are in `#dirty`, and a timer watches their age; a lane counts the WRITEs of
 * its files that are under way; a file of which the client writes everything is in its lane, or has a WRITE under way.
 */

import { assert } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import type { MaybePromise } from '../../base/maybe_promise.js';
import { interruptible, WaitList } from '../../base/wait.js';
import type { Timer } from '../../runtime/ports.js';
import { BATCH_CONTENT_MAX } from '../../wire/batch.js';
import { Sync, Write } from '../../wire/data.js';
import { Getattr } from '../../wire/meta.js';
import type { ClientContext } from '../cache/context.js';
import type { FileState } from '../cache/file_state.js';
import { type Batch, GRANULE_BYTES } from '../cache/granule.js';
import type { WholeContent } from '../session/change_log.js';
import type { Passenger } from '../session/gate.js';
import { BULK_MAX_BYTES } from '../session/replay_list.js';
import { ACROSS_SESSIONS, type TargetSession } from '../session/target_session.js';
import { BulkPace } from './bulk_pace.js';
import type { FileUse } from './file_use.js';

const log = logger('client:write_back');

const WRITES_IN_FLIGHT_MAX = 8;
/** More small WRITEs than that may be in flight, as those of many files that were closed. */
const SMALL_IN_FLIGHT_MAX = 64;
const SMALL_IN_FLIGHT_BYTES = 1 << 20;
/** A closed file with less dirty data than this waits for others: one system call sends the WRITEs of all of them. */
const SMALL_FILE_BYTES = 64 << 10;
/** Short beside DIRTY_AGE_MS, long beside the creation of a file. */
const CLOSED_DELAY_MS = 5;
const SECTOR_BYTES = 512;
const DIRTY_AGE_MS = 1000;
const AGE_LOOK_MS = 250;
/** If a target could not commit, the client asks it again after this time. */
const SYNC_RETRY_MS = 1000;

/** Work of one target. */
interface Lane {
  readonly pace: BulkPace;
  inFlight: number;
  inFlightBytes: number;
  /** A timer runs that will write small closed files. */
  closed: boolean;
  /** A SYNC is under way: so much is uncommitted that the client sends no more before its answer. */
  syncing: boolean;
  /** Files of which the client writes everything. */
  readonly whole: Set<FileState>;
  /** Files of which it writes the full granules. */
  readonly full: Set<FileState>;
}

export class WriteBack {
  readonly #context: ClientContext;
  readonly #lanes = new Map<TargetSession, Lane>();
  /** Files with dirty pages, those dirty longest first. */
  readonly #dirty = new Map<FileState, TargetSession>();
  readonly #landed = new WaitList();
  #ageTimer: Timer | undefined;
  #stopped = false;

  constructor(context: ClientContext) {
    this.#context = context;
  }

  /** Bytes [start, end) of the file were dirtied just now. */
  dirtied(target: TargetSession, file: FileState, start: number, end: number): void {
    if (!this.#dirty.has(file)) {
      this.#dirty.set(file, target);
      this.#watchAge();
    }
    if (file.pages.isFull(start) || file.pages.isFull(end - 1)) {
      this.#lane(target).full.add(file);
      this.#pump(target);
    }
    if (this.#context.pages.dirtyBytes > this.#context.dirtyLimitBytes / 2) this.#startOldest();
  }

  /** Begins to write everything of the file. */
  start(target: TargetSession, file: FileState): void {
    if (file.pages.dirtyBytes === 0) return;
    file.flushing = true;
    this.#lane(target).whole.add(file);
    this.#pump(target);
  }

  /** Begins to write everything. */
  startAll(): void {
    for (const [file, target] of this.#dirty) this.start(target, file);
  }

  /**
   * Begins to write everything of a file that was closed. Nobody waits for that, so small files wait a moment for each other.
   * @returns a promise if close(2) has to wait: the target has not said yet whether it has space for stores into a mapping. The
   * wait ends when the target goes away, because nobody can kill a process that is already exiting.
   */
  closed(target: TargetSession, file: FileState): Promise<unknown> | undefined {
    if (file.unpaidSeq > 0 && !file.pages.isWritten(file.unpaidSeq)) {
      return Promise.race([this.flush(target, file), target.gate.shut()]);
    }
    this.#closedLater(target, file);
    return undefined;
  }

  #closedLater(target: TargetSession, file: FileState): void {
    const { dirtyBytes } = file.pages;
    if (dirtyBytes === 0) return;
    if (dirtyBytes >= SMALL_FILE_BYTES) {
      this.start(target, file);
      return;
    }
    const lane = this.#lane(target);
    file.flushing = true;
    lane.whole.add(file);
    if (lane.closed) return;
    lane.closed = true;
    this.#context.runtime.timers.after(CLOSED_DELAY_MS, () => {
      lane.closed = false;
      this.#pump(target);
    });
  }

  /** Whether takeWhole() would take the content now. */
  isWhole(fid: Fid): boolean {
    const file = this.#context.files.get(fid);
    if (file === undefined || file.isClean || !file.sizeKnown) return false;
    const { sizeBytes, pages } = file;
    return (
      sizeBytes <= BATCH_CONTENT_MAX &&
      pages.dirtyBytes === sizeBytes &&
      pages.unwrittenBytes === sizeBytes &&
      pages.unwrittenEnd === sizeBytes
    );
  }

  /** The content of a new file, to go with the BATCH that makes the file; undefined if it is large, or not dirty as a whole. */
  takeWhole(target: TargetSession, fid: Fid): WholeContent | undefined {
    const file = this.#context.files.get(fid);
    if (file === undefined || !this.isWhole(fid)) return undefined;
    const batch = file.pages.takeDirty(false);
    if (batch === undefined) return undefined;
    assert(batch.start === 0 && batch.end === file.sizeBytes, `the content of ${fid} is not whole`);
    const lane = this.#lane(target);
    const { session } = target;
    lane.inFlight += 1;
    lane.inFlightBytes += batch.end;
    file.contentUnderWay = true;
    return {
      fid,
      mtime: file.mtime,
      chunks: batch.chunks,
      lengthBytes: batch.end,
      ended: (error) => {
        file.contentUnderWay = false;
        if (error === undefined) {
          // It lies in the meta store.
          file.blocks = Math.ceil(batch.end / SECTOR_BYTES);
          file.pages.written(batch);
        } else {
          this.#failed(target, file, batch, error, !session.isOver);
        }
        if (!session.isOver) target.grantBytes += batch.grantBytes;
        this.#landing(target, lane, file, batch);
      },
    };
  }

  /** Resolves when all that is dirty now is written or dropped; undefined when nothing is. */
  flush(target: TargetSession, file: FileState): Promise<void> | undefined {
    if (file.isClean) return undefined;
    const { seq } = file.pages;
    if (file.pages.isWritten(seq)) return undefined;
    const written = new Promise<void>((done) => {
      file.flushWaiters.push({ seq, done });
    });
    this.start(target, file);
    return written;
  }

  async flushAll(target: TargetSession): Promise<void> {
    const files = [...this.#dirty].filter(([, of]) => of === target);
    // What an eviction drops need not be written: then this resolves too.
    await ACROSS_SESSIONS.wait(Promise.all(files.map(([file]) => this.flush(target, file))));
  }

  /** Whether this many more bytes may be dirty. */
  hasRoom(bytes: number): boolean {
    const dirty = this.#context.pages.dirtyBytes;
    return dirty === 0 || dirty + bytes <= this.#context.dirtyLimitBytes;
  }

  /**
   * Waits until this many more bytes may be dirty: not at all, or until others were written.
   * @throws FsError EINTR, or why `use.life` has ended (as a rejection)
   */
  room(use: FileUse, bytes: number): MaybePromise<void> {
    if (this.hasRoom(bytes)) return undefined;
    return this.#waitForRoom(use, bytes);
  }

  async #waitForRoom({ op, life }: FileUse, bytes: number): Promise<void> {
    while (!this.hasRoom(bytes)) {
      this.#startOldest();
      await life.wait(interruptible(this.#landed.wait(), op.signal));
    }
  }

  /** Starts all WRITEs of this target. @returns a wait for the next reply, which may bring grant; undefined: none will come. */
  moreGrant(target: TargetSession, op: Passenger): Promise<void> | undefined {
    for (const [file, of] of this.#dirty) if (of === target) this.start(target, file);
    const { inFlight, syncing } = this.#lane(target);
    if (inFlight === 0 && !syncing) return undefined;
    return interruptible(this.#landed.wait(), op.signal);
  }

  /** Pages were dropped without a WRITE: callers that waited for them need not wait any more. */
  dropped(file: FileState): void {
    this.#settle(file);
    this.#landed.wake();
  }

  stop(): void {
    this.#stopped = true;
    this.#ageTimer?.cancel();
  }

  #lane(target: TargetSession): Lane {
    let lane = this.#lanes.get(target);
    if (lane === undefined) {
      lane = {
        pace: new BulkPace(WRITES_IN_FLIGHT_MAX * GRANULE_BYTES),
        inFlight: 0,
        inFlightBytes: 0,
        closed: false,
        syncing: false,
        whole: new Set(),
        full: new Set(),
      };
      this.#lanes.set(target, lane);
    }
    return lane;
  }

  #startOldest(): void {
    let bytes = 0;
    for (const [file, target] of this.#dirty) {
      if (bytes > this.#context.dirtyLimitBytes / 4) return;
      bytes += file.unwrittenBytes;
      this.start(target, file);
    }
  }

  #watchAge(): void {
    if (this.#ageTimer !== undefined || this.#stopped) return;
    this.#ageTimer = this.#context.runtime.timers.after(AGE_LOOK_MS, () => {
      this.#ageTimer = undefined;
      const now = this.#context.runtime.clock.nowMs();
      for (const [file, target] of this.#dirty) {
        const { dirtySinceMs = now } = file.pages;
        // At the next look it would be too old.
        if (now - dirtySinceMs + AGE_LOOK_MS > DIRTY_AGE_MS) this.start(target, file);
      }
      if (this.#dirty.size > 0) this.#watchAge();
    });
  }

  #pump(target: TargetSession): void {
    const lane = this.#lane(target);
    while (mayWrite(lane)) {
      if (target.replays.bulkBytes > BULK_MAX_BYTES) {
        this.#sync(target, lane);
        return;
      }
      const batch = this.#next(target, lane, lane.whole, false) ?? this.#next(target, lane, lane.full, true);
      if (batch === undefined) return;
      this.#send(target, lane, batch.file, batch.batch);
    }
  }

  #sync(target: TargetSession, lane: Lane): void {
    if (lane.syncing) return;
    lane.syncing = true;
    target
      .call('data', Sync, {})
      .then(
        () => 0,
        (error: unknown) => {
          log('SYNC before more is written: %s', error);
          return target.replays.bulkBytes > BULK_MAX_BYTES ? SYNC_RETRY_MS : 0;
        },
      )
      .then((waitMs) => {
        this.#context.runtime.timers.after(waitMs, () => {
          lane.syncing = false;
          this.#pump(target);
          this.#landed.wake();
        });
      });
  }

  /** The next WRITE of one of these files, in turn. */
  #next(
    target: TargetSession,
    lane: Lane,
    files: Set<FileState>,
    fullOnly: boolean,
  ): { file: FileState; batch: Batch } | undefined {
    for (const file of files) {
      files.delete(file);
      // The content of a small file goes with the change that makes the file.
      if (target.changes.isWaiting(file.fid)) target.changes.push();
      const batch = file.pages.takeDirty(fullOnly, lane.pace.pieceBytes);
      if (batch === undefined) continue; // clean, or under a WRITE: the end of that WRITE brings the file back
      // Takes back grant for blocks that were dropped since. While other data was dirty, the grant could still be for its blocks.
      if (file.pages.dirtyBytes === 0) target.grantBytes += file.pages.refund();
      files.add(file);
      return { file, batch };
    }
    return undefined;
  }

  #send(target: TargetSession, lane: Lane, file: FileState, batch: Batch): void {
    const { session } = target;
    lane.inFlight += 1;
    lane.inFlightBytes += batch.end - batch.start;
    const sentMs = this.#context.runtime.clock.nowMs();
    const request = {
      fid: file.fid,
      offset: batch.start,
      mtime: file.mtime,
      grantUsed: batch.grantBytes,
    };
    target
      .call('data', Write, request, {
        bulk: batch.chunks,
        apply: ({ reply }) => {
          lane.pace.answered(sentMs, this.#context.runtime.clock.nowMs());
          file.blocks = reply.blocks;
          target.grantBytes += reply.grantBytes;
        },
      })
      .then(
        () => file.pages.written(batch),
        (error: unknown) => this.#failed(target, file, batch, error, !session.isOver),
      )
      .finally(() => this.#landing(target, lane, file, batch))
      .catch((error: unknown) => log('%O', error));
  }

  #landing(target: TargetSession, lane: Lane, file: FileState, batch: Batch): void {
    lane.inFlight -= 1;
    lane.inFlightBytes -= batch.end - batch.start;
    this.#settle(file);
    if (file.pages.dirtyBytes > 0) (file.flushing ? lane.whole : lane.full).add(file);
    this.#landed.wake();
    this.#pump(target);
    if (file.isClean) this.#context.forgetFileIfUnused(target, file);
  }

  /** Ends the waits for what is written now. */
  #settle(file: FileState): void {
    if (file.pages.dirtyBytes === 0) file.flushing = false;
    if (file.isClean) this.#dirty.delete(file);
    if (file.flushWaiters.length === 0) return;
    for (const waiter of file.flushWaiters.splice(0)) {
      if (file.pages.isWritten(waiter.seq)) waiter.done();
      else file.flushWaiters.push(waiter);
    }
  }

  #failed(target: TargetSession, file: FileState, batch: Batch, thrown: unknown, sameSession: boolean): void {
    file.pages.failed(batch);
    // The client was evicted: the eviction has dropped and reported everything.
    if (!sameSession) return;
    const error =
      thrown instanceof FsError ? thrown : new FsError('EIO', 'write-back failed', { cause: thrown });
    // The inode is gone: nobody has it open any more.
    if (error.code === 'ENOENT' || error.code === 'ESTALE') {
      log('%d is gone; %d dirty bytes dropped', file.fid, batch.end - batch.start);
      return;
    }
    const bytes = batch.end - batch.start;
    this.#context.options.onState?.(
      `${bytes} bytes written to inode ${file.fid} are lost: ${error.message}`,
      'data-lost',
    );
    this.#context.writeFailed(file, error);
    target.losses?.push({ bytes, operations: 0, why: error.message });
    this.#refreshSize(target, file);
  }

  /** The WRITE that failed may have had to extend the file: the size is now the target's, or the end of what is still dirty. */
  #refreshSize(target: TargetSession, file: FileState): void {
    target
      .call(
        'data',
        Getattr,
        { fid: file.fid, want: 0 },
        {
          apply: ({ reply }) => {
            this.#context.beliefs.applyAttr(target, reply.attr, true);
            file.sizeBytes = Math.max(file.sizeBytes, file.pages.unwrittenEnd);
          },
        },
      )
      .then(() => this.#context.kernel.dropAttrs(file.fid))
      .catch((error: unknown) => log('size of %d after a failed write: %s', file.fid, error));
  }

  /** To be called between two events. */
  checkInvariants(): void {
    const underWay = new Map<TargetSession, { count: number; bytes: number }>();
    for (const file of this.#context.files.values()) {
      const target = this.#context.targets.of(file.fid);
      const { fid, isClean } = file;
      assert(
        this.#dirty.get(file) === (isClean ? undefined : target),
        `file ${fid} is clean: ${isClean}, and known to write-back: ${this.#dirty.has(file)}`,
      );
      const sum = underWay.get(target) ?? { count: 0, bytes: 0 };
      underWay.set(target, sum);
      let flights = 0;
      for (const { start, end } of file.knownPages?.flights() ?? []) {
        flights += 1;
        sum.bytes += end - start;
      }
      sum.count += flights;
      const isQueued = this.#lanes.get(target)?.whole.has(file) === true;
      assert(
        !file.flushing || flights > 0 || isQueued,
        `file ${fid} is to be written, and nothing begins it`,
      );
    }
    for (const file of this.#dirty.keys()) {
      assert(this.#context.files.get(file.fid) === file, `file ${file.fid} is dirty, and forgotten`);
    }
    assert(
      this.#dirty.size === 0 || this.#stopped || this.#ageTimer !== undefined,
      'nobody looks at the age',
    );
    for (const [target, { inFlight, inFlightBytes }] of this.#lanes) {
      const { count, bytes } = underWay.get(target) ?? { count: 0, bytes: 0 };
      assert(inFlight === count, `${count} WRITEs are under way, counted ${inFlight}`);
      assert(inFlightBytes === bytes, `${bytes} bytes are under way, counted ${inFlightBytes}`);
    }
  }
}

function mayWrite({ inFlight, inFlightBytes, pace }: Lane): boolean {
  if (!pace.hasRoom(inFlightBytes)) return false;
  if (inFlight < WRITES_IN_FLIGHT_MAX) return true;
  return inFlight < SMALL_IN_FLIGHT_MAX && inFlightBytes < SMALL_IN_FLIGHT_BYTES;
}
