/**
 * How code waits: the only place for promises that other code resolves.
 *
 *   Deferred    one result that comes from outside
 *   WaitList    many waiters that the same event resumes
 *   CountDown   a count, and waiters for the moment when it is zero
 *   onAbort     a listener for a signal, and how to remove it
 *   interruptible, patiently   a promise, or the end of the caller's patience
 *
 * Waiters are resumed in the order in which they came. Code after an `await` runs in a later turn. The count may have
 * grown again by then, so a caller that needs zero checks again.
 */

import { assert } from './assert.js';
import { FsError } from './errno.js';

/**
 * Calls `listener` when the signal aborts, but not if it has aborted already. @returns a function that removes the
 * listener.
 */
export function onAbort(signal: AbortSignal | undefined, listener: () => void): () => void {
  if (signal === undefined) return NOTHING;
  signal.addEventListener('abort', listener, { once: true });
  return () => signal.removeEventListener('abort', listener);
}

const NOTHING = (): void => undefined;

/** A promise with its two ends. Only the first of resolve() and reject() counts. */
export class Deferred<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (error: unknown) => void;

  constructor() {
    let resolve: (value: T) => void = NOTHING;
    let reject: (error: unknown) => void = NOTHING;
    this.promise = new Promise<T>((resolveIt, rejectIt) => {
      resolve = resolveIt;
      reject = rejectIt;
    });
    this.resolve = resolve;
    this.reject = reject;
  }
}

/**
 * Waits until all promises have ended, even if one is rejected: until then the others still use what they work on, and
 * the caller must not reuse it. @returns the values. @throws the error of the first rejected promise in the list.
 */
export async function allEnded<T>(promises: readonly Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(promises);
  return Promise.all(promises);
}

/**
 * Waits for the promise, or rejects with EINTR as soon as the signal aborts. What the promise does after that is
 * ignored.
 */
export function interruptible<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return unlessAborted(promise, signal, () => new FsError('EINTR', 'interrupted'));
}

/** The same, for a wait that has an end of its own: rejects with the reason of the signal. */
export function patiently<T>(promise: Promise<T>, patience: AbortSignal): Promise<T> {
  return unlessAborted(promise, patience, () => patience.reason);
}

function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal, why: () => unknown): Promise<T> {
  if (signal.aborted) {
    promise.catch(NOTHING);
    return Promise.reject(why());
  }
  return new Promise((resolve, reject) => {
    const unlisten = onAbort(signal, () => reject(why()));
    promise.then(resolve, reject).finally(unlisten);
  });
}

export class WaitList {
  #waiters: (() => void)[] = [];

  get size(): number {
    return this.#waiters.length;
  }

  /** Resolves at the next wake(). */
  wait(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiters.push(resolve);
    });
  }

  /** Resumes all current waiters. */
  wake(): void {
    if (this.#waiters.length === 0) return;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const resume of waiters) resume();
  }
}

export class CountDown {
  readonly #waiters = new WaitList();
  #count = 0;

  get count(): number {
    return this.#count;
  }

  add(): void {
    this.#count += 1;
  }

  done(): void {
    assert(this.#count > 0, 'a count below zero');
    this.#count -= 1;
    if (this.#count === 0) this.#waiters.wake();
  }

  /** Counts this call for as long as it lasts. */
  async during<T>(call: () => Promise<T>): Promise<T> {
    this.add();
    try {
      return await call();
    } finally {
      this.done();
    }
  }

  /** Resolves when the count is zero: at once if it is. */
  zero(): Promise<void> {
    return this.#count === 0 ? Promise.resolve() : this.#waiters.wait();
  }
}
