/**
 * Controlled shutdown: drain, commit, clean mark, release. docs/RECOVERY.md tells the whole story.
 *
 * Invariants:
 * - The clean mark is written after everything else, and only when every client is drained or evicted.
 * - It can be taken back as long as one client is not drained; from then on it cannot fail to stop.
 * - There is one at a time: whoever asks again joins it.
 */

import { FsError } from '../base/errno.js';
import { logger } from '../base/log.js';
import { takeActiveLock, undrained } from './active_lock.js';
import { evict } from './eviction.js';
import type { Target } from './target.js';

const log = logger('server:shutdown');

export interface ShutdownSteps {
  /** Everybody is drained: no connection is accepted any more, nothing new is executed. */
  committing(): Promise<void>;
  /** The clean mark is there: connections are closed, the devices released. */
  release(): Promise<void>;
  /** For people. */
  said(text: string): void;
}

export class ControlledShutdown {
  readonly #target: Target;
  readonly #steps: ShutdownSteps;
  readonly #taken = new AbortController();
  #cancellable: boolean;
  #aborted: Error | undefined;
  /** Rejects only when the target fails on the way: then no mark is there. */
  readonly result: Promise<'clean' | 'cancelled'>;

  /** @param cancellable false when there is nothing to go back to (a recovery window was given up for it). */
  constructor(target: Target, drainTimeoutMs: number, cancellable: boolean, steps: ShutdownSteps) {
    this.#target = target;
    this.#steps = steps;
    this.#cancellable = cancellable;
    this.result = this.#run(drainTimeoutMs);
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

  async #run(drainTimeoutMs: number): Promise<'clean' | 'cancelled'> {
    const target = this.#target;
    const timer = target.runtime.timers.after(drainTimeoutMs, () => this.#evictLate(drainTimeoutMs));
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
      timer.cancel();
    }
    // The lock is never given back: the next to grant it is the next instance.
    this.#cancellable = false;
    await this.#steps.committing();
    await target.quiet();
    this.#steps.said('all clients are drained; commits');
    await target.store.sync();
    await target.store.markClean();
    this.#steps.said('the clean mark is written');
    await this.#steps.release();
    return 'clean';
  }

  #evictLate(drainTimeoutMs: number): void {
    for (const owner of undrained(this.#target)) {
      const progress = owner.progress === undefined ? '' : ` (${owner.progress.dirtyBytes} dirty bytes left)`;
      const reason = `it did not drain within ${drainTimeoutMs} ms${progress}`;
      log('%s: %s', owner.label, reason);
      evict(this.#target, owner, reason);
    }
  }
}
