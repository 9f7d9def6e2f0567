/**
 * File contents in memory: clean pages up to a byte limit, dirty pages pinned until they are written back.
 *
 * A file is cut into granules of 1 MiB; a granule holds sorted, disjoint segments, each one view of memory.
 * Invariants:
 * - Bytes that a segment showed once never change. A write makes new memory and cuts the old segment, or fills spare
 *   room behind what was ever shown. So views that read() handed out, and those under a WRITE, stay what they were.
 * - A segment is CLEAN, DIRTY, or in FLIGHT (under a WRITE that has not been answered). No range is under two WRITEs:
 *   a page dirtied again while in flight waits until that WRITE is answered.
 * - Granules without dirty or flying bytes are in the LRU; all others are pinned. LRU bytes + pinned bytes <= limit as
 *   long as the dirty bytes alone are below it (write_back.ts bounds them).
 */

import { LRUCache } from 'lru-cache';
import { assert } from '../base/assert.js';
import { IntervalSet, type Range } from '../base/interval_set.js';

export const GRANULE_BYTES = 1 << 20;
/** The unit in which the target's space grant is paid. */
const BLOCK_BYTES = 4096;
/** More segments than this in one granule are copied together. */
const SEGMENTS_MAX = 128;
const ZEROS = Buffer.alloc(GRANULE_BYTES);

/** One WRITE to be sent. */
export interface Batch {
  readonly start: number;
  readonly end: number;
  readonly chunks: readonly Uint8Array[];
  /** Bytes of grant paid for it. */
  readonly grantBytes: number;
}

interface Segment {
  start: number;
  end: number;
  data: Uint8Array;
  state: 'clean' | 'dirty' | 'flight';
  /** The WRITE that carries it. */
  flight: Batch | undefined;
  /** When it became dirty, in writes of the file. */
  seq: number;
  /** Memory that begins with data and has room behind it; undefined when there is none. */
  backing: Buffer | undefined;
}

class Granule {
  readonly file: FilePages;
  readonly index: number;
  segments: Segment[] = [];
  bytes = 0;
  /** Dirty and in flight. */
  pinned = 0;
  constructor(file: FilePages, index: number) {
    this.file = file;
    this.index = index;
  }
}

/** The pages of all files of a client. */
export class PageCache {
  readonly limitBytes: number;
  readonly #clean: LRUCache<Granule, Granule>;
  #pinnedBytes = 0;
  #dirtyBytes = 0;

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
    this.#clean = new LRUCache({
      maxSize: Math.max(limitBytes, GRANULE_BYTES),
      dispose: (_value, granule, reason) => {
        if (reason === 'evict') granule.file.evicted(granule);
      },
    });
  }

  /** Bytes held, dirty ones included. */
  get bytes(): number {
    return this.#clean.calculatedSize + this.#pinnedBytes;
  }

  /** Dirty and in flight. */
  get dirtyBytes(): number {
    return this.#dirtyBytes;
  }

  /** A granule's content changed by so much. */
  account(granule: Granule, bytes: number, pinned: number): void {
    const wasPinned = granule.pinned > 0;
    this.#dirtyBytes += pinned;
    if (wasPinned) this.#pinnedBytes -= granule.bytes;
    granule.bytes += bytes;
    granule.pinned += pinned;
    if (granule.pinned > 0) {
      if (!wasPinned) this.#clean.delete(granule);
      this.#pinnedBytes += granule.bytes;
    } else if (granule.bytes > 0) {
      this.#clean.set(granule, granule, { size: granule.bytes });
    } else {
      this.#clean.delete(granule);
    }
    this.#shrink();
  }

  touch(granule: Granule): void {
    if (granule.pinned === 0) this.#clean.get(granule);
  }

  #shrink(): void {
    while (this.bytes > this.limitBytes) {
      // Disposes of it as an eviction.
      if (this.#clean.pop() === undefined) return;
    }
  }
}

export type { Granule };

