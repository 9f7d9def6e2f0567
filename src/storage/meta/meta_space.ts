/**
 * How full the meta device is. lmdb does not know where the device ends: a commit past the end fails as a whole. So the
 * store refuses operations with ENOSPC before that, in three tiers of pages:
 *
 *   | used | what operations may fill | deletes and overwrites may use, too | copies that commits make |
 *
 * The store never promises the last tier to users: a commit writes every page it touches to a new place, and the old
 * pages become free two transactions later. The tier holds the touched pages of these batches: the one that collects, the
 * one that is being committed, what waits in the redo log, and the last one that went to the tree. Nobody can know in advance how large a batch gets while another
 * is committed, so the tier grows with the records that they really hold. This count is the most pessimistic one.
 * An operation that finds no room by it may find room after a commit or two: `isPressed` says when that is worth a
 * wait.
 *
 * The store never refuses what the server changes for itself (the superblock, clients' records, FIDs, orphans):
 * otherwise the server could not start, and nobody could delete. These changes use the last tier. It is large enough
 * because they are small: a transaction of a few records copies, for each record, a leaf and the branches above it, and
 * the free list's pages. Deletes use the last tier too when their own is used up, in batches so small that the copies
 * of three of them fit.
 *
 * The server promises pages to clients that answer their programs first and send their operations later (BATCH). What is
 * promised counts as if the operations were executed already and collected, so others find no room in it.
 *
 * Invariants: the tiers leave room for something; no more pages are in use than there are; the promised bytes are not
 * negative.
 */

import { assert } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import type { ExecuteOptions } from '../api.js';
import type { MetaDatabase, TreeUse } from '../meta_medium.js';
import { LMDB_PAGE_BYTES } from './meta_probe.js';
import type { Overlay } from './overlay.js';

/** Pages of a B-tree are about two thirds full; pending records may double that while they wait. */
const BYTES_PER_PAGE = 2048;
/** A record touches a leaf of its own in the worst case; the branches above it are shared. */
const PAGES_PER_RECORD = 1.25;
/** Counters, space bitmaps, the list of free pages: every commit touches them. */
const PAGES_PER_COMMIT = 32;
/** A longer value takes more than a page: with its header and checksum it does not fit one. */
const VALUE_OF_A_PAGE = 4032;
/** More pages than one operation may need. */
const ROOM_PAGES = 64;
/** Most records of running batches with which a delete may still take from the pages for copies. */
const SMALL_BATCH_RECORDS = 64;
/** For what is promised: records of an operation that its client pays with so many bytes or more (wire/batch.ts). */
const RECORDS_PER_PROMISE = 6;
const PROMISE_BYTES = 2048;
/** Pages that a promise takes for each page of its bytes, at most: its records, and the copies of pages that they touch. */
const PAGES_PER_PROMISE = PROMISE_BYTES / BYTES_PER_PAGE + RECORDS_PER_PROMISE * PAGES_PER_RECORD;
/** For statfs: bytes of an inode with two entries and a little content. */
const BYTES_PER_INODE = 1024;

function copyPages(sizeBytes: number): number {
  return Math.min(8192, Math.floor(sizeBytes / LMDB_PAGE_BYTES / 8));
}

/** Most records of a batch on a device of this size, so that its copied pages have room. */
export function recordsAtOnce(sizeBytes: number): number {
  return Math.floor(copyPages(sizeBytes) / 4);
}

/** Pages that a transaction takes at most, with a value of many pages for each of them, and no page of the free list. */
export function pagesOfCommit(changes: number, bytes: number): number {
  return PAGES_PER_COMMIT + Math.ceil(changes * PAGES_PER_RECORD) + Math.ceil(bytes / BYTES_PER_PAGE);
}

/** Pages that a batch writes anew, at most. */
function touched(records: number, usedPages: number): number {
  return PAGES_PER_COMMIT + Math.min(Math.ceil(records * PAGES_PER_RECORD), usedPages);
}

export class MetaSpace {
  readonly #db: MetaDatabase;
  readonly #overlay: Overlay;
  readonly #totalPages: number;
  readonly #devicePages: number;
  readonly #copyPages: number;
  readonly #deletePages: number;
  #promisedBytes = 0;
  /** Most records of a batch: each touches a leaf of its own in the worst case, and they share the branches above. */
  readonly recordsAtOnce: number;

