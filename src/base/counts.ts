/** How often each key was added and not removed. */

import { assert } from './assert.js';

export class Counts<K> {
  readonly #counts = new Map<K, number>();

  get size(): number {
    return this.#counts.size;
  }

  has(key: K): boolean {
    return this.#counts.has(key);
  }

  keys(): Iterable<K> {
    return this.#counts.keys();
  }

  add(key: K): void {
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1);
  }

  /** The key must be there. */
  remove(key: K): void {
    const left = (this.#counts.get(key) ?? 0) - 1;
    assert(left >= 0, `${key} was not added`);
    if (left === 0) this.#counts.delete(key);
    else this.#counts.set(key, left);
  }

  clear(): void {
    this.#counts.clear();
  }
}
