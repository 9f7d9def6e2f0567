/**
 * Lifetime: the life of something that may end while code waits, and every wait that depends on it.
 *
 * A client's session ends when the target evicts the client. A handle ends when its file or its lock is lost, or with
 * its session. A server's target ends when it stops; a client of that target ends when the server evicts it, or with
 * the target. Code that waits on behalf of one of these waits through its lifetime: `await lifetime.wait(promise)`. If
 * the lifetime ends meanwhile, the wait throws the reason, so the code cannot go on as if nothing had happened.
 *
 * Invariants: a lifetime ends once, and its first reason stays. An ended lifetime never begins again; its owner makes a
 * new one.
 */

import type { FsError } from './errno.js';
import type { MaybePromise } from './maybe_promise.js';

export class Lifetime {
  readonly #within: Lifetime | undefined;
  #why: FsError | undefined;

  /** @param within a lifetime whose end ends this one too. */
  constructor(within?: Lifetime) {
    this.#within = within;
  }

  /** Why it has ended; undefined if it has not. */
  get endedBy(): FsError | undefined {
    return this.#why ?? this.#within?.endedBy;
  }

  get isOver(): boolean {
    return this.endedBy !== undefined;
  }

  /** Whether this lifetime itself was ended, and not only the one it is within. */
  get isOverAlone(): boolean {
    return this.#why !== undefined;
  }

  end(why: FsError): void {
    this.#why ??= this.endedBy ?? why;
  }

  /** @throws FsError the reason, if it has ended. */
  check(): void {
    const why = this.endedBy;
    if (why !== undefined) throw why;
  }

  /**
   * The promise's value, if the lifetime has not ended by then. @throws FsError the reason why it has ended; or the
   * promise's own error.
   */
  async wait<T>(promise: MaybePromise<T>): Promise<T> {
    const value = await promise;
    this.check();
    return value;
  }
}
