/**
 * FIDs for new objects, from ranges that the target granted. The client chooses the FID of each object that it creates, so a
 * CREATE that it sends twice makes one object. The pool asks for the next range before the last one runs out.
 */

import { assert } from '../../base/assert.js';
import type { Fid } from '../../base/ids.js';
import type { MaybePromise } from '../../base/maybe_promise.js';

export interface FidRange {
  readonly start: Fid;
  readonly end: Fid;
}

/** The pool asks for more when fewer FIDs than this are left. */
const REFILL_BELOW = 256;

export class FidPool {
  readonly #fetch: () => Promise<FidRange>;
  readonly #ranges: { next: number; readonly end: number }[] = [];
  #left = 0;
  #fetching: Promise<void> | undefined;

  /** @param fetch asks the target for a range (GET_FIDS). */
  constructor(fetch: () => Promise<FidRange>) {
    this.#fetch = fetch;
  }

  add(range: FidRange): void {
    if (range.end <= range.start) return;
    this.#ranges.push({ next: range.start, end: range.end });
    this.#left += range.end - range.start;
  }

  /** What is left of the ranges. */
  ranges(): FidRange[] {
    return this.#ranges.map(({ next, end }) => ({ start: next as Fid, end: end as Fid }));
  }

  /** The export that the ranges were granted to is gone: the client may not use them any more. */
  clear(): void {
    this.#ranges.length = 0;
    this.#left = 0;
  }

  /** @throws FsError what GET_FIDS failed with. */
  take(): MaybePromise<Fid> {
    const range = this.#ranges[0];
    if (range === undefined) return this.#refill().then(() => this.take());
    const fid = range.next as Fid;
    range.next += 1;
    this.#left -= 1;
    if (range.next === range.end) this.#ranges.shift();
    // A failure here needs no report: the take() that finds the pool empty asks again and reports.
    if (this.#left < REFILL_BELOW) this.#refill().catch(() => undefined);
    return fid;
  }

  #refill(): Promise<void> {
    this.#fetching ??= this.#fetch()
      .then((range) => this.add(range))
      .finally(() => {
        this.#fetching = undefined;
      });
    return this.#fetching;
  }

  checkInvariants(): void {
    let left = 0;
    for (const { next, end } of this.#ranges) {
      assert(next < end, `a range of FIDs is [${next}, ${end})`);
      left += end - next;
    }
    assert(left === this.#left, `${left} FIDs are left, counted ${this.#left}`);
  }
}
