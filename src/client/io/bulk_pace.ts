/**
 * Limits how many bytes of WRITEs, or of READs, a client has under way, by how long they take. On a slow line, later messages
 * (a CANCEL, a BAST, the answer to a glimpse, a PING) wait behind them. No message overtakes another one: a CANCEL must come
 * after the WRITEs that it needs, and a BAST after the reply that granted its lock.
 *
 * A request that takes longer than SLOW_MS halves the limit, once for all requests that were sent before that. A request that
 * is quick doubles it. A line of 1 Mbit/s ends up with 128 KiB under way, which it carries in a second. A line of 100 Mbit/s
 * with a slow disk ends up with the maximum. Each direction has a pace of its own, because lines differ by direction.
 */

import { GRANULE_BYTES } from '../cache/granule.js';

/** Lowest limit, and the first one: 2 s at 256 kbit/s. On a local line it grows at once: each of the first answers doubles it. */
const LIMIT_MIN_BYTES = 64 << 10;
const SLOW_MS = 1500;
const QUICK_MS = 750;

export class BulkPace {
  readonly #mostBytes: number;
  #limitBytes = LIMIT_MIN_BYTES;
  #loweredMs = Number.NEGATIVE_INFINITY;

  /** @param mostBytes the limit on a fast line: LIMIT_MIN_BYTES times a power of two. */
  constructor(mostBytes: number) {
    this.#mostBytes = mostBytes;
  }

  get limitBytes(): number {
    return this.#limitBytes;
  }

  /** Size of the next WRITE or READ. Two of them use up a low limit, so that the line is never idle. */
  get pieceBytes(): number {
    return Math.min(GRANULE_BYTES, this.#limitBytes >> 1);
  }

  /** One more request may be sent. A single request may always be under way. */
  hasRoom(inFlightBytes: number): boolean {
    return inFlightBytes === 0 || inFlightBytes + this.pieceBytes <= this.#limitBytes;
  }

  /** @param sentMs when the request was sent. @param nowMs when it was answered. */
  answered(sentMs: number, nowMs: number): void {
    const tookMs = nowMs - sentMs;
    if (tookMs > SLOW_MS) {
      if (sentMs < this.#loweredMs) return;
      this.#loweredMs = nowMs;
      this.#limitBytes = Math.max(LIMIT_MIN_BYTES, this.#limitBytes >> 1);
    } else if (tookMs < QUICK_MS && this.#limitBytes < this.#mostBytes) {
      this.#limitBytes *= 2;
    }
  }
}
