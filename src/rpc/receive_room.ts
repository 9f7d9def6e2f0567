/**
 * Memory for frames on their way in, over all connections of a server: a peer that sends the beginning of a large frame
 * makes us hold memory for all of it.
 *
 * A connection takes room for one frame at a time, before the first byte of its body, and gives it back when the frame
 * was handed over (and, if it is a bulk that waits for its turn to be written, when that has come). It is not read while
 * it waits for room. First come, first served, so nobody is starved; no connection holds room while it waits for more,
 * so nobody waits in a circle. What could hold up others is a peer that does not send the rest: while anybody waits, a
 * connection whose frame is not there within patienceMs is closed. Its client comes back and sends the request again.
 */

import { ByteBudget } from '../base/budget.js';
import { isPromise, type MaybePromise } from '../base/maybe_promise.js';
import type { LimitTime, Timer } from '../runtime/ports.js';

/** Frames below this are not counted: a connection costs as much anyway. */
export const UNCOUNTED_BYTES = 64 << 10;
export const PATIENCE_MS = 10_000;

/** A connection that has room for a frame that is not complete. */
export interface Receiver {
  /** It was too slow, and others wait. It gives its room back by closing. */
  tooSlow(): void;
}

export class ReceiveRoom {
  readonly #time: LimitTime;
  readonly #patienceMs: number;
  readonly #budget: ByteBudget;
  /** Since when; in that order. */
  readonly #receiving = new Map<Receiver, number>();
  #timer: Timer | undefined;

  constructor(time: LimitTime, limitBytes: number, patienceMs = PATIENCE_MS) {
    this.#time = time;
    this.#patienceMs = patienceMs;
    this.#budget = new ByteBudget('frames on their way in', limitBytes);
  }

  get usedBytes(): number {
    return this.#budget.usedBytes;
  }

  /** @throws FsError EINTR (as a rejection) when the signal aborts first; nothing was taken then. */
  take(receiver: Receiver, bytes: number, signal: AbortSignal): MaybePromise<void> {
    const taken = this.#budget.take(bytes, signal);
    if (!isPromise(taken)) {
      this.#receiving.set(receiver, this.#time.nowMs());
      return undefined;
    }
    this.#arm();
    return taken.then(() => {
      this.#receiving.set(receiver, this.#time.nowMs());
      this.#arm();
    });
  }

  /** The frame is complete; its room is given back later. */
  complete(receiver: Receiver): void {
    this.#receiving.delete(receiver);
  }

  give(receiver: Receiver, bytes: number): void {
    this.#receiving.delete(receiver);
    this.#budget.give(bytes);
  }

  #arm(): void {
    if (this.#timer !== undefined || this.#budget.waiting === 0) return;
    for (const since of this.#receiving.values()) {
      const ms = Math.max(1, since + this.#patienceMs - this.#time.nowMs());
      this.#timer = this.#time.after(ms, () => this.#look(), true);
      return;
    }
  }

  #look(): void {
    this.#timer = undefined;
    const tooLate = this.#time.nowMs() - this.#patienceMs;
    for (const [receiver, since] of [...this.#receiving]) {
      if (since > tooLate || this.#budget.waiting === 0) break;
      this.#receiving.delete(receiver);
      receiver.tooSlow();
    }
    this.#arm();
  }
}
