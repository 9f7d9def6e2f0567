/**
 * Serving time: the clock by which clients are found to be late. It passes while the server could have heard them.
 *
 * A process that stood still (SIGSTOP, a frozen container, no processor time) wakes up with its timers due, and they run
 * before the sockets are read in which the clients' answers wait. By the monotonic clock all of them would be late. So
 * limits on clients, and only those, are measured here, where time does not pass
 * - while nobody looked at the clock for STALL_MS, though somebody should every LOOK_MS: the event loop stood still;
 * - while the server does not know whether it still has its target: what clients say is not read then, and who has it
 *   may be another server, which knows them better;
 * - for SETTLE_MS after either. A client that has given the silent server up needs so long to be back: it looks every
 *   half second, and gives one attempt up to 3 s.
 *
 * Settling may go on for SETTLE_MAX_MS more than time passes: a server that keeps stalling would never give up anybody.
 *
 * What cannot be seen is a machine whose clocks stood still with it. That takes nothing of what a client has left, and
 * adds nothing to it (docs/RECOVERY.md).
 */

import { logger } from '../../base/log.js';
import type { Clock, LimitTime, Timer, Timers } from '../../runtime/ports.js';

const log = logger('server:time');

const LOOK_MS = 250;
export const STALL_MS = 1000;
export const SETTLE_MS = 5000;
const SETTLE_MAX_MS = 60_000;

export interface ServingTimeOptions {
  /** Whether what clients say is read at this moment. */
  readonly isServing: () => boolean;
  /** The event loop stood still for so long. */
  readonly stalled?: (ms: number) => void;
}

export class ServingTime implements LimitTime {
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #options: ServingTimeOptions;
  #looking: Timer | undefined;
  #lookedMs: number;
  #servedMs = 0;
  /** Until time passes again. */
  #settleMs = 0;
  /** Spent on settling, less what has passed since. */
  #spentMs = 0;
  #stopped = false;

  constructor(
    runtime: { readonly clock: Clock; readonly timers: Timers },
    options: ServingTimeOptions = { isServing: () => true },
  ) {
    this.#clock = runtime.clock;
    this.#timers = runtime.timers;
    this.#options = options;
    this.#lookedMs = runtime.clock.nowMs();
    this.#arm();
  }

  /** Monotonic; unrelated to any other clock. */
  nowMs(): number {
    this.#look();
    return this.#servedMs;
  }

  /** Calls fn once when so much serving time has passed. */
  after(ms: number, fn: () => void, background = false): Timer {
    const dueMs = this.nowMs() + ms;
    let timer: Timer;
    const arm = (waitMs: number): void => {
      // Time that settles does not count: no need to wake up in it.
      timer = this.#timers.after(waitMs + this.#settleMs, look, background);
    };
    const look = (): void => {
      const leftMs = dueMs - this.nowMs();
      if (leftMs <= 0) fn();
      // Not less: the clock may be a rounding error behind the timer.
      else arm(Math.max(1, leftMs));
    };
    arm(ms);
    return { cancel: () => timer.cancel() };
  }

  /** Nobody looks any more: what still runs goes by the clock as it is. */
  stop(): void {
    this.#stopped = true;
    this.#looking?.cancel();
  }

  #arm(): void {
    this.#looking = this.#timers.after(
      LOOK_MS,
      () => {
        this.#look();
        this.#arm();
      },
      true,
    );
  }

  #look(): void {
    const now = this.#clock.nowMs();
    const passedMs = now - this.#lookedMs;
    this.#lookedMs = now;
    const stood = passedMs > STALL_MS && !this.#stopped;
    if (stood) {
      log('stood still for %d ms', passedMs);
      this.#options.stalled?.(passedMs);
    }
    if (stood || !(this.#stopped || this.#options.isServing())) {
      if (this.#spentMs < SETTLE_MAX_MS) this.#settleMs = SETTLE_MS;
      return;
    }
    const settledMs = Math.min(passedMs, this.#settleMs);
    const servedMs = passedMs - settledMs;
    this.#settleMs -= settledMs;
    this.#spentMs = Math.max(0, this.#spentMs + settledMs - servedMs);
    this.#servedMs += servedMs;
  }
}
