/**
 * Time, timers and randomness of a real process.
 *
 * The time of day follows the system's clock (Date), but has the resolution of the monotonic clock, so that two changes
 * within a millisecond get different timestamps. To follow the system's clock it would have to go back by some
 * microseconds now and then: it stands still instead. It goes back only if somebody sets the clock back.
 */

import { randomInt, randomUUID } from 'node:crypto';
import type { Timespec } from '../base/attr.js';
import type { Clock, Rng, Timer, Timers } from './ports.js';

/** If our time of day differs from the system's by more than this, it is set anew. Date has whole milliseconds. */
const DRIFT_MS = 2;
/** If the clock goes back by this or more, an administrator has set it, and our time follows. */
const STAND_STILL_MS = 50;

export class NodeClock implements Clock {
  #offsetMs = performance.timeOrigin;
  #lastMs = 0;

  nowMs(): number {
    return performance.now();
  }

  wall(): Timespec {
    const monotonic = performance.now();
    const system = Date.now();
    let ms = monotonic + this.#offsetMs;
    if (ms < system - DRIFT_MS || ms > system + 1 + DRIFT_MS) {
      this.#offsetMs = system - monotonic;
      ms = system;
    }
    if (ms < this.#lastMs && this.#lastMs - ms < STAND_STILL_MS) ms = this.#lastMs;
    this.#lastMs = ms;
    const sec = Math.floor(ms / 1000);
    return { sec, nsec: Math.floor((ms - sec * 1000) * 1e6) };
  }
}

class NodeTimer implements Timer {
  readonly #timeout: NodeJS.Timeout;
  constructor(ms: number, fn: () => void, background: boolean) {
    this.#timeout = setTimeout(fn, ms);
    if (background) this.#timeout.unref();
  }
  cancel(): void {
    clearTimeout(this.#timeout);
  }
}

export const nodeTimers: Timers = {
  after: (ms, fn, background = false) => new NodeTimer(ms, fn, background),
  soon: (fn) => {
    setImmediate(fn);
  },
};

export const nodeRng: Rng = {
  u32: () => randomInt(2 ** 32),
  uuid: () => randomUUID(),
};
