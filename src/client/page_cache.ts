/**
 * The pages of all files of a client: clean ones up to a byte limit, dirty ones pinned until they are written back.
 *
 * Granules without dirty or flying bytes are in the LRU; all others are pinned. LRU bytes + pinned bytes <= limit as long
 * as the pinned bytes alone are below it (write_back.ts bounds the dirty ones).
 */

import { LRUCache } from 'lru-cache';
import { SLAB_BYTES } from '../base/slab_pool.js';
import { GRANULE_BYTES, type Granule } from './granule.js';

/** Where granules have their memory from, and where it goes when they are evicted. */
export interface PageMemory {
  take(): Buffer;
  /** Views of it that were handed out in this turn may still be looked at until the events under way are over. */
  retire(slab: Buffer): void;
}

const FRESH: PageMemory = { take: () => Buffer.allocUnsafeSlow(SLAB_BYTES), retire: () => undefined };

export class PageCache {
  readonly limitBytes: number;
  readonly memory: PageMemory;
  readonly #clean: LRUCache<Granule, Granule>;
  #pinnedBytes = 0;
  #dirtyBytes = 0;

  constructor(limitBytes: number, memory: PageMemory = FRESH) {
    this.limitBytes = limitBytes;
    this.memory = memory;
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
    } else if (granule.bytes > 0) {
      this.#clean.set(granule, granule, { size: granule.bytes });
    } else {
      this.#clean.delete(granule);
    }
    this.#shrink();
  }

  /** It was read. */
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
