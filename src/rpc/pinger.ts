/**
 * Pinger: finds out that a peer is gone although its connection is still open.
 *
 * It looks once each interval. If there was no sign of life since the last look, it pings; if there was none for some
 * intervals, it declares the peer dead. It counts looks, not time: if this process itself was stopped for an hour, it
 * takes its connections for idle, not for dead. While we do not read from the peer, its silence means nothing.
 */

import type { Timer, Timers } from '../runtime/ports.js';
import type { Link } from './api.js';

/** Default for silentLooks: the number of looks without a sign of life after which the peer counts as dead. */
const SILENT_LOOKS = 3;

export interface PingerOptions {
  readonly link: Pick<Link, 'lifeSigns' | 'paused'>;
  readonly intervalMs: number;
  readonly silentLooks?: number | undefined;
  /** Sends something that the peer will answer. Absent: the pinger only watches (the other side pings). */
  readonly ping?: (() => void) | undefined;
  /** Called once, when the peer counts as dead; the pinger has ended then. */
  dead(): void;
}

export interface Pinger {
  /** Idempotent. */
  stop(): void;
}

export function startPinger(
  runtime: { readonly timers: Pick<Timers, 'after'> },
  options: PingerOptions,
): Pinger {
  const { link, intervalMs, silentLooks = SILENT_LOOKS } = options;
  let seen = link.lifeSigns;
  let silent = 0;
  let stopped = false;
  let timer: Timer;
  const look = (): void => {
    if (link.lifeSigns !== seen || link.paused) {
      seen = link.lifeSigns;
      silent = 0;
    } else {
      silent += 1;
      if (silent >= silentLooks) {
        stopped = true;
        options.dead();
        return;
      }
      options.ping?.();
      if (stopped) return;
    }
    timer = runtime.timers.after(intervalMs, look, true);
  };
  timer = runtime.timers.after(intervalMs, look, true);
  return {
    stop: () => {
      stopped = true;
      timer.cancel();
    },
  };
}
