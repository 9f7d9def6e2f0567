/**
 * Attributes as the target last told them, kept only while an inode lock of ours covers them.
 *
 * The client puts an entry in only while it holds the lock, and removes it when the server calls the lock back, so every entry
 * is true. Size and times of regular files are another matter: they need a data lock and live in FileState.
 * The target of a symlink never changes for a FID and needs no lock.
 */

import { LRUCache } from 'lru-cache';
import type { Attr } from '../../base/attr.js';
import { type Fid, ROOT_FID } from '../../base/ids.js';

/** An entry takes about 300 bytes. */
const ATTRS_MAX = 200_000;
const SYMLINK_BYTES_MAX = 8 << 20;

export class AttrCache {
  // Bounded by size and not by `max`: with `max`, lru-cache makes its tables at full length, which takes 16 ms of each mount.
  readonly #attrs = new LRUCache<Fid, Attr>({ maxSize: ATTRS_MAX, sizeCalculation: () => 1 });
  readonly #targets = new LRUCache<Fid, Uint8Array>({
    maxSize: SYMLINK_BYTES_MAX,
    sizeCalculation: (target) => target.length + 100,
  });
  #root: Attr | undefined;

  get size(): number {
    return this.#attrs.size;
  }

  get(fid: Fid): Attr | undefined {
    return this.#attrs.get(fid);
  }

  put(attr: Attr): void {
    this.#attrs.set(attr.fid, attr);
  }

  delete(fid: Fid): void {
    this.#attrs.delete(fid);
  }

  /** Keeps the attributes of the root from each reply that has them: monitoring asks for them while the target is away. */
  sawRoot(attr: Attr): void {
    this.#root = attr;
  }

  lastKnown(fid: Fid): Attr | undefined {
    return this.#attrs.get(fid) ?? (fid === ROOT_FID ? this.#root : undefined);
  }

  symlinkTarget(fid: Fid): Uint8Array | undefined {
    return this.#targets.get(fid);
  }

  putSymlinkTarget(fid: Fid, target: Uint8Array): void {
    this.#targets.set(fid, target);
  }

  clear(): void {
    this.#attrs.clear();
  }
}
