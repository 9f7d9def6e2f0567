/**
 * A map that costs little while it holds one entry: most files have one granule, one dirty range, one write under way.
 * A Map of one entry takes some 250 bytes, and collecting them as garbage costs more than using them.
 *
 * Iteration is in the order of insertion. Once there is more than one entry, it sees entries that are added meanwhile,
 * as with Map.
 */

export class LeanMap<K, V> {
  #key: K | undefined;
  #value: V | undefined;
  /** Holds all entries from when there are two until there is none. */
  #many: Map<K, V> | undefined;
  #size = 0;

  get size(): number {
    return this.#many?.size ?? this.#size;
  }

  has(key: K): boolean {
    return this.#many !== undefined ? this.#many.has(key) : this.#size === 1 && this.#key === key;
  }

  get(key: K): V | undefined {
    if (this.#many !== undefined) return this.#many.get(key);
    return this.#size === 1 && this.#key === key ? this.#value : undefined;
  }

  set(key: K, value: V): void {
    if (this.#many !== undefined) {
      this.#many.set(key, value);
    } else if (this.#size === 0 || this.#key === key) {
      this.#key = key;
      this.#value = value;
      this.#size = 1;
    } else {
      this.#many = new Map([[this.#key as K, this.#value as V]]);
      this.#many.set(key, value);
      this.#key = undefined;
      this.#value = undefined;
    }
  }

  /** @returns whether the key was there. */
  delete(key: K): boolean {
    const many = this.#many;
    if (many !== undefined) {
      const deleted = many.delete(key);
      if (many.size === 0) {
        this.#many = undefined;
        this.#size = 0;
      }
      return deleted;
    }
    if (this.#size === 0 || this.#key !== key) return false;
    this.#key = undefined;
    this.#value = undefined;
    this.#size = 0;
    return true;
  }

  *values(): Generator<V, void, undefined> {
    if (this.#many !== undefined) yield* this.#many.values();
    else if (this.#size === 1) yield this.#value as V;
  }
}

/** A set made in the same way. */
export class LeanSet<T> {
  readonly #items = new LeanMap<T, T>();

  get size(): number {
    return this.#items.size;
  }

  has(item: T): boolean {
    return this.#items.has(item);
  }

  add(item: T): void {
    this.#items.set(item, item);
  }

  delete(item: T): boolean {
    return this.#items.delete(item);
  }

  [Symbol.iterator](): Generator<T, void, undefined> {
    return this.#items.values();
  }
}
