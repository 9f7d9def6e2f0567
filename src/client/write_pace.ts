/**
 * How many bytes of WRITEs a client has under way, by how long they take: on a slow line what is sent later, a CANCEL, the
 * answer to a glimpse or a PING, waits behind them. Nothing overtakes: a CANCEL must come after the WRITEs that it needs.
 *
 * A WRITE that took longer than SLOW_MS halves the limit, once for all that were sent before that; one that was quick
 * doubles it. A line of 1 Mbit/s ends up with 128 KiB under way, a second's worth; one of 100 Mbit/s and a slow disk with
 * the most there is.
 */

import { GRANULE_BYTES } from './granule.js';

const LIMIT_MIN_BYTES = 64 << 10;
/** Eight full granules. */
export const LIMIT_MAX_BYTES = 8 * GRANULE_BYTES;
/** At 256 kbit/s 8 s, over a local line no time: each of the first answers doubles it. */
const LIMIT_START_BYTES = 256 << 10;
const SLOW_MS = 1500;
const QUICK_MS = 750;

export class WritePace {
  #limitBytes = LIMIT_START_BYTES;
  #loweredMs = Number.NEGATIVE_INFINITY;

  get limitBytes(): number {
    return this.#limitBytes;
  }

  /** Of the next WRITE: two of them use up a low limit, so that the line is never idle. */
  get writeBytes(): number {
    return Math.min(GRANULE_BYTES, Math.max(LIMIT_MIN_BYTES, this.#limitBytes >> 1));
  }

  /** @param sentMs when its WRITE was sent. @param nowMs when it was answered. */
  answered(sentMs: number, nowMs: number): void {
    const tookMs = nowMs - sentMs;
    if (tookMs > SLOW_MS) {
      if (sentMs < this.#loweredMs) return;
      this.#loweredMs = nowMs;
      this.#limitBytes = Math.max(LIMIT_MIN_BYTES, this.#limitBytes >> 1);
    } else if (tookMs < QUICK_MS && this.#limitBytes < LIMIT_MAX_BYTES) {
      this.#limitBytes *= 2;
    }
  }
}
