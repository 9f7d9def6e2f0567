/**
 * How many bytes of WRITEs, or of READs, a client has under way, by how long they take: on a slow line what is sent later, a
 * CANCEL, a BAST, the answer to a glimpse or a PING, waits behind them. Nothing overtakes: a CANCEL must come after the
 * WRITEs that it needs, and a BAST after the reply that granted its lock.
 *
 * One that took longer than SLOW_MS halves the limit, once for all that were sent before that; one that was quick doubles
 * it. A line of 1 Mbit/s ends up with 128 KiB under way, a second's worth; one of 100 Mbit/s and a slow disk with the most
 * there is. Each direction has a pace of its own: lines differ by direction.
 */

import { GRANULE_BYTES } from '../cache/granule.js';

/** Also at first: at 256 kbit/s 2 s. Over a local line it takes no time to grow: each of the first answers doubles it. */
const LIMIT_MIN_BYTES = 64 << 10;
const SLOW_MS = 1500;
const QUICK_MS = 750;

export class BulkPace {
  readonly #mostBytes: number;
  #limitBytes = LIMIT_MIN_BYTES;
  #loweredMs = Number.NEGATIVE_INFINITY;

  /** @param mostBytes under way on a fast line: LIMIT_MIN_BYTES times a power of two. */
  constructor(mostBytes: number) {
    this.#mostBytes = mostBytes;
  }

  get limitBytes(): number {
    return this.#limitBytes;
  }

  /** Of the next WRITE or READ: two of them use up a low limit, so that the line is never idle. */
  get pieceBytes(): number {
    return Math.min(GRANULE_BYTES, this.#limitBytes >> 1);
  }

  /** One more may be sent. A single one may always be under way. */
  hasRoom(inFlightBytes: number): boolean {
    return inFlightBytes === 0 || inFlightBytes + this.pieceBytes <= this.#limitBytes;
  }

  /** @param sentMs when it was sent. @param nowMs when it was answered. */
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
