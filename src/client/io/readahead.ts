/**
 * Reads from the target into the page cache, and ahead of a program that reads in order.
 *
 * A caller waits for a range that is under a READ already; the client does not read it twice. A sequential reader has up to
 * 16 MiB of READs of 1 MiB in flight ahead of it; over a slow line fewer and smaller ones (bulk_pace.ts). The client reads what
 * callers wait for in the order in which they ask, a piece for each caller in turn. Readahead takes the room that no caller waits
 * for. No READ is queued: a caller that is interrupted, or a lock that has to go back, waits only for the READs that are under
 * way. The client takes from a reply nothing that was written or cut while its READ was under way.
 * The client drops files larger than half the cache behind a sequential reader: the kernel has those pages, and keeping them
 * would push out everything else.
 */

import { IntervalSet, type Range } from '../../base/interval_set.js';
import { logger } from '../../base/log.js';
import { interruptible, WaitList } from '../../base/wait.js';
import { Read } from '../../wire/data.js';
import type { ClientContext } from '../cache/context.js';
import { type Fetch, type FileState, removeFrom } from '../cache/file_state.js';
import { GRANULE_BYTES } from '../cache/granule.js';
import type { Handle } from '../cache/open_files.js';
import type { TargetSession } from '../session/target_session.js';
import { BulkPace } from './bulk_pace.js';
import type { FileUse } from './file_use.js';

const log = logger('client:read');

const WINDOW_MAX_BYTES = 16 << 20;
const FIRST_WINDOW_BYTES = 128 << 10;
/** The kernel sends the reads of one stream in parallel: a read that begins this near to the end of the last is in order. */
const SEQUENTIAL_SLACK_BYTES = 1 << 20;
const ALIGN_BYTES = 4096;

/** READs of one target. */
interface Lane {
  readonly pace: BulkPace;
  inFlightBytes: number;
  /** Callers that wait for room, in order. */
  readonly waiting: WaitList;
}

export class Reader {
  readonly #context: ClientContext;
  readonly #lanes = new Map<TargetSession, Lane>();

  constructor(context: ClientContext) {
    this.#context = context;
  }

  /** A read was served or is about to be: keeps the reader's window filled. */
  advance(target: TargetSession, file: FileState, handle: Handle, start: number, end: number): void {
    const inOrder = Math.abs(start - handle.nextRead) <= SEQUENTIAL_SLACK_BYTES;
    handle.sequentialReads = inOrder ? handle.sequentialReads + 1 : 0;
    handle.nextRead = inOrder ? Math.max(handle.nextRead, end) : end;
    if (handle.sequentialReads < 2) return;
    const lane = this.#lane(target);
    const { pieceBytes } = lane.pace;
    if (Math.floor(end / pieceBytes) === Math.floor(start / pieceBytes) && start % pieceBytes !== 0) return;
    const window = Math.min(WINDOW_MAX_BYTES, FIRST_WINDOW_BYTES << Math.min(handle.sequentialReads, 10));
    const stop = Math.min(file.sizeBytes, Math.ceil((end + window) / GRANULE_BYTES) * GRANULE_BYTES);
    for (let at = end; at < stop && lane.waiting.size === 0 && hasRoom(lane); ) {
      const pieceEnd = endOfPiece(lane, at, stop);
      this.#fetch(target, file, at, pieceEnd);
      at = pieceEnd;
    }
    if (file.sizeBytes > this.#context.pages.limitBytes / 2) {
      const granule = Math.floor(start / GRANULE_BYTES);
      for (let index = granule - 2; index >= Math.max(0, granule - 4); index -= 1) {
        file.pages.dropClean(index);
      }
    }
  }

  /**
   * Reads what is missing of [start, end). The caller holds a reference to a data lock.
   * @throws FsError of the READ, EINTR, or why `life` has ended
   */
  async need({ op, life, target, file }: FileUse, start: number, end: number): Promise<void> {
    const from = start - (start % ALIGN_BYTES);
    const to = Math.min(Math.max(end, file.sizeBytes), Math.ceil(end / ALIGN_BYTES) * ALIGN_BYTES);
    const lane = this.#lane(target);
    const fetches: Promise<void>[] = [];
    for (let at = from; at < to; ) {
      const pieceEnd = endOfPiece(lane, at, to);
      // What is under way already needs no room: readahead may have filled it.
      if (!hasRoom(lane) && lacking(file, at, pieceEnd).ranges.length > 0) {
        await life.wait(interruptible(lane.waiting.wait(), op.signal));
        continue;
      }
      for (const fetch of this.#fetch(target, file, at, pieceEnd)) fetches.push(fetch.done);
      at = pieceEnd;
    }
    await life.wait(interruptible(Promise.all(fetches), op.signal));
  }

  #lane(target: TargetSession): Lane {
    let lane = this.#lanes.get(target);
    if (lane === undefined) {
      lane = { pace: new BulkPace(WINDOW_MAX_BYTES), inFlightBytes: 0, waiting: new WaitList() };
      this.#lanes.set(target, lane);
    }
    return lane;
  }

