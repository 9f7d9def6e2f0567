/**
 * The FIDs by which a client may name new objects: the ranges that this instance of the server gave it. So no client can name an object
 * by a FID of another, whose create would then fail.
 *
 * A client that has recovered from an earlier instance may also send operations that it began before, with FIDs from then. Whose
 * those were nobody knows any more: it may use each of them.
 */

import type { Fid } from '../../base/ids.js';

export interface FidRange {
  readonly start: Fid;
  readonly end: Fid;
}

export class FidRanges {
  /** The oldest first. */
  readonly #ranges: FidRange[] = [];
  #olderBelow = 0;

  add(range: FidRange): void {
    this.#ranges.push(range);
  }

  /** It has recovered. @param first the first FID that this instance has handed out. */
  hasOlder(first: number): void {
    this.#olderBelow = first;
  }

  has(fid: Fid): boolean {
    return (
      fid < this.#olderBelow ||
      this.#ranges.findLast(({ start, end }) => fid >= start && fid < end) !== undefined
    );
  }
}
