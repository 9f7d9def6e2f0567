/**
 * INTERRUPT: a signal became pending for a process whose request we have read. Such a process waits for our answer even
 * through SIGKILL, so either the request ends now with EINTR or the kernel must be made to tell us of later signals.
 *
 * Which requests a signal may end:
 * - One that kills the caller ends every request but those that must end by themselves (operations.ts).
 * - A caught one disturbs nothing that a local filesystem would not let it disturb: programs with timers do not expect
 *   EINTR from open, fsync or unlink, and SA_RESTART does not help them. It ends a wait for another owner's lock. A call
 *   that has waited for a server that is away for longer than the grace ends by those by which people end programs.
 *   The wait for a lock that is parked so long ends by every caught signal: programs set an alarm to give such a wait up.
 *
 * The kernel sends one INTERRUPT a request and no other, whatever signals follow, unless the message itself is answered
 * EAGAIN: then it is queued again. So an interrupt that ends nothing is answered EAGAIN after a short time (at once would
 * spin), and the look at the process's signals is repeated until one ends the request, the grace is over, or the request
 * is done. An interrupt of a request we do not know (it came before its request, or after the answer) goes the same way:
 * EAGAIN for a request that is gone gets ENOENT, which is harmless.
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

/** The part of the runtime's clock that is needed here. */
export interface InterruptClock {
  nowMs(): number;
}

export interface InterruptsOptions {
  readonly timers: RetryTimers;
  readonly clock: InterruptClock;
  readonly policy: InterruptPolicy;
  /** For how long the server with this inode has been away; 0 when it is there. */
  readonly awayMs: (nodeid: number) => number;
  readonly graceMs: number;
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
      if (pending.operation?.endedBy === 'nothing') return;
      if (this.#endsNow(pending)) {
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
    if (request.operation?.endedBy === 'nothing' || !this.#endsNow(request)) return;
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

  #endsNow(request: Request): boolean {
    try {
      const reach = this.#options.policy(request.pid);
      if (reach === 'everyCall' || reach === 'nothing') return reach === 'everyCall';
      if (request.operation?.endedBy === 'lockWait') {
        return request.isWaitingForOwner || this.#isAwayTooLong(request);
      }
      return reach === 'awayCalls' && this.#isAwayTooLong(request);
    } catch (error) {
      // Not knowing ends nothing: the question comes again with the retry.
      this.#options.log('interrupt policy failed for thread %d: %O', request.pid, error);
      return false;
    }
  }

  #isAwayTooLong(request: Request): boolean {
    const { awayMs, clock, graceMs } = this.#options;
    const sinceMs = awayMs(request.nodeid);
    return sinceMs > 0 && Math.min(sinceMs, clock.nowMs() - request.beganMs) >= graceMs;
  }
}
