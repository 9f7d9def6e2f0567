/**
 * How full the meta device is. lmdb does not know its end: a commit past it fails whole. So operations are refused with
 * ENOSPC before that, in three tiers of pages:
 *
 *   | used | what operations may fill | deletes may use, too | copies that commits make |
 *
 * The last tier is never promised to anyone: a commit writes every page it touches to a new place, and the old ones come
 * free two transactions later. It must hold three batches' worth of touched pages, so small devices commit small batches.
 */

import { FsError } from '../base/errno.js';
import type { MetaDatabase } from './lmdb_store.js';
import { LMDB_PAGE_BYTES } from './meta_probe.js';
import type { Overlay } from './overlay.js';

/** Pages of a B-tree are about two thirds full; what is pending may double that while it waits. */
const BYTES_PER_PAGE = 2048;
/** For statfs: an inode with two entries and a little content. */
const BYTES_PER_INODE = 1024;

export class MetaSpace {
  readonly #db: MetaDatabase;
  readonly #overlay: Overlay;
  readonly #totalPages: number;
  readonly #copyPages: number;
  readonly #deletePages: number;
  #usedPages: number;
  /** Records of a batch: each touches a leaf of its own in the worst case, and the branches above are shared. */
  readonly recordsAtOnce: number;

  constructor(db: MetaDatabase, overlay: Overlay, sizeBytes: number) {
    this.#db = db;
    this.#overlay = overlay;
    this.#totalPages = Math.floor(sizeBytes / LMDB_PAGE_BYTES);
    this.#copyPages = Math.min(8192, Math.floor(this.#totalPages / 8));
    this.#deletePages = Math.min(4096, Math.floor(this.#totalPages / 16));
    this.recordsAtOnce = Math.floor(this.#copyPages / 4);
    this.#usedPages = db.usedPages();
  }

  /** After a commit. */
  refresh(): void {
    this.#usedPages = this.#db.usedPages();
  }

  /** @throws FsError ENOSPC when an operation (one that makes room: `reserve`) must not begin. */
  check(reserve: boolean): void {
    if (this.#left() < (reserve ? 0 : this.#deletePages)) {
      throw new FsError('ENOSPC', 'no space left on the meta device');
    }
  }

  freeBytes(): number {
    return Math.max(0, this.#left() - this.#deletePages) * LMDB_PAGE_BYTES;
  }
  inodesFree(): number {
    return Math.floor(this.freeBytes() / BYTES_PER_INODE);
  }

  #left(): number {
    const pending = Math.ceil(this.#overlay.pendingBytes / BYTES_PER_PAGE);
    return this.#totalPages - this.#usedPages - pending - this.#copyPages;
  }
}
