/**
 * Names in directories, positive and negative, kept only while this client holds the directory's UPDATE lock.
 *
 * A directory is `complete` when every name in it is here: this client made it under the lock, or read it to its end under the
 * lock. Then the client knows without an RPC that any other name does not exist in it.
 */

import { LRUCache } from 'lru-cache';
import type { Fid, Name } from '../../base/ids.js';

/** Limit on the names of all directories together. One name takes about 100 bytes. */
const NAMES_MAX = 500_000;

interface Directory {
  /** 0: known not to exist. */
  readonly names: Map<Name, Fid | 0>;
  complete: boolean;
}

export class DentryCache {
  readonly #directories = new LRUCache<Fid, Directory>({ maxSize: NAMES_MAX });

  /** Number of names known. */
  get size(): number {
    return this.#directories.calculatedSize;
  }

  /** @returns the FID, 0 for a name that does not exist, undefined when unknown. */
  get(parent: Fid, name: Name): Fid | 0 | undefined {
    const directory = this.#directories.get(parent);
    if (directory === undefined) return undefined;
    return directory.names.get(name) ?? (directory.complete ? 0 : undefined);
  }

  /** A name of each of these inodes, where one is known. Looks at all names once: for people, not for operations. */
  namesOf(fids: ReadonlySet<Fid>): ReadonlyMap<Fid, Name> {
    const found = new Map<Fid, Name>();
    for (const { names } of this.#directories.values()) {
      for (const [name, fid] of names) if (fid !== 0 && fids.has(fid)) found.set(fid, name);
    }
    return found;
  }

  /** The same object as long as nothing of what was put is forgotten. */
  contentOf(parent: Fid): object | undefined {
    return this.#directories.peek(parent);
  }

  isComplete(parent: Fid): boolean {
    return this.#directories.peek(parent)?.complete ?? false;
  }

  /** Every name of the directory is here, and there is none. */
  isKnownEmpty(parent: Fid): boolean {
    const directory = this.#directories.peek(parent);
    return directory?.complete === true && directory.names.size === 0;
  }

  /** The caller holds the parent's UPDATE lock. */
  put(parent: Fid, name: Name, fid: Fid | 0): void {
    const directory = this.#directory(parent);
    if (fid === 0 && directory.complete) directory.names.delete(name);
    else directory.names.set(name, fid);
    this.#resize(parent, directory);
  }

  /** All names of the directory are here: any other name does not exist. */
  setComplete(parent: Fid): void {
    const directory = this.#directory(parent);
    directory.complete = true;
    for (const [name, fid] of directory.names) if (fid === 0) directory.names.delete(name);
  }

  /** The client does not know this name any more. */
  forget(parent: Fid, name: Name): void {
    const directory = this.#directories.peek(parent);
    if (directory === undefined) return;
    const { names } = directory;
    names.delete(name);
    this.#directories.set(parent, { names, complete: false }, { size: names.size + 1 });
  }

  /** The lock is gone, or the directory. */
  drop(parent: Fid): void {
    this.#directories.delete(parent);
  }

  clear(): void {
    this.#directories.clear();
  }

  #directory(parent: Fid): Directory {
    let directory = this.#directories.get(parent);
    if (directory === undefined) {
      directory = { names: new Map(), complete: false };
      this.#directories.set(parent, directory, { size: 1 });
    }
    return directory;
  }

  /** Tells the LRU the size in steps: exact sizes would cost more than they are worth. */
  #resize(parent: Fid, directory: Directory): void {
    const size = directory.names.size;
    if (size % 64 !== 0) return;
    if (size >= NAMES_MAX) {
      // One directory larger than the whole cache: begin again rather than grow.
      this.#directories.delete(parent);
      return;
    }
    this.#directories.set(parent, directory, { size: size + 1 });
  }
}
