/**
 * Memory for large transfers that is used again and again.
 *
 * V8's garbage collector also counts memory outside its heap: a stream that takes new memory for each megabyte makes it
 * collect the whole heap every 64 MiB or so (measured: half of the CPU time of a cold read). So code that knows when
 * the bytes of a large transfer are no longer needed gives their memory back here.
 *
 * A slab that is not given back costs only its collection. After a slab was given back, neither its former owner nor
 * anyone with a view of it may read or write it: its owner has to ensure that.
 *
 * Invariant: the pool has each free slab once, and at most keepMax of them.
 */

import { assert } from './assert.js';

/** The size of a READ or WRITE of a stream. */
export const SLAB_BYTES = 1 << 20;

export class SlabPool {
  readonly #free: Buffer[] = [];
  #keepMax: number;
  readonly #allocate: (lengthBytes: number) => Buffer;

  /**
   * @param keepMax number of slabs kept for later; further ones are left to the garbage collector.
   * @param allocate where new slabs come from.
   */
  constructor(keepMax: number, allocate: (lengthBytes: number) => Buffer = Buffer.allocUnsafeSlow) {
    this.#keepMax = keepMax;
    this.#allocate = allocate;
  }

  /** Number of free slabs. */
  get free(): number {
    return this.#free.length;
  }

  /** Sets how many slabs are kept for later, and leaves further ones to the garbage collector. */
  keepAtMost(count: number): void {
    this.#keepMax = count;
    if (this.#free.length > count) this.#free.length = count;
  }

  /**
   * Memory of exactly this length, with any content: a slab if the length is that of a slab, else newly allocated
   * memory.
   */
  take(lengthBytes: number): Buffer {
    return (lengthBytes === SLAB_BYTES ? this.#free.pop() : undefined) ?? this.#allocate(lengthBytes);
  }

  /** @param memory all of what take() returned; memory that is not a slab is left to the garbage collector. */
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
