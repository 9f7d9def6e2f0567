/**
 * Names of directories, positive and negative, kept only while the directory's UPDATE lock is ours.
 *
 * A directory is `complete` when every name in it is here: one that this client made under the lock, or read to its
 * end under it. A name that a complete directory does not have is known not to exist, without an RPC.
 */

import { LRUCache } from 'lru-cache';
import type { Fid, Name } from '../../base/ids.js';

/** Names over all directories. One takes about 100 bytes. */
const NAMES_MAX = 500_000;

interface Directory {
  /** 0: known not to exist. */
  readonly names: Map<Name, Fid | 0>;
  complete: boolean;
}

export class DentryCache {
  readonly #directories = new LRUCache<Fid, Directory>({ maxSize: NAMES_MAX });

  /** Names known. */
  get size(): number {
    return this.#directories.calculatedSize;
  }

  /** @returns the FID, 0 for a name that does not exist, undefined when unknown. */
  get(parent: Fid, name: Name): Fid | 0 | undefined {
    const directory = this.#directories.get(parent);
    if (directory === undefined) return undefined;
    return directory.names.get(name) ?? (directory.complete ? 0 : undefined);
  }

  isComplete(parent: Fid): boolean {
    return this.#directories.peek(parent)?.complete ?? false;
  }

  /** The caller holds the parent's UPDATE lock. */
  put(parent: Fid, name: Name, fid: Fid | 0): void {
    const directory = this.#directory(parent);
    if (fid === 0 && directory.complete) directory.names.delete(name);
    else directory.names.set(name, fid);
    this.#resize(parent, directory);
  }

  /** What is not in here does not exist. */
  setComplete(parent: Fid): void {
    this.#directory(parent).complete = true;
  }

  /** Nothing is known of this name any more. */
  forget(parent: Fid, name: Name): void {
    const directory = this.#directories.peek(parent);
    if (directory === undefined) return;
    directory.names.delete(name);
    directory.complete = false;
  }

  /** The lock went, or the directory. */
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

  /** Tells the LRU in steps: exact sizes would cost more than they are worth. */
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
