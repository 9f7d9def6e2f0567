/**
 * The pages of all files of a client: clean ones up to a byte limit, dirty ones pinned until they are written back.
 *
 * Granules without dirty or flying bytes are in the LRU; all others are pinned. LRU bytes + pinned bytes <= limit as long
 * as the pinned bytes alone are below it (write_back.ts bounds the dirty ones).
 *
 * The limit is one for all that a client caches: what locks, attributes and names take goes off it, up to a half.
 */

import { LRUCache } from 'lru-cache';
import { assert } from '../../base/assert.js';
import { SLAB_BYTES } from '../../base/slab_pool.js';
import { CHUNK_BYTES, GRANULE_BYTES, type Granule, type GranuleMemory, PIECE_MAX_BYTES } from './granule.js';

/** Where granules have their memory from, and where it goes when they are evicted. */
export interface PageMemory {
  take(): Buffer;
  /** Views of it that were handed out in this turn may still be looked at until the events under way are over. */
  retire(slab: Buffer): void;
}

const FRESH: PageMemory = { take: () => Buffer.allocUnsafeSlow(SLAB_BYTES), retire: () => undefined };

export class PageCache implements GranuleMemory {
  readonly limitBytes: number;
  readonly memory: PageMemory;
  /** Small pieces are cut from it: memory of its own for each would cost more than most of them hold. */
  #chunk = Buffer.alloc(0);
  #chunkUsed = 0;
  readonly #beside: () => number;
  readonly #clean: LRUCache<Granule, Granule>;
  #pinnedBytes = 0;
  #dirtyBytes = 0;

  /** @param beside bytes of what else is cached. */
  constructor(limitBytes: number, memory: PageMemory = FRESH, beside: () => number = () => 0) {
    this.limitBytes = limitBytes;
    this.memory = memory;
    this.#beside = beside;
    this.#clean = new LRUCache({
      maxSize: Math.max(limitBytes, GRANULE_BYTES),
      dispose: (_value, granule, reason) => {
        if (reason === 'evict') granule.owner.evicted(granule);
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

  takeSlab(): Buffer {
    return this.memory.take();
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

  /** A granule's content changed by so much. It may be evicted before this returns. */
  account(granule: Granule, bytes: number, pinned: number): void {
    const wasPinned = granule.pinned > 0;
    this.#dirtyBytes += pinned;
    if (wasPinned) this.#pinnedBytes -= granule.bytes;
    granule.bytes += bytes;
    granule.pinned += pinned;
    if (granule.pinned > 0) {
      if (!wasPinned) this.#clean.delete(granule);
      this.#pinnedBytes += granule.bytes;
    } else {
      // lru-cache leaves the size of an entry as it is when the same value is set again.
      if (bytes !== 0) this.#clean.delete(granule);
      if (granule.bytes > 0) this.#clean.set(granule, granule, { size: granule.bytes });
    }
    this.makeRoom();
  }

  /** It was read. */
  touch(granule: Granule): void {
    if (granule.pinned === 0) this.#clean.get(granule);
  }

  /** Evicts clean pages until all that is cached, pages and metadata, is within the limit. */
  makeRoom(): void {
    if (this.bytes <= this.limitBytes / 2) return;
    const limitBytes = this.limitBytes - Math.min(this.#beside(), this.limitBytes / 2);
    while (this.bytes > limitBytes) {
      // Disposes of it as an eviction.
      if (this.#clean.pop() === undefined) return;
    }
  }

  /** @param held what the files of the client hold together. */
  checkInvariants(held: {
    readonly pinnedBytes: number;
    readonly cleanBytes: number;
    readonly unwrittenBytes: number;
  }): void {
    const { pinnedBytes, cleanBytes, unwrittenBytes } = held;
    assert(pinnedBytes === this.#pinnedBytes, `${this.#pinnedBytes} pinned bytes are ${pinnedBytes}`);
    assert(unwrittenBytes === this.#dirtyBytes, `${this.#dirtyBytes} dirty bytes are ${unwrittenBytes}`);
    assert(
      cleanBytes === this.#clean.calculatedSize,
      `${this.#clean.calculatedSize} clean bytes are ${cleanBytes}`,
    );
  }
}
