/**
 * Controlled shutdown: drain, commit, clean mark, release. docs/RECOVERY.md tells the whole story.
 *
 * Invariants:
 * - The clean mark is written after everything else, and only when every client is drained or evicted: not by a shutdown
 *   in the middle of a recovery from a crash, because what is still to be replayed is what the mark says there is not.
 * - It can be taken back as long as one client is not drained; from then on it cannot fail to stop.
 * - There is one at a time: whoever asks again joins it, and may bring its drain timeout forward.
 */

import { FsError } from '../../base/errno.js';
import { logger } from '../../base/log.js';
import type { Timer } from '../../runtime/ports.js';
import type { EvictedClient } from '../export/exports.js';
import { takeActiveLock, undrained } from '../target/active_lock.js';
import { evict } from '../target/eviction.js';
import type { ServedTarget } from '../target/served_target.js';
import type { RecoveryWindow } from './recovery_window.js';

const log = logger('server:shutdown');

/** What SHUTDOWN_ENDS can carry. */
const SAID_EVICTED_MAX = 1000;

/** Why there is no mark, and what to do. */
export const NOT_RECOVERED =
  'the recovery from a crash is not over, so only this version may go on with it; start it once more, and shut it down when it is active';

export interface ShutdownSteps {
  /** Everybody is drained: no connection is accepted any more, nothing new is executed. */
  committing(): Promise<void>;
  /** The clean mark is there: connections are closed, the devices released. */
  release(): Promise<void>;
  /** For people. */
  said(text: string): void;
}

export type ShutdownEnd = 'clean' | 'unmarked' | 'cancelled';

export class ControlledShutdown {
  readonly #target: ServedTarget;
  readonly #marks: boolean;
  readonly #steps: ShutdownSteps;
  readonly #evictedBefore: number;
  readonly #taken = new AbortController();
  #cancellable: boolean;
  #aborted: Error | undefined;
  /** Rejects only when the target fails on the way: then no mark is there. */
  readonly result: Promise<ShutdownEnd>;
  #deadlineMs = Number.POSITIVE_INFINITY;
  #timer: Timer | undefined;

  /** @param recovery given up when it is not over: there is nothing to go back to then. */
  constructor(
    target: ServedTarget,
    recovery: RecoveryWindow | undefined,
    drainTimeoutMs: number,
    steps: ShutdownSteps,
  ) {
    this.#target = target;
    this.#evictedBefore = target.exports.evictedCount;
    this.#steps = steps;
    this.#cancellable = recovery?.isOpen !== true;
    this.#marks = recovery?.mayReplay !== true;
    if (recovery?.isOpen === true) {
      recovery.abandon();
      // They have nothing to finish here.
      target.undrained.clear();
    }
    this.result = this.#run(drainTimeoutMs);
  }

  /** Asked for once more. @param drainTimeoutMs clients have no longer than this from now on. */
  join(drainTimeoutMs: number | undefined): Promise<ShutdownEnd> {
    if (drainTimeoutMs !== undefined) this.#limit(drainTimeoutMs);
    return this.result;
  }

  /** Until clients that have not drained are evicted; undefined when nobody is waited for. */
  get drainLeftMs(): number | undefined {
    const leftMs = this.#deadlineMs - this.#target.time.nowMs();
    return this.#deadlineMs > 0 && Number.isFinite(leftMs) ? Math.max(0, Math.round(leftMs)) : undefined;
  }

  /** Clients that were evicted since it began: how many, and those of them that are remembered. */
  get evicted(): { readonly count: number; readonly clients: readonly EvictedClient[] } {
    const { exports } = this.#target;
    const count = exports.evictedCount - this.#evictedBefore;
    return { count, clients: exports.lastEvicted(Math.min(count, SAID_EVICTED_MAX)) };
  }

  #limit(drainTimeoutMs: number): void {
    const { time } = this.#target;
    const deadlineMs = time.nowMs() + drainTimeoutMs;
    if (deadlineMs >= this.#deadlineMs) return;
    this.#deadlineMs = deadlineMs;
    this.#timer?.cancel();
    this.#timer = time.after(drainTimeoutMs, () => this.#evictLate(drainTimeoutMs));
  }

  /** @returns false when it is too late. */
  cancel(): boolean {
    if (!this.#cancellable) return false;
    this.#cancellable = false;
    this.#taken.abort(new FsError('ECANCELED', 'the shutdown was taken back'));
    return true;
  }

  /** The server stops without it. */
  abort(cause: Error): void {
    this.#cancellable = false;
    this.#aborted = cause;
    this.#taken.abort(new FsError('ECANCELED', cause.message));
  }

  async #run(drainTimeoutMs: number): Promise<ShutdownEnd> {
    const target = this.#target;
    this.#limit(drainTimeoutMs);
    try {
      const waiting = takeActiveLock(target, this.#taken.signal);
      const late = undrained(target);
      if (late.length > 0) this.#steps.said(`waits for ${late.length} clients to drain`);
      await waiting;
    } catch (error) {
      if (this.#aborted !== undefined) throw this.#aborted;
      if (this.#taken.signal.aborted) return 'cancelled';
      throw error;
    } finally {
      this.#timer?.cancel();
      // Too late to limit anything.
      this.#deadlineMs = 0;
    }
    // The lock is never given back: the next to grant it is the next instance.
    this.#cancellable = false;
    await this.#steps.committing();
    await target.modifying.zero();
    if (!this.#marks) {
      await target.store.sync();
      this.#steps.said(`stops without the clean mark: ${NOT_RECOVERED}`);
      await this.#steps.release();
      return 'unmarked';
    }
    this.#steps.said('all clients are drained; commits');
    await target.store.sync();
    await target.store.markClean();
    this.#steps.said('the clean mark is written');
    await this.#steps.release();
    return 'clean';
  }

  #evictLate(drainTimeoutMs: number): void {
    for (const client of undrained(this.#target)) {
      const progress =
        client.progress === undefined ? '' : ` (${client.progress.dirtyBytes} dirty bytes left)`;
      const reason = `it did not drain within ${drainTimeoutMs} ms${progress}`;
      log('%s: %s', client.label, reason);
      evict(this.#target, client, reason);
    }
  }
}