  /** @param treeBytes the tree must keep to so much of the device; absent: to all of it. */
  constructor(db: MetaDatabase, overlay: Overlay, deviceBytes: number, treeBytes?: number) {
    const sizeBytes = treeBytes ?? deviceBytes;
    this.#devicePages = Math.floor(deviceBytes / LMDB_PAGE_BYTES);
    this.#db = db;
    this.#overlay = overlay;
    this.#totalPages = Math.floor(sizeBytes / LMDB_PAGE_BYTES);
    this.#copyPages = copyPages(sizeBytes);
    this.#deletePages = Math.min(4096, Math.floor(this.#totalPages / 16));
    this.recordsAtOnce = recordsAtOnce(sizeBytes);
  }

  /** The store may refuse operations for lack of room that a commit would give back. */
  get isPressed(): boolean {
    return this.#recent() > 0 && this.#left() < this.#deletePages + ROOM_PAGES;
  }

  /** @throws FsError ENOSPC if an operation (`reserve` as in ExecuteOptions) must not begin. */
  check(reserve: NonNullable<ExecuteOptions['reserve']>): void {
    if (reserve === 'own' || this.#left() >= this.#deletePages) return;
    const kind = typeof reserve === 'function' ? reserve() : reserve;
    if (kind === 'replaces' ? this.#left() >= 0 : kind && this.#mayDelete()) return;
    throw new FsError('ENOSPC', 'no space left on the meta device');
  }

  /**
   * A value of several pages needs them in a row. If the free pages are scattered, lmdb takes pages behind its last one, and a
   * commit past the end of the device fails. So such a value must fit there, whatever else the commit takes.
   * @throws FsError ENOSPC
   */
  checkValue(reserve: NonNullable<ExecuteOptions['reserve']>, bytes: number): void {
    if (reserve === 'own' || bytes <= VALUE_OF_A_PAGE) return;
    const { lastPage, waitingRecords, waitingBytes } = this.#db.use();
    const records = this.#overlay.collectedRecords + this.#overlay.sealedRecords + waitingRecords;
    const pages = pagesOfCommit(records, this.#overlay.pendingBytes + waitingBytes);
    if (lastPage + 1 + pages > this.#devicePages)
      throw new FsError('ENOSPC', 'no pages in a row left on the meta device');
  }

  #mayDelete(): boolean {
    if (this.#left() >= 0) return true;
    const recent = this.#recent();
    // The delete is alone in its batch: there will never be more room than now.
    if (recent === 0) return true;
    const use = this.#db.use();
    return recent <= SMALL_BATCH_RECORDS && this.#leftAfter(use, this.#copies(use)) >= 0;
  }

  #recent(): number {
    const { waitingRecords, lastRecords } = this.#db.use();
    return this.#overlay.collectedRecords + this.#overlay.sealedRecords + waitingRecords + lastRecords;
  }

  freeBytes(): number {
    return Math.max(0, this.#left() - this.#deletePages) * LMDB_PAGE_BYTES;
  }

  /** How many more bytes can be promised, beside what operations use and what is promised already. */
  promisableBytes(): number {
    if (this.isPressed) return 0;
    const pages = Math.max(0, this.#left() - this.#deletePages);
    return Math.floor(pages / PAGES_PER_PROMISE) * PROMISE_BYTES;
  }

  /** @param bytes more that are promised; below 0: fewer. */
  promise(bytes: number): void {
    this.#promisedBytes += bytes;
  }

  inodesFree(): number {
    return Math.floor(this.freeBytes() / BYTES_PER_INODE);
  }

  #left(): number {
    const use = this.#db.use();
    return this.#leftAfter(use, Math.max(this.#copyPages, this.#copies(use)));
  }
  #leftAfter(use: TreeUse, copies: number): number {
    const { usedPages, waitingBytes } = use;
    const bytes = this.#overlay.pendingBytes + waitingBytes + this.#promisedBytes;
    return this.#totalPages - usedPages - Math.ceil(bytes / BYTES_PER_PAGE) - copies;
  }
  #copies({ usedPages, waitingRecords, lastRecords }: TreeUse): number {
    return (
      touched(this.#overlay.collectedRecords + this.#promisedRecords, usedPages) +
      touched(this.#overlay.sealedRecords, usedPages) +
      (waitingRecords > 0 ? touched(waitingRecords, usedPages) : 0) +
      touched(lastRecords, usedPages)
    );
  }

  get #promisedRecords(): number {
    return Math.ceil((this.#promisedBytes / PROMISE_BYTES) * RECORDS_PER_PROMISE);
  }

  checkInvariants(): void {
    const reserved = this.#copyPages + this.#deletePages;
    assert(reserved < this.#totalPages, `${reserved} of ${this.#totalPages} pages are kept back`);
    const { usedPages } = this.#db.use();
    assert(usedPages <= this.#totalPages, `${usedPages} of ${this.#totalPages} pages are in use`);
    assert(this.#promisedBytes >= 0, `${this.#promisedBytes} bytes are promised`);
  }
}
