/**
 * Memory of pages that a keeper (the replay list) still needs although the page cache is done with it. It goes back to the
 * slab pool when the last keeper is done too. Keepers are counted by slab, because a WRITE may show any part of one.
 */

import { assert } from '../../base/assert.js';
import type { SlabPool } from '../../base/slab_pool.js';
import { SLAB_BYTES } from '../../base/slab_pool.js';

interface Kept {
  keepers: number;
  /** Set when the owner is done with the slab. */
  given: Buffer | undefined;
}

export class KeptMemory {
  readonly #pool: SlabPool;
  readonly #kept = new Map<ArrayBufferLike, Kept>();

  constructor(pool: SlabPool) {
    this.#pool = pool;
  }

  /** The bytes of this view must stay what they are until release() is called with it. */
  keep(view: Uint8Array): void {
    // Memory that is not a slab is never reused.
    if (view.buffer.byteLength !== SLAB_BYTES) return;
    const kept = this.#kept.get(view.buffer);
    if (kept === undefined) this.#kept.set(view.buffer, { keepers: 1, given: undefined });
    else kept.keepers += 1;
  }

  release(view: Uint8Array): void {
    if (view.buffer.byteLength !== SLAB_BYTES) return;
    const kept = this.#kept.get(view.buffer);
    assert(kept !== undefined, 'memory is released that nobody kept');
    kept.keepers -= 1;
    if (kept.keepers > 0) return;
    this.#kept.delete(view.buffer);
    if (kept.given !== undefined) this.#pool.give(kept.given);
  }

  /** The owner of the slab is done with it. */
  give(slab: Buffer): void {
    const kept = this.#kept.get(slab.buffer);
    if (kept === undefined) this.#pool.give(slab);
    else kept.given = slab;
  }

  /** @param views all views that are kept. */
  checkInvariants(views: Iterable<Uint8Array>): void {
    const keepers = new Map<ArrayBufferLike, number>();
    for (const { buffer } of views) {
      if (buffer.byteLength === SLAB_BYTES) keepers.set(buffer, (keepers.get(buffer) ?? 0) + 1);
    }
    for (const [buffer, kept] of this.#kept) {
      const count = keepers.get(buffer) ?? 0;
      assert(count === kept.keepers && count > 0, `a slab has ${count} keepers, counted ${kept.keepers}`);
    }
    assert(keepers.size === this.#kept.size, `${keepers.size} slabs are in use, ${this.#kept.size} are kept`);
  }
}
