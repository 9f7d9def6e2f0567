/**
 * The pages of all files of a client: clean ones up to a byte limit, dirty ones pinned until they are written back.
 *
 * Granules without dirty or flying bytes are in the LRU; all others are pinned. LRU bytes + pinned bytes <= limit as long
 * as the pinned bytes alone are below it (write_back.ts bounds the dirty ones).
 *
 * `bytes` and `dirtyBytes` are the sums over all granules.
 *
 * One limit covers all that a client caches: the bytes that locks, attributes and names take go off it, up to a half of it.
 * Memory of pages that were dropped stays free for the next pages, in what is left of the limit and at most a quarter of it. A
 * program that writes a file anew would otherwise get all its memory anew from the kernel. Keeping all of it would make such
 * writes a third faster, and the process 60 to 100 MiB larger under a mixed load (both measured).
 */

import { LRUCache } from 'lru-cache';
import { assert } from '../../base/assert.js';
import { SLAB_BYTES } from '../../base/slab_pool.js';
import { CHUNK_BYTES, GRANULE_BYTES, type Granule, type GranuleMemory, PIECE_MAX_BYTES } from './granule.js';

/** Where granules get their memory from, and where it goes when they are evicted. */
export interface PageMemory {
  take(): Buffer;
  /** Callers may still look at views of it that they got in this turn, until the events under way are over. */
  retire(slab: Buffer): void;
  /** The pages leave this many bytes of the limit: no more memory should be kept free. */
  keepFree(bytes: number): void;
}

const FRESH: PageMemory = {
  take: () => Buffer.allocUnsafeSlow(SLAB_BYTES),
  retire: () => undefined,
  keepFree: () => undefined,
};

export class PageCache implements GranuleMemory {
  readonly limitBytes: number;
  readonly #memory: PageMemory;
  /** Small pieces are cut from it: separate memory for each piece would cost more than most of them hold. */
  #chunk = Buffer.alloc(0);
  #chunkUsed = 0;
  readonly #beside: () => number;
  readonly #clean: LRUCache<Granule, Granule>;
  #pinnedBytes = 0;
  #dirtyBytes = 0;

  /** @param beside bytes that all else in the client's caches takes. */
  constructor(limitBytes: number, memory: PageMemory = FRESH, beside: () => number = () => 0) {
    this.limitBytes = limitBytes;
    this.#memory = memory;
    this.#beside = beside;
    this.#clean = new LRUCache({
      maxSize: Math.max(limitBytes, GRANULE_BYTES),
      dispose: (_value, granule, reason) => {
        if (reason === 'evict') granule.owner.evicted(granule);
      },
    });
  }

  /** Bytes held: dirty ones, and memory that its segments keep and do not show, included. */
  get bytes(): number {
    return this.#clean.calculatedSize + this.#pinnedBytes;
  }

  /** Dirty and in flight. */
  get dirtyBytes(): number {
    return this.#dirtyBytes;
  }

  takeSlab(): Buffer {
    return this.#memory.take();
  }

  retire(slab: Buffer): void {
    this.#memory.retire(slab);
  }

  /** Memory of that length with any content, for pages. */
  allocate(lengthBytes: number): Buffer {
    if (lengthBytes > PIECE_MAX_BYTES) return Buffer.allocUnsafeSlow(lengthBytes);
    if (this.#chunkUsed + lengthBytes > this.#chunk.length) {
      this.#chunk = Buffer.allocUnsafeSlow(CHUNK_BYTES);
      this.#chunkUsed = 0;
    }
    const start = this.#chunkUsed;
    this.#chunkUsed += lengthBytes;
    return this.#chunk.subarray(start, this.#chunkUsed);
  }

  /** A granule's content changed by this many bytes. The granule may be evicted before this returns. */
  account(granule: Granule, bytes: number, pinned: number): void {
    const wasPinned = granule.pinned > 0;
    this.#dirtyBytes += pinned;
    if (wasPinned) this.#pinnedBytes -= granule.counted;
    granule.bytes += bytes;
    granule.pinned += pinned;
    granule.counted = granule.bytes + granule.hiddenBytes;
    if (granule.pinned > 0) {
      if (!wasPinned) this.#clean.delete(granule);
      this.#pinnedBytes += granule.counted;
    } else if (granule.counted > 0) {
      // lru-cache takes a new size only with a new entry: if it has the entry already, it compares only the value.
      this.#clean.delete(granule);
      this.#clean.set(granule, granule, { size: granule.counted });
    } else {
      this.#clean.delete(granule);
    }
    this.makeRoom();
  }

  /** The granule was read. */
  touch(granule: Granule): void {
    if (granule.pinned === 0) this.#clean.get(granule);
  }

  /** Evicts clean pages until all that is cached, pages and metadata, is within the limit; then frees memory that was kept. */
  makeRoom(): void {
    const limitBytes = this.limitBytes - Math.min(this.#beside(), this.limitBytes / 2);
    // pop() evicts: it calls dispose().
    while (this.bytes > limitBytes && this.#clean.pop() !== undefined);
    const left = Math.max(0, limitBytes - this.bytes);
    this.#memory.keepFree(Math.min(left, this.limitBytes / 4));
  }

  /** @param granules the granules of all files. */
  checkInvariants(granules: Iterable<Granule>): void {
    let clean = 0;
    let pinned = 0;
    let dirty = 0;
    let inLru = 0;
    for (const granule of granules) {
      const { index, counted: bytes } = granule;
      const isPinned = granule.pinned > 0;
      assert(
        this.#clean.has(granule) !== isPinned,
        `granule ${index} has ${bytes} bytes, pinned: ${isPinned}`,
      );
      if (isPinned) pinned += bytes;
      else clean += bytes;
      if (!isPinned) inLru += 1;
      dirty += granule.pinned;
    }
    const { size, calculatedSize } = this.#clean;
    assert(inLru === size, `${inLru} granules are clean, the LRU has ${size}`);
    assert(clean === calculatedSize, `${clean} bytes are clean, the LRU counts ${calculatedSize}`);
    assert(pinned === this.#pinnedBytes, `${pinned} bytes are pinned, counted ${this.#pinnedBytes}`);
    assert(dirty === this.#dirtyBytes, `${dirty} bytes are dirty, counted ${this.#dirtyBytes}`);
    assert(size === 0 || this.bytes <= this.limitBytes, `${this.bytes} bytes of ${this.limitBytes}`);
    assert(this.#chunkUsed <= this.#chunk.length, `${this.#chunkUsed} bytes of a chunk are in use`);
  }
}
