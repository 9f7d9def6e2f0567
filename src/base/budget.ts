/**
 * ByteBudget: the one tool of backpressure. Code that is about to hold memory for somebody else takes it from a named
 * budget first and gives it back in `finally`.
 *
 * Waiters are served first come, first served, so a large request is not starved by small ones. A request larger than
 * the whole budget is granted when nobody else holds any of the budget: it must not wait for ever.
 *
 * Invariant: the first waiter does not fit. So nobody waits while the whole budget is free.
 */

import { assert } from './assert.js';
import { FsError } from './errno.js';
import type { MaybePromise } from './maybe_promise.js';
import { onAbort } from './wait.js';

interface Waiter {
  readonly bytes: number;
  readonly grant: () => void;
}

export class ByteBudget {
  /** For metrics and messages. */
  readonly name: string;
  readonly limitBytes: number;
  #used = 0;
  readonly #waiters = new Set<Waiter>();

  constructor(name: string, limitBytes: number) {
    assert(limitBytes > 0, `budget ${name} of ${limitBytes} bytes`);
    this.name = name;
    this.limitBytes = limitBytes;
  }

  get usedBytes(): number {
    return this.#used;
  }

  /** Number of waiters. */
  get waiting(): number {
    return this.#waiters.size;
  }

  /** Takes the bytes if nobody waits and the budget has them. */
  tryTake(bytes: number): boolean {
    if (this.#waiters.size > 0 || !this.#fits(bytes)) return false;
    this.#used += bytes;
    return true;
  }

  /**
   * Takes the bytes, at once or when this caller's turn comes.
   * @throws FsError EINTR (as a rejection) if the signal aborts first; the caller has taken nothing then.
   */
  take(bytes: number, signal?: AbortSignal): MaybePromise<void> {
    if (signal?.aborted) return Promise.reject(this.#interrupted());
    if (this.tryTake(bytes)) return undefined;
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        bytes,
        grant: () => {
          unlisten();
          resolve();
        },
      };
      const unlisten = onAbort(signal, () => {
        this.#waiters.delete(waiter);
        // This waiter may have been the head of the queue and held up smaller ones.
        this.#serve();
        reject(this.#interrupted());
      });
      this.#waiters.add(waiter);
    });
  }

  give(bytes: number): void {
    assert(bytes <= this.#used, `budget ${this.name}: ${bytes} given back, ${this.#used} out`);
    this.#used -= bytes;
    this.#serve();
  }

  #fits(bytes: number): boolean {
    return this.#used === 0 || this.#used + bytes <= this.limitBytes;
  }

  #serve(): void {
    for (const waiter of this.#waiters) {
      if (!this.#fits(waiter.bytes)) return;
      this.#used += waiter.bytes;
      this.#waiters.delete(waiter);
      waiter.grant();
    }
  }

  #interrupted(): FsError {
    return new FsError('EINTR', `interrupted while waiting for ${this.name}`);
  }

  checkInvariants(): void {
    assert(this.#used >= 0, `budget ${this.name}: ${this.#used} bytes are out`);
    for (const { bytes } of this.#waiters) {
      assert(!this.#fits(bytes), `budget ${this.name}: ${bytes} bytes wait, and ${this.#used} are out`);
      break;
    }
  }
}
