/**
 * INTERRUPT: a signal became pending for a process whose request we have read. Such a process waits for our answer even
 * through SIGKILL, so either the request ends now with EINTR or the kernel must be made to tell us of later signals.
 *
 * The kernel sends one INTERRUPT a request and no other, whatever signals follow, unless the message itself is answered
 * EAGAIN: then it is queued again. So an interrupt that is not fatal is answered EAGAIN after a short time (at once would
 * spin), and the look at the process's signals is repeated until it is fatal or the request is done. An interrupt of
 * a request we do not know (it came before its request, or after the answer) goes the same way: EAGAIN for a request
 * that is gone gets ENOENT, which is harmless.
 *
 * Invariant: a timer exists for a key only while its interrupt is unanswered; completion of the request cancels it.
 */

import type { Log } from '../base/log.js';
import type { InterruptPolicy } from './handlers.js';
import { type Request, requestKey } from './request.js';

/** The part of the runtime's timers that is needed here. */
export interface RetryTimers {
  after(ms: number, fn: () => void, background?: boolean): { cancel(): void };
}

export interface InterruptsOptions {
  readonly timers: RetryTimers;
  readonly policy: InterruptPolicy;
  readonly retryMs: number;
  readonly log: Log;
  /** Answers the INTERRUPT message itself with EAGAIN. */
  readonly askAgain: (uniqueHigh: number, uniqueLow: number) => void;
}

export class Interrupts {
  readonly #options: InterruptsOptions;
  readonly #retries = new Map<number, { cancel(): void }>();

  constructor(options: InterruptsOptions) {
    this.#options = options;
  }

  /** Interrupts waiting to be answered EAGAIN. */
  get waitingCount(): number {
    return this.#retries.size;
  }

  /**
   * @param pending the interrupted request if it is being worked on.
   * @param uniqueHigh and uniqueLow: of the INTERRUPT message, low bit set.
   */
  received(pending: Request | undefined, uniqueHigh: number, uniqueLow: number): void {
    if (pending !== undefined) {
      // FLUSH and RELEASE end by themselves; a FLUSH cut short would be a close() that lost its locks.
      if (pending.operation?.interruptible === false) return;
      if (this.#isFatal(pending)) {
        pending.interrupt();
        return;
      }
    }
    const key = requestKey(uniqueHigh, uniqueLow);
    this.#retries.get(key)?.cancel();
    const timer = this.#options.timers.after(
      this.#options.retryMs,
      () => {
        this.#retries.delete(key);
        this.#options.askAgain(uniqueHigh, uniqueLow);
      },
      true,
    );
    this.#retries.set(key, timer);
  }

  /** A request begins to wait: its interrupt may have come before it. */
  pendingBegan(request: Request): void {
    if (this.#retries.size === 0 || !this.#retries.has(request.key)) return;
    if (request.operation?.interruptible === false || !this.#isFatal(request)) return;
    this.requestDone(request);
    request.interrupt();
  }

  requestDone(request: Request): void {
    if (this.#retries.size === 0) return;
    const { key } = request;
    const timer = this.#retries.get(key);
    if (timer === undefined) return;
    timer.cancel();
    this.#retries.delete(key);
  }

  cancelAll(): void {
    for (const timer of this.#retries.values()) timer.cancel();
    this.#retries.clear();
  }

  #isFatal(request: Request): boolean {
    try {
      return this.#options.policy(request.pid);
    } catch (error) {
      // Not knowing is not fatal: the question comes again with the retry.
      this.#options.log('interrupt policy failed for thread %d: %O', request.pid, error);
      return false;
    }
  }
}
