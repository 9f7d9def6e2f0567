/**
 * Layers of changes over the database: the batch that collects executed operations, and the batch before it while it is
 * being committed. A look-up asks the newer layer first. `undefined` means that no layer knows: ask the database.
 * `null` means removed.
 *
 * Operations write into the collecting layer directly and keep a journal; if an operation throws, the journal rolls it
 * back. Values never change in place.
 */

const ABSENT = Symbol('absent');

interface Undo {
  readonly map: Map<unknown, unknown>;
  readonly key: unknown;
  readonly previous: unknown;
}

/** What the running operation changed, so that it can be undone. */
export class Journal {
  #undos: Undo[] = [];

  get empty(): boolean {
    return this.#undos.length === 0;
  }
  set<K>(map: Map<K, unknown>, key: K, value: unknown): void {
    const before = map.get(key);
    const previous = before === undefined && !map.has(key) ? ABSENT : before;
    this.#undos.push({ map: map as Map<unknown, unknown>, key, previous });
    map.set(key, value);
  }
  rollback(): void {
    for (const { map, key, previous } of this.#undos.reverse()) {
      if (previous === ABSENT) map.delete(key);
      else map.set(key, previous);
    }
    this.#undos = [];
  }
  forget(): void {
    this.#undos = [];
  }
}

/** Records with one key. */
export class Table<K, V> {
  #collecting = new Map<K, V | null>();
  #committing: Map<K, V | null> | undefined;

  get(key: K): V | null | undefined {
    const value = this.#collecting.get(key);
    return value === undefined ? this.#committing?.get(key) : value;
  }
  set(key: K, value: V | null, journal: Journal): void {
    journal.set(this.#collecting, key, value);
  }
  /** Changes of both layers, newer over older. */
  changes(): Map<K, V | null> {
    return this.#committing === undefined
      ? this.#collecting
      : new Map([...this.#committing, ...this.#collecting]);
  }
  seal(): void {
    this.#committing = this.#collecting;
    this.#collecting = new Map();
  }
  get sealed(): ReadonlyMap<K, V | null> {
    return this.#committing ?? new Map();
  }
  settle(): void {
    this.#committing = undefined;
  }
}

/** Records with two keys: their group (a FID or a client), and a second key; scanned by group. */
export class GroupTable<G, K, V> {
  #collecting = new Map<G, Map<K, V | null>>();
  #committing: Map<G, Map<K, V | null>> | undefined;

  get(group: G, key: K): V | null | undefined {
    const value = this.#collecting.get(group)?.get(key);
    return value === undefined ? this.#committing?.get(group)?.get(key) : value;
  }
  set(group: G, key: K, value: V | null, journal: Journal): void {
    let inner = this.#collecting.get(group);
    if (inner === undefined) {
      inner = new Map();
      this.#collecting.set(group, inner);
    }
    journal.set(inner, key, value);
  }
  /** Changes under one group, newer over older; undefined when there are none. */
  changes(group: G): ReadonlyMap<K, V | null> | undefined {
    const newer = this.#collecting.get(group);
    const older = this.#committing?.get(group);
    if (older === undefined || newer === undefined) return newer ?? older;
    return new Map([...older, ...newer]);
  }
  seal(): void {
    this.#committing = this.#collecting;
    this.#collecting = new Map();
  }
  /** Changes since the last seal. */
  collected(): ReadonlyMap<G, ReadonlyMap<K, V | null>> {
    return this.#collecting;
  }
  get sealed(): ReadonlyMap<G, ReadonlyMap<K, V | null>> {
    return this.#committing ?? new Map();
  }
  settle(): void {
    this.#committing = undefined;
  }
}

export class FidTable<K, V> extends GroupTable<number, K, V> {}
