/**
 * The pages of one file: what is here, what is dirty, what is under a WRITE, and for which blocks grant is paid.
 *
 * A segment is clean, dirty, or in flight (under a WRITE that has not been answered). No range is under two WRITEs: a
 * page that is dirtied again while in flight waits until that WRITE is answered.
 *
 * Invariants: the counts are sums over the segments; `#dirty` holds exactly the granules with a dirty segment; no granule is
 * empty; a segment in flight lies within its WRITE. While nothing is dirty, grant is paid only for what is in flight.
 */

import { assert } from '../../base/assert.js';
import { IntervalSet, type Range } from '../../base/interval_set.js';
import { LeanMap, LeanSet } from '../../base/lean_map.js';
import { type Batch, GRANULE_BYTES, Granule, type GranuleOwner, type Segment, ZEROS } from './granule.js';
import type { PageCache } from './page_cache.js';

/** The unit in which the target's space grant is paid. */
const BLOCK_BYTES = 4096;

export class FilePages implements GranuleOwner {
  readonly #cache: PageCache;
  readonly #granules = new LeanMap<number, Granule>();
  /** Granules with dirty segments, oldest first. */
  readonly #dirty = new LeanSet<Granule>();
  readonly #flights = new LeanSet<Batch>();
  /** Blocks whose grant is paid, and whose WRITE was not sent yet. */
  #paid: IntervalSet | undefined;
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

  /** Dirty bytes, without those in flight. */
  get dirtyBytes(): number {
    return this.#dirtyBytes;
  }

  /** Dirty bytes, and those in flight that were not dirtied again or dropped. */
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

  /** Nothing is left to be written, and no WRITE is under way. */
  get isClean(): boolean {
    return this.#dirtyBytes === 0 && this.#flights.size === 0;
  }

  /** Number of WRITEs under way. */
  get flightCount(): number {
    return this.#flights.size;
  }

  get isEmpty(): boolean {
    return this.#granules.size === 0 && this.#flights.size === 0;
  }

  /** Views that together are [start, end), or undefined when some of it is not here. The views do not change any more. */
  collect(start: number, end: number): Uint8Array[] | undefined {
    const views: Uint8Array[] = [];
    for (let at = start; at < end; ) {
      const granule = this.#granules.get(Math.floor(at / GRANULE_BYTES));
      if (granule === undefined) return undefined;
      const stop = Math.min(end, granule.end);
      if (!granule.collect(at, stop, views)) return undefined;
      this.#cache.touch(granule);
      at = stop;
    }
    return views;
  }

  /** The parts of [start, end) that are not here. Gaps of neighbouring granules are not joined. */
  missing(start: number, end: number): Range[] {
    const gaps: { start: number; end: number }[] = [];
    for (let at = start; at < end; ) {
      const index = Math.floor(at / GRANULE_BYTES);
      const stop = Math.min(end, (index + 1) * GRANULE_BYTES);
      const granule = this.#granules.get(index);
      if (granule === undefined) gaps.push({ start: at, end: stop });
      else granule.missing(at, stop, gaps);
      at = stop;
    }
    return gaps;
  }

  /**
   * Takes clean data from the target without a copy. What is here already is newer, and stays.
   * @param slab the memory of data, if nothing else uses it.
   */
  fill(start: number, data: Uint8Array, slab?: Buffer): void {
    for (const gap of this.missing(start, start + data.length)) {
      const granule = this.#granule(Math.floor(gap.start / GRANULE_BYTES));
      const whole = gap.end - gap.start === data.length;
      const part = whole ? data : data.subarray(gap.start - start, gap.end - start);
      granule.insertClean(gap.start, part, whole ? slab : undefined);
      this.#account(granule, gap.end - gap.start, 0);
      granule.compact();
    }
  }

  /** Fills a hole: zeros without memory of their own. */
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
    for (const paid of this.#paid?.within(from, to) ?? []) blocks -= paid.end - paid.start;
    return blocks * BLOCK_BYTES;
  }

