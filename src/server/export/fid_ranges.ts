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

/** Whoever asks for ranges and uses none makes the server keep no more than these. */
const RANGES_MAX = 1024;

export class FidRanges {
  /** Settles when the range that it asked for last is committed. undefined: it is. */
  committed: Promise<void> | undefined;
  /** The oldest first. */
  #ranges: FidRange[] = [];
  #olderBelow = 0;

  /** A client asks for one when it has used up the one before, so it forgets ranges long before the server does. */
  add(range: FidRange): void {
    const last = this.#ranges.at(-1);
    if (last?.end === range.start)
      this.#ranges[this.#ranges.length - 1] = { start: last.start, end: range.end };
    else this.#ranges.push(range);
    if (this.#ranges.length > RANGES_MAX) this.#ranges = this.#ranges.slice(-RANGES_MAX / 2);
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
