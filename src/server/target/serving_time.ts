/**
 * Serving time: the clock for limits on clients. It passes only while the server can hear the clients.
 *
 * If the process stopped for a while (SIGSTOP, a frozen container, no processor time), its timers are due when it wakes
 * up. They run before the server reads the sockets in which the clients' answers wait. By the monotonic clock all
 * clients would be late. So limits on clients, and only those, are measured by this clock, on which time does not pass
 * - while nobody looked at the clock for STALL_MS, though a timer should look every LOOK_MS: the event loop stood
 *   still;
 * - while the server does not know whether it still has its target: it reads no messages of clients then, and another
 *   server may have the target, which knows the clients better;
 * - for SETTLE_MS after either. A client that has given up the silent server needs this time to come back: it looks
 *   every half second, and gives one attempt up to 3 s.
 *
 * The clock may spend at most SETTLE_MAX_MS more on settling than on passing: otherwise a server that keeps stalling
 * would never give up any client.
 *
 * The server cannot see that its whole machine, with its clocks, stood still. Such a stop takes nothing from the time
 * that a client has left, and adds nothing to it (docs/recovery/eviction.md).
 */

import { logger } from '../../base/log.js';
import type { Clock, LimitTime, Timer, Timers } from '../../runtime/ports.js';

const log = logger('server:time');

const LOOK_MS = 250;
export const STALL_MS = 1000;
export const SETTLE_MS = 5000;
const SETTLE_MAX_MS = 60_000;

export interface ServingTimeOptions {
  /** Whether the server reads clients' messages at this moment. */
  readonly isServing: () => boolean;
  /** Called when the event loop stood still, with the length of the stall. */
  readonly stalled?: (ms: number) => void;
}

export class ServingTime implements LimitTime {
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #options: ServingTimeOptions;
  #looking: Timer | undefined;
  #lookedMs: number;
  #servedMs = 0;
  /** Milliseconds of settling until time passes again. */
  #settleMs = 0;
  /** Milliseconds spent on settling, less the time that has passed since. */
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

  /** Calls fn once when this much serving time has passed. */
  after(ms: number, fn: () => void, background = false): Timer {
    const dueMs = this.nowMs() + ms;
    let timer: Timer;
    const arm = (waitMs: number): void => {
      // Time does not pass while it settles: the timer need not fire before.
      timer = this.#timers.after(waitMs + this.#settleMs, look, background);
    };
    const look = (): void => {
      const leftMs = dueMs - this.nowMs();
      if (leftMs <= 0) fn();
      // At least 1 ms: the clock may be a rounding error behind the timer.
      else arm(Math.max(1, leftMs));
    };
    arm(ms);
    return { cancel: () => timer.cancel() };
  }

  /** Stops looking for stalls: timers that still run go by the plain clock. */
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
      log('the event loop stood still for %d ms', passedMs);
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
