/**
 * The drain of a controlled shutdown, server side: the server asks for the active lock, every client gives its own one back
 * last of all, and a client that is late is evicted. docs/recovery/shutdown.md tells the whole story.
 *
 * Invariants:
 * - It ends once: drained, failed, or stopped from outside, after which it says nothing any more.
 * - When it has ended as drained, the server keeps the active lock: the next instance grants it.
 */

import { FsError } from '../../base/errno.js';
import { logger } from '../../base/log.js';
import type { Histogram, Metrics, Timer } from '../../runtime/ports.js';
import type { EvictedClient } from '../export/exports.js';
import { takeActiveLock, undrained } from '../target/active_lock.js';
import { evict } from '../target/eviction.js';
import type { ServedTarget } from '../target/served_target.js';

const log = logger('server:shutdown');

/** What SHUTDOWN_ENDS can carry. */
const SAID_EVICTED_MAX = 1000;

export interface DrainEvents {
  /** Every client is drained or evicted: nobody can begin anything new. */
  drained(): void;
  failed(cause: Error): void;
  /** For people. */
  said(text: string): void;
}

export function drainSeconds(metrics: Metrics): Histogram {
  return metrics.histogram(
    'holdfast_server_drain_seconds',
    'Time until all clients had drained for a shutdown',
  );
}

export class Drain {
  readonly #target: ServedTarget;
  readonly #events: DrainEvents;
  readonly #evictedBefore: number;
  readonly #stopped = new AbortController();
  readonly #beganMs: number;
  #deadlineMs = Number.POSITIVE_INFINITY;
  #timer: Timer | undefined;

  constructor(target: ServedTarget, drainTimeoutMs: number, events: DrainEvents) {
    this.#target = target;
    this.#events = events;
    this.#evictedBefore = target.exports.evictedCount;
    this.#beganMs = target.runtime.clock.nowMs();
    this.limit(drainTimeoutMs);
    void this.#run();
  }

  /** Until clients that have not drained are evicted; undefined when nobody is waited for. */
  get leftMs(): number | undefined {
    const leftMs = this.#deadlineMs - this.#target.time.nowMs();
    return this.#deadlineMs > 0 && Number.isFinite(leftMs) ? Math.max(0, Math.round(leftMs)) : undefined;
  }

  /** Clients that were evicted since it began: how many, and those of them that are remembered. */
  get evicted(): { readonly count: number; readonly clients: readonly EvictedClient[] } {
    const { exports } = this.#target;
    const count = exports.evictedCount - this.#evictedBefore;
    return { count, clients: exports.lastEvicted(Math.min(count, SAID_EVICTED_MAX)) };
  }

  /** Clients have no longer than this from now on. A limit that ends later than the one there is changes nothing. */
  limit(drainTimeoutMs: number): void {
    const { time } = this.#target;
    const deadlineMs = time.nowMs() + drainTimeoutMs;
    if (deadlineMs >= this.#deadlineMs) return;
    this.#deadlineMs = deadlineMs;
    this.#timer?.cancel();
    this.#timer = time.after(drainTimeoutMs, () => this.#evictLate(drainTimeoutMs));
  }

  /** Clients that have drained get the active lock again. After the drain's end it does nothing. */
  stop(): void {
    this.#stopped.abort();
    // What they reported is history: STATUS counts their requests itself again.
    for (const client of this.#target.exports) client.progress = undefined;
  }

  async #run(): Promise<void> {
    try {
      const taking = takeActiveLock(this.#target, this.#stopped.signal);
      const late = undrained(this.#target);
      if (late.length > 0) this.#events.said(`waits for ${late.length} clients to drain`);
      const giveBack = await taking;
      // Stopped between the grant and this turn.
      if (this.#stopped.signal.aborted) return giveBack();
    } catch (error) {
      if (this.#stopped.signal.aborted) return;
      this.#events.failed(error instanceof Error ? error : new FsError('EIO', String(error)));
      return;
    } finally {
      this.#timer?.cancel();
      // Too late to limit anything.
      this.#deadlineMs = 0;
    }
    const { runtime } = this.#target;
    drainSeconds(runtime.metrics).observe((runtime.clock.nowMs() - this.#beganMs) / 1000);
    this.#events.drained();
  }

  #evictLate(drainTimeoutMs: number): void {
    for (const client of undrained(this.#target)) {
      const progress =
        client.progress === undefined ? '' : ` (${client.progress.dirtyBytes} dirty bytes left)`;
      const reason = `it did not drain within ${drainTimeoutMs} ms${progress}`;
      log('%s: %s', client.label, reason);
      evict(this.#target, client, reason, 'drain');
    }
  }
}
