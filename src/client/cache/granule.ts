/**
 * One granule of a file's pages: 1 MiB as sorted, disjoint segments, each one view of memory.
 *
 * Bytes that a segment has shown once never change: a write takes new memory and cuts the old segment, or fills spare room
 * behind everything that was ever shown. So views that were handed out, views under a WRITE, and views kept for its replay
 * (replay_list.ts) stay what they were. The memory of an evicted segment is the exception, see PageMemory.
 *
 * Invariants: the segments lie within the granule; each shows as many bytes as its range has; exactly the segments under a
 * WRITE are in flight; only a dirty segment has room to grow; `bytes` and `pinned` are sums over the segments.
 *
 * A segment that was cut keeps all of its memory. So a granule holds more memory than it shows: `hiddenBytes` counts what was
 * cut since its segments were last copied together, and the page cache counts it too.
 */

import { assert } from '../../base/assert.js';
import { SLAB_BYTES } from '../../base/slab_pool.js';

export const GRANULE_BYTES = 1 << 20;
/** A WRITE that is cut short ends at the end of a block of the target. */
const BLOCK_BYTES = 4096;
/** More segments than this in one granule are copied together. */
const SEGMENTS_MAX = 128;
/** First room for a segment that grows by appending. */
const APPEND_ROOM_BYTES = 4096;
/**
 * A write of at least this size gets room for the rest of its granule: the kernel splits a write(2) of 1 MiB from unaligned
 * memory in two, the second of a few bytes.
 */
const SLAB_WORTH_BYTES = (GRANULE_BYTES / 8) * 7;

/** Small pieces are cut from memory of this size, which they share. */
export const CHUNK_BYTES = 64 << 10;
/** Pieces larger than this get memory of their own: if a piece does not fit into the rest of a chunk, that rest is lost. */
export const PIECE_MAX_BYTES = 8 << 10;
/** A part of a cut segment may keep this many times its own size alive, so that a stream of overwrites copies little. */
const LEFT_WASTE = 8;
/** The same for a segment that was written back: from then on the client only reads it. */
const WRITTEN_WASTE = 1.5;
/** A granule that hides more memory than this is copied: the copy costs a few such overwrites. */
const HIDDEN_MAX_BYTES = GRANULE_BYTES / 4;

/** What all holes show: they share this memory. */
export const ZEROS = Buffer.alloc(GRANULE_BYTES);

/** One WRITE to be sent. */
export interface Batch {
  readonly start: number;
  readonly end: number;
  readonly chunks: readonly Uint8Array[];
  /** Bytes of grant paid for it. */
  readonly grantBytes: number;
  /** The oldest write of the file that it carries. */
  readonly seq: number;
  /** Memory that only this WRITE still shows: what it carries was dropped or overwritten meanwhile. */
  readonly left: Buffer[];
}

export interface Segment {
  start: number;
  end: number;
  data: Uint8Array;
  state: 'clean' | 'dirty' | 'flight';
  /** The WRITE that carries it. */
  flight: Batch | undefined;
  /** The write of the file that made it dirty. */
  seq: number;
  /** Memory that begins with data and has room behind it; undefined when there is none. */
  backing: Buffer | undefined;
  /** The memory of data, if no other segment shows any of it: the client reuses it when the segment is evicted. */
  slab: Buffer | undefined;
}

/** Gives out memory for copies of what programs write. */
export interface GranuleMemory {
  /** Memory of SLAB_BYTES. */
  takeSlab(): Buffer;
  /** No segment shows any of this slab any more. Callers may look at views of it until the events under way are over. */
  retire(slab: Buffer): void;
  allocate(lengthBytes: number): Buffer;
}

/** The owner of a granule, as far as the page cache needs to know it. */
export interface GranuleOwner {
  evicted(granule: Granule): void;
}

export class Granule {
  readonly owner: GranuleOwner;
  readonly index: number;
  segments: Segment[] = [];
  bytes = 0;
  /** Dirty and in flight. */
  pinned = 0;
  /** Memory of its segments that was cut off, and that they keep alive. */
  hiddenBytes = 0;
  /** What the page cache counts for it. */
  counted = 0;
  /** When the first of its dirty bytes was written, while it has some. */
  dirtySinceMs = 0;

  constructor(owner: GranuleOwner, index: number) {
    this.owner = owner;
    this.index = index;
  }

  get end(): number {
    return (this.index + 1) * GRANULE_BYTES;
  }

  get hasDirty(): boolean {
    return this.segments.some((segment) => segment.state === 'dirty');
  }

  /** Appends views of [start, end) to `into`. @returns false when some of it is not here. */
  collect(start: number, end: number, into: Uint8Array[]): boolean {
    let at = start;
    for (let index = this.#firstEndingAfter(at); at < end; index += 1) {
      const segment = this.segments[index];
      if (segment === undefined || segment.start > at) return false;
      const to = Math.min(segment.end, end);
      const whole = at === segment.start && to === segment.end;
      into.push(whole ? segment.data : segment.data.subarray(at - segment.start, to - segment.start));
      at = to;
    }
    return true;
  }