/** The pages of one file. */
export class FilePages {
  readonly #cache: PageCache;
  readonly #granules = new Map<number, Granule>();
  /** Granules with dirty segments, oldest first. */
  readonly #dirty = new Set<Granule>();
  readonly #flights = new Set<Batch>();
  /** Blocks whose grant is paid and not yet sent. */
  readonly #paid = new IntervalSet();
  #seq = 0;
  #dirtyBytes = 0;
  #unwrittenBytes = 0;

  constructor(cache: PageCache) {
    this.#cache = cache;
  }

  /** Number of the last write. */
  get seq(): number {
    return this.#seq;
  }

  /** Dirty, those in flight not counted. */
  get dirtyBytes(): number {
    return this.#dirtyBytes;
  }

  get inFlight(): number {
    return this.#flights.size;
  }

  /** Dirty, and in flight as far as it was not dirtied again or dropped. */
  get unwrittenBytes(): number {
    return this.#unwrittenBytes;
  }

  /** End of the last dirty or flying byte, 0 without any. */
  get unwrittenEnd(): number {
    let end = 0;
    for (const granule of this.#granules.values()) {
      for (const segment of granule.segments) if (segment.state !== 'clean') end = Math.max(end, segment.end);
    }
    return end;
  }

  /** Nothing is left to be written, nothing under way. */
  get isClean(): boolean {
    return this.#dirtyBytes === 0 && this.#flights.size === 0;
  }

  get isEmpty(): boolean {
    return this.#granules.size === 0 && this.#flights.size === 0;
  }

  /** Views that together are [start, end), or undefined when some of it is not here. */
  collect(start: number, end: number): Uint8Array[] | undefined {
    const views: Uint8Array[] = [];
    let at = start;
    while (at < end) {
      const granule = this.#granules.get(Math.floor(at / GRANULE_BYTES));
      if (granule === undefined) return undefined;
      this.#cache.touch(granule);
      const stop = Math.min(end, (granule.index + 1) * GRANULE_BYTES);
      const segments = granule.segments;
      for (let index = firstEndingAfter(segments, at); at < stop; index += 1) {
        const segment = segments[index];
        if (segment === undefined || segment.start > at) return undefined;
        const to = Math.min(segment.end, stop);
        views.push(
          at === segment.start && to === segment.end
            ? segment.data
            : segment.data.subarray(at - segment.start, to - segment.start),
        );
        at = to;
      }
    }
    return views;
  }

  /** The parts of [start, end) that are not here. */
  missing(start: number, end: number): Range[] {
    const gaps: Range[] = [];
    let at = start;
    while (at < end) {
      const index = Math.floor(at / GRANULE_BYTES);
      const stop = Math.min(end, (index + 1) * GRANULE_BYTES);
      const segments = this.#granules.get(index)?.segments ?? [];
      for (let i = firstEndingAfter(segments, at); at < stop; i += 1) {
        const segment = segments[i];
        const from = segment === undefined ? stop : Math.min(segment.start, stop);
        if (from > at) gaps.push({ start: at, end: from });
        at = segment === undefined ? stop : Math.min(segment.end, stop);
      }
    }
    return gaps;
  }

  /** Clean data from the target, kept without a copy. What is here already is newer, and stays. */
  fill(start: number, data: Uint8Array): void {
    for (const gap of this.missing(start, start + data.length)) {
      const granule = this.#granule(Math.floor(gap.start / GRANULE_BYTES));
      const view = data.subarray(gap.start - start, gap.end - start);
      const at = firstEndingAfter(granule.segments, gap.start);
      granule.segments.splice(at, 0, cleanSegment(gap.start, gap.end, view));
      this.#account(granule, gap.end - gap.start, 0);
      this.#compact(granule);
    }
  }

  /** A hole: zeros without memory of their own. */
  fillZeros(start: number, end: number): void {
    for (let at = start; at < end; ) {
      const stop = Math.min(end, (Math.floor(at / GRANULE_BYTES) + 1) * GRANULE_BYTES);
      this.fill(at, ZEROS.subarray(0, stop - at));
      at = stop;
    }
  }

