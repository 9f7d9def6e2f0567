/**
 * Memory for arriving frames, over all connections of a server: a peer that sends the beginning of a large frame makes
 * the server hold memory for all of it.
 *
 * A connection takes room for one frame at a time, before the first byte of its body. It gives the room back when the
 * frame was handed over, or, if its bulk has to wait for the budget, when that wait is over. The server does not read a
 * connection that waits for room. Connections are served in the order in which they ask, so none is starved. None holds
 * room while it waits for more, so they cannot wait in a circle. A peer that does not send the rest of its frame could
 * hold up others: so while any connection waits for what it has, the server closes one whose frame is not complete within
 * patienceMs. No party takes more than a part of the room (party_budgets.ts).
 * That client connects again and sends the request again.
 */

import { ByteBudget } from '../base/budget.js';
import { isPromise, type MaybePromise } from '../base/maybe_promise.js';
import type { LimitTime, Timer } from '../runtime/ports.js';
import { PartyBudgets, type PartyMember } from './party_budgets.js';

/** Frames up to this size are not counted: a connection itself costs as much memory. */
export const UNCOUNTED_BYTES = 64 << 10;
export const PATIENCE_MS = 10_000;

/** A connection that has taken room for a frame that is not complete. */
export interface Receiver extends PartyMember {
  /** The connection was too slow, and others wait. It closes, which gives its room back. */
  tooSlow(): void;
}

export class ReceiveRoom {
  readonly #time: LimitTime;
  readonly #patienceMs: number;
  readonly #budgets: PartyBudgets;
  /** When each connection took its room, in that order. */
  readonly #receiving = new Map<Receiver, number>();
  /** What gives the room of each connection back. */
  readonly #taken = new Map<Receiver, () => void>();
  #timer: Timer | undefined;

  constructor(time: LimitTime, limitBytes: number, patienceMs = PATIENCE_MS) {
    this.#time = time;
    this.#patienceMs = patienceMs;
    this.#budgets = new PartyBudgets(new ByteBudget('frames on their way in', limitBytes));
  }

  get usedBytes(): number {
    return this.#budgets.shared.usedBytes;
  }

  /** @throws FsError EINTR (as a rejection) if the signal aborts first; it has taken nothing then. */
  take(receiver: Receiver, bytes: number, signal: AbortSignal): MaybePromise<void> {
    const took = (give: () => void): void => {
      this.#taken.set(receiver, give);
      this.#receiving.set(receiver, this.#time.nowMs());
    };
    const taken = this.#budgets.take(receiver, bytes, signal);
    if (!isPromise(taken)) {
      took(taken);
      return undefined;
    }
    this.#arm();
    return taken.then((give) => {
      took(give);
      this.#arm();
    });
  }

  /** The frame is complete. The connection gives its room back later. */
  complete(receiver: Receiver): void {
    this.#receiving.delete(receiver);
  }

  give(receiver: Receiver): void {
    this.#receiving.delete(receiver);
    this.#taken.get(receiver)?.();
    this.#taken.delete(receiver);
  }

  #arm(): void {
    if (this.#timer !== undefined || this.#budgets.waiting === 0) return;
    for (const [receiver, since] of this.#receiving) {
      if (!this.#budgets.isWantedFrom(receiver)) continue;
      const ms = Math.max(1, since + this.#patienceMs - this.#time.nowMs());
      this.#timer = this.#time.after(ms, () => this.#look(), true);
      return;
    }
  }

  #look(): void {
    this.#timer = undefined;
    const tooLate = this.#time.nowMs() - this.#patienceMs;
    for (const [receiver, since] of [...this.#receiving]) {
      if (since > tooLate) break;
      if (!this.#budgets.isWantedFrom(receiver)) continue;
      this.#receiving.delete(receiver);
      receiver.tooSlow();
    }
    this.#arm();
  }
}