  /** Appends the parts of [start, end) that are not here to `into`. */
  missing(start: number, end: number, into: { start: number; end: number }[]): void {
    let at = start;
    for (let index = this.#firstEndingAfter(at); at < end; index += 1) {
      const segment = this.segments[index];
      const from = Math.min(segment?.start ?? end, end);
      if (from > at) into.push({ start: at, end: from });
      at = segment === undefined ? end : Math.min(segment.end, end);
    }
  }

  /** Takes clean data in, where no data is. @param slab the memory of data, if nothing else uses it. */
  insertClean(start: number, data: Uint8Array, slab: Buffer | undefined): void {
    this.#insert({
      start,
      end: start + data.length,
      data,
      state: 'clean',
      flight: undefined,
      seq: 0,
      backing: undefined,
      slab,
    });
  }

  /** Copies dirty data in, where no data is. */
  insertDirty(start: number, data: Uint8Array, seq: number, memory: GranuleMemory): void {
    const end = start + data.length;
    const slab = data.length >= SLAB_WORTH_BYTES ? memory.takeSlab() : undefined;
    const copy = slab?.subarray(0, data.length) ?? memory.allocate(data.length);
    copy.set(data);
    this.#insert({ start, end, data: copy, state: 'dirty', flight: undefined, seq, backing: slab, slab });
  }

  /** The common case of a stream: the write begins where the last, dirty segment ends. @returns false if it does not. */
  append(start: number, data: Uint8Array, memory: GranuleMemory): boolean {
    const last = this.segments.at(-1);
    if (last === undefined || last.end !== start || last.state !== 'dirty') return false;
    const used = last.data.length;
    const needed = used + data.length;
    if (last.backing === undefined || last.backing.length < needed) {
      const room = Math.min(this.end - last.start, Math.max(needed, used * 2, APPEND_ROOM_BYTES));
      last.backing = room === SLAB_BYTES ? memory.takeSlab() : memory.allocate(room);
      last.backing.set(last.data, 0);
      last.slab = room === SLAB_BYTES ? last.backing : undefined;
    }
    last.backing.set(data, used);
    last.data = last.backing.subarray(0, needed);
    last.end += data.length;
    return true;
  }

  /** Removes [start, end). @returns bytes removed, and how many of them were pinned and dirty. */
  cut(
    start: number,
    end: number,
    memory: GranuleMemory,
  ): { readonly bytes: number; readonly pinned: number; readonly dirty: number } {
    const { segments } = this;
    let index = this.#firstEndingAfter(start);
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
      const isShown = parts.some(({ data: part }) => part.buffer === segment.data.buffer);
      if (isShown && !isHole(segment.data)) this.hiddenBytes += to - from;
      segments.splice(index, 1, ...parts);
      index += parts.length;
      const { slab, flight } = segment;
      if (slab === undefined || isShown) continue;
      // The memory under a WRITE belongs to that WRITE until it is answered.
      if (flight === undefined) memory.retire(slab);
      else flight.left.push(slab);
    }
    if (segments.length === 0) this.hiddenBytes = 0;
    else if (this.hiddenBytes > HIDDEN_MAX_BYTES) this.#unhide();
    return { bytes, pinned, dirty };
  }

  /** The WRITE of the segment is answered. The spare room behind the segment is never used again. */
  written(segment: Segment): void {
    segment.state = 'clean';
    segment.flight = undefined;
    // A slab goes back to its pool whole.
    if (segment.slab === undefined) segment.data = lean(segment.data, WRITTEN_WASTE);
  }

  remove(segment: Segment): void {
    this.segments.splice(this.segments.indexOf(segment), 1);
    if (this.segments.length === 0) this.hiddenBytes = 0;
  }

  /** The first run of adjacent dirty segments; empty without any. @param skip true for a segment that cannot be written now. */
  dirtyRun(skip: (segment: Segment) => boolean): Segment[] {
    const run: Segment[] = [];
    for (const segment of this.segments) {
      const previous = run.at(-1);
      const takes = segment.state === 'dirty' && !skip(segment);
      if (previous === undefined ? !takes : !takes || segment.start !== previous.end) {
        if (previous !== undefined) break;
        continue;
      }
      run.push(segment);
    }
    return run;
  }

  /** The beginning of a run, limitBytes at most. Cuts the segment on the limit in two. */
  shortened(run: Segment[], limitBytes: number): Segment[] {
    const { start } = run[0] as Segment;
    const stop = Math.floor((start + limitBytes) / BLOCK_BYTES) * BLOCK_BYTES;
    if ((run.at(-1) as Segment).end <= stop || limitBytes >= GRANULE_BYTES) return run;
    const short = run.filter((segment) => segment.start < stop);
    const last = short.at(-1) as Segment;
    if (last.end > stop) {
      const parts = remains(last, stop, stop);
      this.segments.splice(this.segments.indexOf(last), 1, ...parts);
      short[short.length - 1] = parts[0] as Segment;
    }
    return short;
  }

  /** Copies neighbours of one kind together when the granule has become a heap of splinters. */
  compact(): void {
    const count = this.segments.length;
    // Only now and then: splinters that do not touch cannot be joined, and trying costs as much as joining.
    if (count <= SEGMENTS_MAX || count % 32 !== 0) return;
    const merged: Segment[] = [];
    let run: Segment[] = [];
    for (const segment of this.segments) {
      const previous = run.at(-1);
      const joins =
        previous !== undefined &&
        previous.end === segment.start &&
        previous.state === segment.state &&
        segment.state !== 'flight';
      if (!joins && run.length > 0) {
        merged.push(joined(run));
        run = [];
      }
      run.push(segment);
    }
    if (run.length > 0) merged.push(joined(run));
    this.segments = merged;
  }

  /** Copies its segments out of memory of which they show a part. A WRITE under way keeps its memory anyway. */
  #unhide(): void {
    for (const segment of this.segments) {
      if (segment.state === 'flight' || segment.slab !== undefined || segment.backing !== undefined) continue;
      segment.data = lean(segment.data, 1);
    }
    this.hiddenBytes = 0;
  }

  #insert(segment: Segment): void {
    this.segments.splice(this.#firstEndingAfter(segment.start), 0, segment);
  }

  /** Index of the first segment that ends after the offset. */
  #firstEndingAfter(offset: number): number {
    let low = 0;
    let high = this.segments.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.segments[middle] as Segment).end <= offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  checkInvariants(): void {
    let after = this.index * GRANULE_BYTES;
    let bytes = 0;
    let pinned = 0;
    for (const { start, end, data, state, flight, backing } of this.segments) {
      const what = `${state} segment [${start}, ${end})`;
      assert(
        start >= after && end > start && end <= this.end,
        `${what} of granule ${this.index} follows ${after}`,
      );
      assert(data.length === end - start, `${what} shows ${data.length} bytes`);
      assert(
        (state === 'flight') === (flight !== undefined),
        `${what} is under a WRITE: ${flight !== undefined}`,
      );
      if (backing !== undefined) {
        assert(state === 'dirty', `${what} has room to grow`);
        const begins = data.buffer === backing.buffer && data.byteOffset === backing.byteOffset;
        assert(begins && backing.length >= data.length, `${what} does not lie at the beginning of its room`);
      }
      after = end;
      bytes += end - start;
      if (state !== 'clean') pinned += end - start;
    }
    assert(bytes === this.bytes, `granule ${this.index} holds ${bytes} bytes, counted ${this.bytes}`);
    const { hiddenBytes, counted } = this;
    assert(
      counted === bytes + hiddenBytes,
      `granule ${this.index} counts as ${counted}: ${bytes}, ${hiddenBytes} hidden`,
    );
    assert(pinned === this.pinned, `granule ${this.index} pins ${pinned} bytes, counted ${this.pinned}`);
  }
}

