/**
 * Memory for large transfers, used again and again.
 *
 * Memory outside V8's heap counts for its garbage collector: a stream that takes new memory for each megabyte makes it
 * collect the whole heap every 64 MiB or so (measured: half of the CPU time of a cold read). So whoever knows when the
 * bytes of a large transfer are done with gives their memory back here.
 *
 * A slab that is not given back costs nothing but its collection. One that is given back must not be read or written
 * by its former owner, nor by anyone who was handed a view of it: that is the owner's duty.
 *
 * Invariant: the pool has each free slab once, and at most keepMax of them.
 */

import { assert } from './assert.js';

/** The size of a READ or WRITE of a stream. */
export const SLAB_BYTES = 1 << 20;

export class SlabPool {
  readonly #free: Buffer[] = [];
  readonly #keepMax: number;
  readonly #allocate: (lengthBytes: number) => Buffer;

  /**
   * @param keepMax slabs kept for later; more than these are left to the garbage collector.
   * @param allocate where new slabs come from.
   */
  constructor(keepMax: number, allocate: (lengthBytes: number) => Buffer = Buffer.allocUnsafeSlow) {
    this.#keepMax = keepMax;
    this.#allocate = allocate;
  }

  /** Slabs at hand. */
  get free(): number {
    return this.#free.length;
  }

  /** Memory of exactly that length with any content: a slab when it is one slab long, else memory of its own. */
  take(lengthBytes: number): Buffer {
    return (lengthBytes === SLAB_BYTES ? this.#free.pop() : undefined) ?? this.#allocate(lengthBytes);
  }

  /** @param memory as take() gave it, all of it; what is not a slab is left to the garbage collector. */
  give(memory: Uint8Array): void {
    if (memory.length !== SLAB_BYTES || memory.buffer.byteLength !== SLAB_BYTES) return;
    if (this.#free.length >= this.#keepMax) return;
    assert(!this.#free.includes(memory as Buffer), 'a slab was given back twice');
    this.#free.push(memory as Buffer);
  }

  checkInvariants(): void {
    const { length } = this.#free;
    assert(length <= this.#keepMax, `${length} slabs are free, ${this.#keepMax} may be`);
    assert(new Set(this.#free).size === length, 'a slab is free twice');
    for (const slab of this.#free) assert(slab.length === SLAB_BYTES, `a slab of ${slab.length} bytes`);
  }
}