  /**
   * Copies data in and marks it dirty.
   * @param paid the caller has taken its grant from the target's grant.
   * @param nowMs from now on the data is dirty: see dirtySinceMs.
   */
  write(start: number, data: Uint8Array, paid: boolean, nowMs = 0): void {
    this.#seq += 1;
    if (paid) {
      this.#paid ??= new IntervalSet();
      this.#paid.add(Math.floor(start / BLOCK_BYTES), Math.ceil((start + data.length) / BLOCK_BYTES));
    }
    for (let at = 0; at < data.length; ) {
      const offset = start + at;
      const granule = this.#granule(Math.floor(offset / GRANULE_BYTES));
      const piece = data.subarray(at, at + granule.end - offset);
      if (!granule.append(offset, piece, this.#cache)) {
        this.#cut(granule, offset, offset + piece.length);
        granule.insertDirty(offset, piece, this.#seq, this.#cache);
      }
      this.#dirtyBytes += piece.length;
      if (!this.#dirty.has(granule)) {
        granule.dirtySinceMs = nowMs;
        this.#dirty.add(granule);
      }
      this.#account(granule, piece.length, piece.length);
      granule.compact();
      at += piece.length;
    }
  }

  /** When the oldest of the dirty data was written; undefined: nothing is dirty. */
  get dirtySinceMs(): number | undefined {
    for (const { dirtySinceMs } of this.#dirty) return dirtySinceMs;
    return undefined;
  }

  /** The granule of this offset is dirty from end to end, so it is worth a WRITE of its own. */
  isFull(offset: number): boolean {
    const granule = this.#granules.get(Math.floor(offset / GRANULE_BYTES));
    return granule !== undefined && granule.pinned >= GRANULE_BYTES && this.#dirty.has(granule);
  }

  /**
   * Takes one run of adjacent dirty segments for a WRITE: they are in flight until written() or failed().
   * @param fullOnly only granules that are dirty from end to end.
   */
  takeDirty(fullOnly: boolean, limitBytes = GRANULE_BYTES): Batch | undefined {
    for (const granule of this.#dirty) {
      if (fullOnly && granule.pinned < GRANULE_BYTES) continue;
      const run = granule.dirtyRun((segment) => this.#flies(segment));
      if (run.length > 0) return this.#fly(granule, granule.shortened(run, limitBytes));
    }
    return undefined;
  }

  /** The WRITE was answered: the part that was not dirtied again is clean. */
  written(batch: Batch): void {
    this.#land(batch, (granule, segment) => {
      granule.written(segment);
      this.#account(granule, 0, segment.start - segment.end);
    });
    for (const slab of batch.left) this.#cache.retire(slab);
  }

  /** The WRITE failed for good: drops the part that was not dirtied again. */
  failed(batch: Batch): void {
    this.#land(batch, (granule, segment) => {
      const length = segment.end - segment.start;
      granule.remove(segment);
      this.#account(granule, -length, -length);
      this.#forgetEmpty(granule);
    });
  }