/** The same bytes in memory of their own, if they lie in much larger memory. */
function lean(data: Uint8Array, waste: number): Uint8Array {
  const held = data.buffer.byteLength;
  const isShared = data.length <= PIECE_MAX_BYTES && held <= CHUNK_BYTES;
  if (isShared || isHole(data) || held <= data.length * waste) return data;
  const copy = Buffer.allocUnsafeSlow(data.length);
  copy.set(data);
  return copy;
}

function isHole(data: Uint8Array): boolean {
  return data.buffer === ZEROS.buffer;
}

function joined(run: readonly Segment[]): Segment {
  const first = run[0] as Segment;
  if (run.length === 1) return first;
  return {
    ...first,
    end: (run.at(-1) as Segment).end,
    data: Buffer.concat(run.map((segment) => segment.data)),
    seq: Math.min(...run.map((segment) => segment.seq)),
    backing: undefined,
    slab: undefined,
  };
}

/**
 * What is left of a segment without [from, to). The parts lose the spare room: views may show what is behind them. A part that
 * is small beside its memory is copied out of it: otherwise 4 KiB of a truncated file would keep a slab alive.
 */
function remains(segment: Segment, from: number, to: number): Segment[] {
  const parts: Segment[] = [];
  const { start, end, data } = segment;
  if (start < from) {
    const left = data.subarray(0, from - start);
    parts.push({ ...segment, end: from, data: lean(left, LEFT_WASTE), backing: undefined, slab: undefined });
  }
  if (to < end) {
    const right = data.subarray(to - start);
    parts.push({ ...segment, start: to, data: lean(right, LEFT_WASTE), backing: undefined, slab: undefined });
  }
  return parts;
}
