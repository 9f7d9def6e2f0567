/**
 * Locks in the order of their last use. The list runs through the locks themselves, because match() moves one for every
 * operation.
 */

import { assert } from '../base/assert.js';

export interface Linked<T> {
  older: T | undefined;
  younger: T | undefined;
}

export class LockLru<T extends Linked<T>> {
  #oldest: T | undefined = undefined;
  #youngest: T | undefined = undefined;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get oldest(): T | undefined {
    return this.#oldest;
  }

  /** Adds an item, which must not be in the list, at the young end. */
  add(item: T): void {
    item.older = this.#youngest;
    item.younger = undefined;
    if (this.#youngest === undefined) this.#oldest = item;
    else this.#youngest.younger = item;
    this.#youngest = item;
    this.#size++;
  }

  /** Removes an item, which must be in the list. */
  remove(item: T): void {
    if (item.older === undefined) this.#oldest = item.younger;
    else item.older.younger = item.younger;
    if (item.younger === undefined) this.#youngest = item.older;
    else item.younger.older = item.older;
    item.older = undefined;
    item.younger = undefined;
    this.#size--;
  }

  /** Makes an item, which must be in the list, the youngest. */
  touch(item: T): void {
    if (item === this.#youngest) return;
    this.remove(item);
    this.add(item);
  }

  *[Symbol.iterator](): Iterator<T> {
    for (let item = this.#oldest; item !== undefined; item = item.younger) yield item;
  }

  checkInvariants(): void {
    let count = 0;
    let before: T | undefined;
    for (const item of this) {
      assert(item.older === before, 'a link back leads elsewhere');
      before = item;
      count += 1;
      assert(count <= this.#size, `more items are linked than the ${this.#size} counted`);
    }
    assert(count === this.#size, `${count} items are linked, counted ${this.#size}`);
    assert(before === this.#youngest, 'the last item is not the youngest');
  }
}