  /** READs that together bring what is missing of the range, those under way included. It lies in one granule. */
  #fetch(target: TargetSession, file: FileState, start: number, end: number): Fetch[] {
    const { ranges, underWay } = lacking(file, start, end);
    for (const range of ranges) {
      const fetch = this.#read(target, file, range);
      if (fetch !== undefined) underWay.push(fetch);
    }
    return underWay;
  }

  /** @returns undefined without a data lock: only readahead asks without one, and the client can skip that READ. */
  #read(target: TargetSession, file: FileState, { start, end }: Range): Fetch | undefined {
    const lock = target.locks.find('data', file.fid, 'PR', 0);
    if (lock === undefined) return undefined;
    const fetch: Fetch = { start, end, stale: [], done: Promise.resolve() };
    const { cover } = target;
    const { clock } = this.#context.runtime;
    const lane = this.#lane(target);
    const sentMs = clock.nowMs();
    lane.inFlightBytes += end - start;
    target.locks.addRef(lock);
    file.fetches.push(fetch);
    fetch.done = target
      .call(
        'data',
        Read,
        { fid: file.fid, offset: start, length: end - start },
        {
          apply: ({ bulk }) => {
            lane.pace.answered(sentMs, clock.nowMs());
            if (!cover.isOver) land(file, fetch, bulk);
          },
        },
      )
      .then(() => undefined)
      .finally(() => {
        lane.inFlightBytes -= end - start;
        removeFrom(file.fetches, fetch);
        target.locks.dropRef(lock);
        lane.waiting.wake();
        // If the session has ended meanwhile, this was the last that needed the file.
        this.#context.forgetFileIfUnused(target, file);
      });
    // A caller that needs the range gets the error from need(). Nobody needs it from readahead, or after an interrupt.
    fetch.done.catch(() => undefined);
    if (log.enabled) log('READ %d [%d, %d)', file.fid, start, end);
    return fetch;
  }
}

/** READs under way that bring parts of the range, and the missing parts that none of them brings. */
function lacking(file: FileState, start: number, end: number): { ranges: Range[]; underWay: Fetch[] } {
  const ranges: Range[] = [];
  const underWay: Fetch[] = [];
  for (const gap of file.pages.missing(start, end)) {
    const uncovered = new IntervalSet();
    uncovered.add(gap.start, gap.end);
    for (const fetch of file.fetches) {
      if (fetch.start >= gap.end || fetch.end <= gap.start) continue;
      uncovered.remove(fetch.start, fetch.end);
      underWay.push(fetch);
    }
    ranges.push(...uncovered);
  }
  return { ranges, underWay };
}

function hasRoom({ pace, inFlightBytes }: Lane): boolean {
  return pace.hasRoom(inFlightBytes);
}

/** Where a READ that begins at `start` ends: pieces do not reach over the end of a granule. */
function endOfPiece({ pace }: Lane, start: number, limit: number): number {
  return Math.min(limit, (Math.floor(start / pace.pieceBytes) + 1) * pace.pieceBytes);
}

function land(file: FileState, fetch: Fetch, bulk: Buffer): void {
  // A small view would keep the whole receive buffer alive.
  const data = bulk.length * 2 < bulk.buffer.byteLength ? Buffer.from(bulk) : bulk;
  const fresh = new IntervalSet();
  fresh.add(fetch.start, fetch.end);
  for (const { start, end } of fetch.stale) fresh.remove(start, end);
  const read = fetch.start + data.length;
  for (const { start, end } of fresh) {
    if (start < read) {
      const all = start === fetch.start && end >= read;
      const fresh = all ? data : data.subarray(start - fetch.start, Math.min(end, read) - fetch.start);
      file.pages.fill(start, fresh, all && data.length === data.buffer.byteLength ? data : undefined);
    }
    // From the end of the file on the target to its end here: nobody has written these bytes, so they are zeros.
    const zerosTo = Math.min(end, file.sizeBytes);
    if (zerosTo > Math.max(start, read)) file.pages.fillZeros(Math.max(start, read), zerosTo);
  }
}