  /** Bytes of grant that a write of this range would cost now. */
  grantCost(start: number, end: number): number {
    const from = Math.floor(start / BLOCK_BYTES);
    const to = Math.ceil(end / BLOCK_BYTES);
    let blocks = to - from;
    for (const paid of this.#paid.within(from, to)) blocks -= paid.end - paid.start;
    return blocks * BLOCK_BYTES;
  }

  /**
   * Copies data in and marks it dirty.
   * @param paid its grant was taken from the target's.
   */
  write(start: number, data: Uint8Array, paid: boolean): void {
    this.#seq += 1;
    if (paid) {
      this.#paid.add(Math.floor(start / BLOCK_BYTES), Math.ceil((start + data.length) / BLOCK_BYTES));
    }
    let at = 0;
    while (at < data.length) {
      const offset = start + at;
      const granule = this.#granule(Math.floor(offset / GRANULE_BYTES));
      const length = Math.min(data.length - at, (granule.index + 1) * GRANULE_BYTES - offset);
      this.#writeGranule(granule, offset, data.subarray(at, at + length));
      at += length;
    }
  }

  /** A granule is dirty from end to end: worth a WRITE of its own. */
  isFull(offset: number): boolean {
    const granule = this.#granules.get(Math.floor(offset / GRANULE_BYTES));
    return granule !== undefined && granule.pinned >= GRANULE_BYTES && this.#dirty.has(granule);
  }

  /**
   * Takes one run of adjacent dirty segments for a WRITE: they are in flight until written() or failed().
   * @param fullOnly only granules that are dirty from end to end.
   */
  takeDirty(fullOnly: boolean): Batch | undefined {
    for (const granule of this.#dirty) {
      if (fullOnly && granule.pinned < GRANULE_BYTES) continue;
      const batch = this.#takeRun(granule);
      if (batch !== undefined) return batch;
    }
    return undefined;
  }

  /** The WRITE was answered: what of it was not dirtied again is clean. */
  written(batch: Batch): void {
    this.#land(batch, (granule, segment) => {
      segment.state = 'clean';
      segment.flight = undefined;
      this.#account(granule, 0, segment.start - segment.end);
    });
  }

  /** The WRITE failed for good: what of it was not dirtied again is dropped. */
  failed(batch: Batch): void {
    this.#land(batch, (granule, segment) => {
      const length = segment.end - segment.start;
      granule.segments.splice(granule.segments.indexOf(segment), 1);
      this.#account(granule, -length, -length);
      this.#forgetEmpty(granule);
    });
  }

  /** All that was dirtied up to write `seq` is written or dropped. */
  isWritten(seq: number): boolean {
    for (const batch of this.#flights) {
      for (const segment of this.#segmentsOf(batch)) if (segment.seq <= seq) return false;
    }
    for (const granule of this.#dirty) {
      for (const segment of granule.segments) {
        if (segment.state === 'dirty' && segment.seq <= seq) return false;
      }
    }
    return true;
  }

  /** Some of the range is dirty or in flight. */
  isDirty(start: number, end: number): boolean {
    for (const batch of this.#flights) if (batch.start < end && batch.end > start) return true;
    for (const granule of this.#dirty) {
      for (const segment of granule.segments) {
        if (segment.state === 'dirty' && segment.start < end && segment.end > start) return true;
      }
    }
    return false;
  }

  /** Drops [start, end), dirty or not. WRITEs in flight go on and come back to nothing. @returns dirty bytes dropped. */
  drop(start: number, end: number): number {
    let lost = 0;
    const first = Math.floor(start / GRANULE_BYTES);
    for (const granule of [...this.#granules.values()]) {
      if (granule.index < first || granule.index * GRANULE_BYTES >= end) continue;
      lost += this.#cut(granule, start, end);
      this.#forgetEmpty(granule);
    }
    return lost;
  }

  dropAll(): number {
    return this.drop(0, Number.MAX_SAFE_INTEGER);
  }

  /** Grant paid for blocks that will not be written after all. @returns bytes to give back to the target's account. */
  refund(): number {
    const bytes = this.#paid.total * BLOCK_BYTES;
    this.#paid.clear();
    return bytes;
  }

  /** The LRU let go of it. */
  evicted(granule: Granule): void {
    this.#granules.delete(granule.index);
    granule.segments = [];
    granule.bytes = 0;
  }

  /** Drops a granule that holds nothing dirty: a stream has passed it, and the kernel has its pages. */
  dropClean(index: number): void {
    const granule = this.#granules.get(index);
    if (granule === undefined || granule.pinned > 0) return;
    this.#account(granule, -granule.bytes, 0);
    this.evicted(granule);
  }

  #account(granule: Granule, bytes: number, pinned: number): void {
    this.#unwrittenBytes += pinned;
    this.#cache.account(granule, bytes, pinned);
  }

  #granule(index: number): Granule {
    let granule = this.#granules.get(index);
    if (granule === undefined) {
      granule = new Granule(this, index);
      this.#granules.set(index, granule);
    }
    return granule;
  }

  #forgetEmpty(granule: Granule): void {
    if (granule.segments.length === 0) this.#granules.delete(granule.index);
  }

  #writeGranule(granule: Granule, start: number, data: Uint8Array): void {
    const end = start + data.length;
    if (this.#append(granule, start, data)) return;
    this.#cut(granule, start, end);
    const segment: Segment = {
      start,
      end,
      data: Buffer.from(data),
      state: 'dirty',
      flight: undefined,
      seq: this.#seq,
      backing: undefined,
    };
    granule.segments.splice(firstEndingAfter(granule.segments, start), 0, segment);
    this.#dirtied(granule, data.length);
    this.#compact(granule);
  }

  #dirtied(granule: Granule, bytes: number): void {
    this.#dirtyBytes += bytes;
    this.#dirty.add(granule);
    this.#account(granule, bytes, bytes);
  }

  /** The common case of a stream: the write begins where a dirty segment ends and nothing is behind it. */
  #append(granule: Granule, start: number, data: Uint8Array): boolean {
    const last = granule.segments.at(-1);
    if (last === undefined || last.end !== start || last.state !== 'dirty') return false;
    const used = last.data.length;
    const needed = used + data.length;
    if (last.backing === undefined || last.backing.length < needed) {
      const room = Math.min(GRANULE_BYTES - (last.start % GRANULE_BYTES), Math.max(needed, used * 2, 4096));
      last.backing = Buffer.allocUnsafeSlow(room);
      last.backing.set(last.data, 0);
    }
    // Behind what any view shows: those that were handed out do not change.
    last.backing.set(data, used);
    last.data = last.backing.subarray(0, needed);
    last.end += data.length;
    this.#dirtied(granule, data.length);
    return true;
  }

  /** Removes [start, end) from a granule. @returns dirty bytes removed, those in flight included. */
  #cut(granule: Granule, start: number, end: number): number {
    const segments = granule.segments;
    let index = firstEndingAfter(segments, start);
    let bytes = 0;
    let pinned = 0;
    let dirty = 0;
    while (index < segments.length) {
      const segment = segments[index] as Segment;
      if (segment.start >= end) break;
      const from = Math.max(segment.start, start);
      const to = Math.min(segment.end, end);
      bytes += to - from;
      if (segment.state !== 'clean') pinned += to - from;
      if (segment.state === 'dirty') dirty += to - from;
      const parts = remains(segment, from, to);
      segments.splice(index, 1, ...parts);
      index += parts.length;
    }
    if (bytes === 0) return 0;
    this.#dirtyBytes -= dirty;
    this.#account(granule, -bytes, -pinned);
    if (dirty > 0 && !segments.some((segment) => segment.state === 'dirty')) this.#dirty.delete(granule);
    return pinned;
  }

  #takeRun(granule: Granule): Batch | undefined {
    const run: Segment[] = [];
    for (const segment of granule.segments) {
      const previous = run.at(-1);
      if (previous !== undefined && (segment.state !== 'dirty' || segment.start !== previous.end)) break;
      if (segment.state === 'dirty' && !this.#flies(segment)) run.push(segment);
      else if (previous !== undefined) break;
    }
    const first = run[0];
    const last = run.at(-1);
    if (first === undefined || last === undefined) return undefined;
    const paid = this.#paid.remove(Math.floor(first.start / BLOCK_BYTES), Math.ceil(last.end / BLOCK_BYTES));
    const batch: Batch = {
      start: first.start,
      end: last.end,
      chunks: run.map((segment) => segment.data),
      grantBytes: paid * BLOCK_BYTES,
    };
    for (const segment of run) {
      segment.state = 'flight';
      segment.flight = batch;
      // An append from now on begins a segment of its own.
      segment.backing = undefined;
    }
    this.#dirtyBytes -= batch.end - batch.start;
    this.#flights.add(batch);
    if (!granule.segments.some((segment) => segment.state === 'dirty')) this.#dirty.delete(granule);
    return batch;
  }

  #flies(segment: Segment): boolean {
    for (const batch of this.#flights) {
      if (batch.start < segment.end && batch.end > segment.start) return true;
    }
    return false;
  }

  *#segmentsOf(batch: Batch): Iterable<Segment> {
    for (const segment of this.#granules.get(Math.floor(batch.start / GRANULE_BYTES))?.segments ?? []) {
      if (segment.flight === batch) yield segment;
    }
  }

  #land(batch: Batch, each: (granule: Granule, segment: Segment) => void): void {
    assert(this.#flights.delete(batch), 'a WRITE landed twice');
    const granule = this.#granules.get(Math.floor(batch.start / GRANULE_BYTES));
    if (granule === undefined) return;
    for (const segment of [...this.#segmentsOf(batch)]) each(granule, segment);
    this.#compact(granule);
  }

  /** Copies neighbours of one kind together when a granule has become a heap of splinters. */
  #compact(granule: Granule): void {
    const count = granule.segments.length;
    // Now and then: splinters that do not touch cannot be joined, and trying costs as much as joining.
    if (count <= SEGMENTS_MAX || count % 32 !== 0) return;
    const merged: Segment[] = [];
    let run: Segment[] = [];
    const close = (): void => {
      const [first, last] = [run[0], run.at(-1)];
      if (first === undefined || last === undefined) return;
      if (run.length === 1) merged.push(first);
      else {
        const seq = Math.min(...run.map((segment) => segment.seq));
        const data = Buffer.concat(run.map((segment) => segment.data));
        merged.push({ ...first, end: last.end, data, seq, backing: undefined });
      }
      run = [];
    };
    for (const segment of granule.segments) {
      const previous = run.at(-1);
      const joins =
        previous !== undefined &&
        previous.end === segment.start &&
        previous.state === segment.state &&
        segment.state !== 'flight';
      if (!joins) close();
      run.push(segment);
    }
    close();
    granule.segments = merged;
  }
}

function cleanSegment(start: number, end: number, data: Uint8Array): Segment {
  return { start, end, data, state: 'clean', flight: undefined, seq: 0, backing: undefined };
}

/** What is left of a segment without [from, to). The left part loses its spare room: views may show what is behind. */
function remains(segment: Segment, from: number, to: number): Segment[] {
  const parts: Segment[] = [];
  const { start, end, data } = segment;
  if (start < from) {
    parts.push({ ...segment, end: from, data: data.subarray(0, from - start), backing: undefined });
  }
  if (to < end) {
    parts.push({ ...segment, start: to, data: data.subarray(to - start), backing: undefined });
  }
  return parts;
}

/** Index of the first segment that ends after the offset. */
function firstEndingAfter(segments: readonly Segment[], offset: number): number {
  let low = 0;
  let high = segments.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((segments[middle] as Segment).end <= offset) low = middle + 1;
    else high = middle;
  }
  return low;
}
