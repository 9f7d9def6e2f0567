/**
 * Lifetime: something that may end while code waits, and every wait that depends on it.
 *
 * A client's session ends when the target evicts the client, a handle's when its file or its lock is lost (or with its
 * session), a server's target when it stops, a client of it when it is evicted (or with the target). Code that waits for
 * something on behalf of one of these waits through it: `await lifetime.wait(promise)`. Then it cannot go on as if nothing
 * had happened, because the wait throws why the lifetime has ended.
 *
 * Invariants: a lifetime ends once, and the first reason stays. What has ended does not begin again: there is a new one.
 */

import type { FsError } from './errno.js';
import type { MaybePromise } from './maybe_promise.js';

export class Lifetime {
  readonly #within: Lifetime | undefined;
  #why: FsError | undefined;

  /** @param within ends this one too. */
  constructor(within?: Lifetime) {
    this.#within = within;
  }

  /** Why it has ended; undefined: it has not. */
  get endedBy(): FsError | undefined {
    return this.#why ?? this.#within?.endedBy;
  }

  get isOver(): boolean {
    return this.endedBy !== undefined;
  }

  /** It was ended, and not only what it is within. */
  get isOverAlone(): boolean {
    return this.#why !== undefined;
  }

  end(why: FsError): void {
    this.#why ??= this.endedBy ?? why;
  }

  /** @throws FsError why it has ended. */
  check(): void {
    const why = this.endedBy;
    if (why !== undefined) throw why;
  }

  /** The promise's value, if this has not ended by then. @throws FsError why it has ended; what the promise is rejected with. */
  async wait<T>(promise: MaybePromise<T>): Promise<T> {
    const value = await promise;
    this.check();
    return value;
  }
}
