/**
 * Attributes as the target last told them, kept only while an inode lock of ours covers them.
 *
 * An entry is put only when the lock is held at that moment and is removed when the lock is called back, so what is in
 * here is true. Size and times of regular files are another matter: they need a data lock and live in FileState.
 * Symlink targets never change for a FID and need no lock.
 */

import { LRUCache } from 'lru-cache';
import type { Attr } from '../../base/attr.js';
import { type Fid, ROOT_FID } from '../../base/ids.js';

/** An entry takes about 300 bytes. */
const ATTRS_MAX = 200_000;
const SYMLINK_BYTES_MAX = 8 << 20;

export class AttrCache {
  // Bounded by size and not by `max`, which would make its tables at full length: 16 ms of each mount.
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

  /** Told of every attribute of the root that passes: monitoring asks for it while the target is away. */
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
