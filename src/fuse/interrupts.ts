/**
 * INTERRUPT: a signal became pending for a process whose request we have read. Such a process waits for our answer even
 * after SIGKILL. So we either end the request now with EINTR, or must get the kernel to report later signals.
 *
 * Which requests a signal may end:
 * - A signal that kills the caller ends every request except those that must end by themselves (operations.ts).
 * - A caught signal ends only what it would end on a local filesystem: programs with timers do not expect EINTR from
 *   open, fsync or unlink, and SA_RESTART does not help them. So it ends a wait for another owner's lock. If a call has
 *   waited for an absent server for longer than the grace, the signals with which people end programs end it too. A
 *   SETLKW that has been parked for this time ends with any caught signal: programs set an alarm to give up such a
 *   wait.
 *
 * The kernel sends only one INTERRUPT for a request, whatever signals follow, unless we answer the INTERRUPT itself
 * with EAGAIN: then the kernel queues it again. So we answer an interrupt that ends nothing with EAGAIN after a short
 * time (at once would spin). We then check the process's signals again, until one ends the request, the grace is over,
 * or the request is done. An interrupt of a request we do not know (it came before its request, or after the answer) is
 * handled in the same way: our EAGAIN for a request that is gone gets ENOENT, which is harmless.
 *
 * Invariant: a timer exists for a key only while its interrupt is unanswered. The end of the request cancels it.
 */

import type { Log } from '../base/log.js';
import type { InterruptPolicy } from './handlers.js';
import { type Request, requestKey } from './request.js';

/** The part of the runtime's timers that this file needs. */
export interface RetryTimers {
  after(ms: number, fn: () => void, background?: boolean): { cancel(): void };
}

/** The part of the runtime's clock that this file needs. */
export interface InterruptClock {
  nowMs(): number;
}

export interface InterruptsOptions {
  readonly timers: RetryTimers;
  readonly clock: InterruptClock;
  readonly policy: InterruptPolicy;
  /** How long the server with this inode has been away; 0 if it is there. */
  readonly awayMs: (nodeid: number) => number;
  readonly graceMs: number;
  readonly retryMs: number;
  readonly log: Log;
  /** Answers the INTERRUPT message itself with EAGAIN. */
  readonly askAgain: (uniqueHigh: number, uniqueLow: number) => void;
}

interface Retry {
  readonly timer: { cancel(): void };
  readonly uniqueHigh: number;
  readonly uniqueLow: number;
}

export class Interrupts {
  readonly #options: InterruptsOptions;
  readonly #retries = new Map<number, Retry>();

  constructor(options: InterruptsOptions) {
    this.#options = options;
  }

  /** Number of interrupts that wait for their EAGAIN. */
  get waitingCount(): number {
    return this.#retries.size;
  }

  /**
   * @param pending the interrupted request, if it waits for its handler.
   * @param uniqueHigh with uniqueLow: the unique of the INTERRUPT message, low bit set.
   */
  received(pending: Request | undefined, uniqueHigh: number, uniqueLow: number): void {
    if (pending !== undefined) {
      // FLUSH and RELEASE end by themselves: a FLUSH that is cut short would be a close() that keeps its locks.
      if (pending.operation?.endedBy === 'nothing') return;
      if (this.#endsNow(pending)) {
        pending.interrupt();
        return;
      }
    }
    const key = requestKey(uniqueHigh, uniqueLow);
    this.#retries.get(key)?.timer.cancel();
    const timer = this.#options.timers.after(
      this.#options.retryMs,
      () => {
        this.#retries.delete(key);
        this.#options.askAgain(uniqueHigh, uniqueLow);
      },
      true,
    );
    this.#retries.set(key, { timer, uniqueHigh, uniqueLow });
  }

  /** A request begins to wait. Its interrupt may have arrived before it. */
  pendingBegan(request: Request): void {
    if (this.#retries.size === 0 || !this.#retries.has(request.key)) return;
    if (request.operation?.endedBy === 'nothing' || !this.#endsNow(request)) return;
    this.requestDone(request);
    request.interrupt();
  }

  requestDone(request: Request): void {
    if (this.#retries.size === 0) return;
    const { key } = request;
    const retry = this.#retries.get(key);
    if (retry === undefined) return;
    retry.timer.cancel();
    this.#retries.delete(key);
  }

  cancelAll(): void {
    for (const { timer } of this.#retries.values()) timer.cancel();
    this.#retries.clear();
  }

  /** Asks for all of them again now: another process will receive them. */
  handBack(): void {
    const retries = [...this.#retries.values()];
    this.cancelAll();
    for (const { uniqueHigh, uniqueLow } of retries) this.#options.askAgain(uniqueHigh, uniqueLow);
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
      // If the policy fails, the signal ends nothing; the retry asks the policy again.
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