  /** All that was dirtied up to write `seq` is written or dropped. */
  isWritten(seq: number): boolean {
    // WRITEs in flight count even if their pages were dropped: no WRITE may come after the operation (a truncate) that follows
    // a flush.
    for (const batch of this.#flights) if (batch.seq <= seq) return false;
    for (const granule of this.#dirty) {
      for (const segment of granule.segments) {
        if (segment.state === 'dirty' && segment.seq <= seq) return false;
      }
    }
    return true;
  }

  /** Drops [start, end), dirty or not. WRITEs in flight go on; their answers change nothing. @returns dirty bytes dropped. */
  drop(start: number, end: number): number {
    let lost = 0;
    for (const granule of [...this.#granules.values()]) {
      if (granule.end <= start || granule.index * GRANULE_BYTES >= end) continue;
      lost += this.#cut(granule, start, end);
      this.#forgetEmpty(granule);
    }
    return lost;
  }

  dropAll(): number {
    return this.drop(0, Number.MAX_SAFE_INTEGER);
  }

  /** Drops a granule that holds nothing dirty: a stream has passed it, and the kernel has its pages. */
  dropClean(index: number): void {
    const granule = this.#granules.get(index);
    if (granule === undefined || granule.pinned > 0) return;
    granule.hiddenBytes = 0;
    this.#account(granule, -granule.bytes, 0);
    this.evicted(granule);
  }

  /** Grant paid for what is dirty and for what is in flight. */
  get paidBytes(): number {
    let bytes = (this.#paid?.total ?? 0) * BLOCK_BYTES;
    for (const batch of this.#flights) bytes += batch.grantBytes;
    return bytes;
  }

  /**
   * Grant paid for blocks that will not be written after all: those in this range, in which nothing is dirty any more, or all of them if
   * nothing is dirty anywhere. @returns bytes to give back to the target's account.
   */
  refund(start = 0, end = Number.MAX_SAFE_INTEGER): number {
    if (this.#paid === undefined) return 0;
    const isClean = this.#dirtyBytes === 0;
    const first = isClean ? 0 : Math.ceil(start / BLOCK_BYTES);
    const last = isClean ? Number.MAX_SAFE_INTEGER : Math.floor(end / BLOCK_BYTES);
    const blocks = first < last ? this.#paid.remove(first, last) : 0;
    if (this.#paid.isEmpty) this.#paid = undefined;
    return blocks * BLOCK_BYTES;
  }

  /** The page cache has let go of the granule. */
  evicted(granule: Granule): void {
    this.#granules.delete(granule.index);
    for (const { slab } of granule.segments) if (slab !== undefined) this.#cache.retire(slab);
    granule.segments = [];
    granule.bytes = 0;
    granule.hiddenBytes = 0;
    granule.counted = 0;
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

  /** Removes [start, end) from a granule. @returns dirty bytes removed, those in flight included. */
  #cut(granule: Granule, start: number, end: number): number {
    const { bytes, pinned, dirty } = granule.cut(start, end, this.#cache);
    if (bytes === 0) return 0;
    this.#dirtyBytes -= dirty;
    if (dirty > 0 && !granule.hasDirty) this.#dirty.delete(granule);
    this.#account(granule, -bytes, -pinned);
    return pinned;
  }

  #fly(granule: Granule, run: readonly Segment[]): Batch {
    const start = (run[0] as Segment).start;
    const end = (run.at(-1) as Segment).end;
    const paid = this.#paid?.remove(Math.floor(start / BLOCK_BYTES), Math.ceil(end / BLOCK_BYTES)) ?? 0;
    if (this.#paid?.isEmpty) this.#paid = undefined;
    const chunks = run.map((segment) => segment.data);
    const seq = Math.min(...run.map((segment) => segment.seq));
    const batch: Batch = { start, end, chunks, grantBytes: paid * BLOCK_BYTES, seq, left: [] };
    for (const segment of run) {
      segment.state = 'flight';
      segment.flight = batch;
      segment.backing = undefined;
    }
    this.#dirtyBytes -= end - start;
    this.#flights.add(batch);
    if (!granule.hasDirty) this.#dirty.delete(granule);
    return batch;
  }

  #flies(segment: Segment): boolean {
    for (const batch of this.#flights) {
      if (batch.start < segment.end && batch.end > segment.start) return true;
    }
    return false;
  }

  #segmentsOf(batch: Batch): Segment[] {
    const granule = this.#granules.get(Math.floor(batch.start / GRANULE_BYTES));
    return granule?.segments.filter((segment) => segment.flight === batch) ?? [];
  }

  #land(batch: Batch, each: (granule: Granule, segment: Segment) => void): void {
    assert(this.#flights.delete(batch), 'a WRITE landed twice');
    const granule = this.#granules.get(Math.floor(batch.start / GRANULE_BYTES));
    if (granule === undefined) return;
    for (const segment of this.#segmentsOf(batch)) each(granule, segment);
    granule.compact();
  }

  granules(): Iterable<Granule> {
    return this.#granules.values();
  }

  /** Number of WRITEs under way. */
  flights(): Iterable<Batch> {
    return this.#flights;
  }

  checkInvariants(): void {
    let dirty = 0;
    let unwritten = 0;
    for (const granule of this.#granules.values()) {
      granule.checkInvariants();
      const { index } = granule;
      const what = `granule ${index}`;
      assert(this.#granules.get(index) === granule && granule.owner === this, `${what} is another one`);
      assert(granule.segments.length > 0, `${what} is empty`);
      assert(granule.hasDirty === this.#dirty.has(granule), `${what} is dirty: ${granule.hasDirty}`);
      unwritten += granule.pinned;
      for (const { start, end, state, flight } of granule.segments) {
        if (state === 'dirty') dirty += end - start;
        if (flight === undefined) continue;
        assert(this.#flights.has(flight), `[${start}, ${end}) is under a WRITE that has ended`);
        assert(flight.start <= start && end <= flight.end, `[${start}, ${end}) is not all under its WRITE`);
      }
    }
    for (const { index } of this.#dirty)
      assert(this.#granules.has(index), `granule ${index} is dirty, and gone`);
    assert(dirty === this.#dirtyBytes, `${dirty} bytes are dirty, counted ${this.#dirtyBytes}`);
    assert(
      unwritten === this.#unwrittenBytes,
      `${unwritten} bytes not written, counted ${this.#unwrittenBytes}`,
    );
    this.#checkFlights();
    this.#paid?.checkInvariants();
    const paid = this.#paid?.total ?? 0;
    assert(dirty > 0 || paid === 0, `${paid} blocks are paid for, and nothing is dirty`);
  }

  #checkFlights(): void {
    const flights = [...this.#flights].sort((one, other) => one.start - other.start);
    let end = 0;
    for (const batch of flights) {
      assert(batch.start >= end, `the WRITE of [${batch.start}, ${batch.end}) overlaps one up to ${end}`);
      end = batch.end;
    }
  }
}
