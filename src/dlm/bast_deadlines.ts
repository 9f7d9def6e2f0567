/**
 * The time limit of BASTs: one timer for all of them.
 *
 * All limits are equally long, so they end in the order in which the server sent the BASTs. So a Map in insertion order
 * and one timer for its first entry serve any number of locks.
 *
 * Invariants: deadlines grow in the order of the map; the timer runs while there is a deadline.
 */

import { assert } from '../base/assert.js';
import type { LimitTime, Timer } from '../runtime/ports.js';

export class BastDeadlines<Lock> {
  readonly #time: LimitTime;
  readonly #limitMs: number;
  readonly #expired: (lock: Lock) => void;
  readonly #deadlines = new Map<Lock, number>();
  #timer: Timer | undefined = undefined;

  constructor(time: LimitTime, limitMs: number, expired: (lock: Lock) => void) {
    this.#time = time;
    this.#limitMs = limitMs;
    this.#expired = expired;
  }

  get size(): number {
    return this.#deadlines.size;
  }

  /** Starts the limit of a lock now, or starts it anew if it runs already. */
  start(lock: Lock): void {
    this.#deadlines.delete(lock);
    this.#deadlines.set(lock, this.#time.nowMs() + this.#limitMs);
    this.#arm();
  }

  stop(lock: Lock): void {
    if (this.#deadlines.delete(lock) && this.#deadlines.size === 0) {
      this.#timer?.cancel();
      this.#timer = undefined;
    }
  }

  #arm(): void {
    if (this.#timer !== undefined) return;
    for (const deadline of this.#deadlines.values()) {
      const ms = Math.max(0, deadline - this.#time.nowMs());
      // This timer keeps the process alive: only it ends a shutdown that waits for a client that is gone.
      this.#timer = this.#time.after(ms, () => this.#fire());
      return;
    }
  }

  #fire(): void {
    this.#timer = undefined;
    const now = this.#time.nowMs();
    const due: Lock[] = [];
    for (const [lock, deadline] of this.#deadlines) {
      if (deadline > now) break;
      due.push(lock);
    }
    for (const lock of due) this.#deadlines.delete(lock);
    this.#arm();
    for (const lock of due) this.#expired(lock);
  }

  has(lock: Lock): boolean {
    return this.#deadlines.has(lock);
  }

  locks(): Iterable<Lock> {
    return this.#deadlines.keys();
  }

  checkInvariants(): void {
    const { size } = this.#deadlines;
    assert(size === 0 || this.#timer !== undefined, `${size} limits run, and no timer`);
    let before = Number.NEGATIVE_INFINITY;
    for (const deadline of this.#deadlines.values()) {
      assert(deadline >= before, `a limit at ${deadline} stands behind one at ${before}`);
      before = deadline;
    }
  }
}
