/**
 * Bytes that the device is reading for each connection. READs wait in one queue for the threads that read the device, so many of one
 * client would hold up those of all others; and each has memory for its answer.
 *
 * A connection with too many is not read until some are done. That holds nobody up: a READ waits for the device alone. While others
 * read too, a connection has no more under way than keeps some of the threads busy.
 *
 * Invariant: a connection is paused here exactly while it has more bytes under way than it may have when it was looked at last.
 */

import { isPromise, type MaybePromise } from '../../base/maybe_promise.js';
import type { Link } from '../../rpc/api.js';
import type { Clock } from '../../runtime/ports.js';

/** Several times what our client reads ahead. */
export const ALONE_BYTES = 32 << 20;
/** Two READs of 1 MiB: half of libuv's threads. */
export const SHARED_BYTES = 2 << 20;
/** Who has read within this time reads too. */
const READS_TOO_MS = 20;

type Reader = Pick<Link, 'pause' | 'resume'>;

interface UnderWay {
  bytes: number;
  isPaused: boolean;
}

export class ReadsUnderWay {
  readonly #clock: Pick<Clock, 'nowMs'>;
  readonly #readers = new WeakMap<Reader, UnderWay>();
  #latest: Reader | undefined;
  /** When any other than the latest has read last. */
  #otherMs = Number.NEGATIVE_INFINITY;
  #latestMs = Number.NEGATIVE_INFINITY;
  #bytes = 0;

  constructor(clock: Pick<Clock, 'nowMs'>) {
    this.#clock = clock;
  }

  /** Of all connections. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Counts the bytes while `run` reads them. */
  during<T>(link: Reader, bytes: number, run: () => MaybePromise<T>): MaybePromise<T> {
    const reading = run();
    if (!isPromise(reading)) return reading;
    const one = this.#of(link);
    one.bytes += bytes;
    this.#bytes += bytes;
    if (!one.isPaused && one.bytes > this.#limit(link)) {
      one.isPaused = true;
      link.pause();
    }
    return reading.finally(() => {
      one.bytes -= bytes;
      this.#bytes -= bytes;
      if (!one.isPaused || one.bytes > this.#limit(link) / 2) return;
      one.isPaused = false;
      link.resume();
    });
  }

  #of(link: Reader): UnderWay {
    const nowMs = this.#clock.nowMs();
    if (link !== this.#latest) {
      this.#otherMs = this.#latestMs;
      this.#latest = link;
    }
    this.#latestMs = nowMs;
    let one = this.#readers.get(link);
    if (one === undefined) {
      one = { bytes: 0, isPaused: false };
      this.#readers.set(link, one);
    }
    return one;
  }

  #limit(link: Reader): number {
    const otherMs = link === this.#latest ? this.#otherMs : this.#latestMs;
    return this.#clock.nowMs() - otherMs <= READS_TOO_MS ? SHARED_BYTES : ALONE_BYTES;
  }
}
