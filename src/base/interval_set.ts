/**
 * A set of integers as sorted, disjoint, non-adjacent half-open ranges [start, end): dirty bytes, held byte ranges.
 *
 * Ranges that touch are joined, so the representation of a set is unique. Both bounds are safe integers, or the end is
 * Infinity. Lookups are binary searches. A change moves all ranges behind it, which is cheap for the few hundred ranges
 * of a file.
 */

import { assert } from './assert.js';

export interface Range {
  readonly start: number;
  /** Exclusive. */
  readonly end: number;
}

export class IntervalSet {
  readonly #starts: number[] = [];
  readonly #ends: number[] = [];
  #total = 0;

  /** Number of ranges. */
  get count(): number {
    return this.#starts.length;
  }

  /** Sum of the lengths. */
  get total(): number {
    return this.#total;
  }

  get isEmpty(): boolean {
    return this.#starts.length === 0;
  }

  /** Adds [start, end), which may be empty. @returns the length of the parts that were not in the set before. */
  add(start: number, end: number): number {
    this.#check(start, end);
    if (start === end) return 0;
    // Joins the ranges that overlap or touch: from the first that ends at or after start, to the last that starts at or
    // before end.
    const first = this.#firstEndingFrom(start);
    let after = first;
    let known = 0;
    let from = start;
    let to = end;
    while (after < this.#starts.length && this.#startAt(after) <= end) {
      known += this.#endAt(after) - this.#startAt(after);
      from = Math.min(from, this.#startAt(after));
      to = Math.max(to, this.#endAt(after));
      after += 1;
    }
    this.#starts.splice(first, after - first, from);
    this.#ends.splice(first, after - first, to);
    // The difference would be NaN if both lengths are infinite; the set has not grown then.
    const grown = to - from === known ? 0 : to - from - known;
    this.#recount(grown);
    return grown;
  }

  /** Removes [start, end). @returns the length of the parts that were in the set. */
  remove(start: number, end: number): number {
    this.#check(start, end);
    if (start === end) return 0;
    const first = this.#firstEndingFrom(start + 1);
    let after = first;
    let removed = 0;
    const starts: number[] = [];
    const ends: number[] = [];
    while (after < this.#starts.length && this.#startAt(after) < end) {
      const from = this.#startAt(after);
      const to = this.#endAt(after);
      removed += Math.min(to, end) - Math.max(from, start);
      if (from < start) {
        starts.push(from);
        ends.push(start);
      }
      if (to > end) {
        starts.push(end);
        ends.push(to);
      }
      after += 1;
    }
    if (after === first) return 0;
    this.#starts.splice(first, after - first, ...starts);
    this.#ends.splice(first, after - first, ...ends);
    this.#recount(-removed);
    return removed;
  }

  clear(): void {
    this.#starts.length = 0;
    this.#ends.length = 0;
    this.#total = 0;
  }

  /** Whether all of [start, end) is in the set. True for an empty range. */
  contains(start: number, end: number): boolean {
    this.#check(start, end);
    if (start === end) return true;
    const index = this.#firstEndingFrom(start + 1);
    return index < this.#starts.length && this.#startAt(index) <= start && this.#endAt(index) >= end;
  }

  /** Whether some of [start, end) is in the set. */
  overlaps(start: number, end: number): boolean {
    this.#check(start, end);
    if (start === end) return false;
    const index = this.#firstEndingFrom(start + 1);
    return index < this.#starts.length && this.#startAt(index) < end;
  }

  /** The parts of [start, end) that are in the set, in order. */
  within(start: number, end: number): Range[] {
    this.#check(start, end);
    const parts: Range[] = [];
    for (let index = this.#firstEndingFrom(start + 1); index < this.#starts.length; index += 1) {
      const from = Math.max(this.#startAt(index), start);
      const to = Math.min(this.#endAt(index), end);
      if (from >= to) break;
      parts.push({ start: from, end: to });
    }
    return parts;
  }

  /** The parts of [start, end) that are not in the set, in order. */
  gaps(start: number, end: number): Range[] {
    const gaps: Range[] = [];
    let at = start;
    for (const part of this.within(start, end)) {
      if (part.start > at) gaps.push({ start: at, end: part.start });
      at = part.end;
    }
    if (at < end) gaps.push({ start: at, end });
    return gaps;
  }

  first(): Range | undefined {
    return this.#rangeAt(0);
  }

  last(): Range | undefined {
    return this.#rangeAt(this.#starts.length - 1);
  }

  /** The ranges in order. The set must not change during the iteration. */
  *[Symbol.iterator](): Iterator<Range> {
    for (let index = 0; index < this.#starts.length; index += 1) {
      yield { start: this.#startAt(index), end: this.#endAt(index) };
    }
  }

  #rangeAt(index: number): Range | undefined {
    if (index < 0 || index >= this.#starts.length) return undefined;
    return { start: this.#startAt(index), end: this.#endAt(index) };
  }

  #startAt(index: number): number {
    return this.#starts[index] as number;
  }

  #endAt(index: number): number {
    return this.#ends[index] as number;
  }

  /** Index of the first range whose end is at or after `end`. */
  #firstEndingFrom(end: number): number {
    let low = 0;
    let high = this.#ends.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#endAt(middle) < end) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Sums up anew if an infinite range was added or removed: a difference of infinities is not a number. */
  #recount(change: number): void {
    this.#total += change;
    if (Number.isFinite(this.#total)) return;
    this.#total = 0;
    for (let index = 0; index < this.#starts.length; index += 1) {
      this.#total += this.#endAt(index) - this.#startAt(index);
    }
  }

  #check(start: number, end: number): void {
    assert(
      Number.isSafeInteger(start) && (Number.isSafeInteger(end) || end === Infinity) && start <= end,
      `not a range: [${start}, ${end})`,
    );
  }

  /** Checks the header's invariants, and that the total is the sum of the ranges. */
  checkInvariants(): void {
    assert(this.#starts.length === this.#ends.length, 'a range has no end');
    let total = 0;
    let after = -1;
    for (let index = 0; index < this.#starts.length; index += 1) {
      const start = this.#startAt(index);
      const end = this.#endAt(index);
      assert(start > after && end > start, `range [${start}, ${end}) follows one that ends at ${after}`);
      total += end - start;
      after = end;
    }
    assert(total === this.#total, `the ranges hold ${total}, counted ${this.#total}`);
  }
}
