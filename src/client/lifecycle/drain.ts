/**
 * The client's part in a controlled shutdown: the server called the active lock back (docs/RECOVERY.md, "Client").
 *
 * Ahead of it, while operations go on: what is dirty is written, and the locks that nobody uses are given back, with what
 * they keep in caches. It is done once and has a limit, so that a busy client comes to its end.
 *
 * In order: the gate drains, operations inside end, dirty pages are written, the kernel's caches are emptied, what they
 * bring back is written, our caches are emptied, closes are sent, the gate is closed, all cache locks go back in one batch, then the active lock, which is
 * asked for again at once: it is granted when the shutdown is cancelled, and asked for in vain when the server leaves.
 *
 * The drain does not care about the connection: its calls wait for the next one when it breaks. It ends early when what
 * it drains is void: another instance serves, or this client was evicted.
 */

import { FsError } from '../../base/errno.js';
import { logger } from '../../base/log.js';
import { DrainProgress } from '../../wire/admin.js';
import type { ClientContext } from '../cache/context.js';
import type { WriteBack } from '../io/write_back.js';
import type { TargetSession } from '../session/target_session.js';

const log = logger('client:drain');

const PROGRESS_MS = 100;
/** What is not done ahead by then is done while operations wait. */
const AHEAD_MS = 1000;
/** Locks given back in one go: operations are served in between. */
const AHEAD_LOCKS = 512;

export class Drain {
  readonly #context: ClientContext;
  readonly #target: TargetSession;
  readonly #writeBack: WriteBack;
  /** The active lock was given back: the import asks for it again. */
  readonly #drained: () => void;
  /** Of the session that began it: of another one it is void, and ends at its next step. */
  #running: Promise<void> | undefined;
  #session: string | undefined;

  constructor(context: ClientContext, target: TargetSession, writeBack: WriteBack, drained: () => void) {
    this.#context = context;
    this.#target = target;
    this.#writeBack = writeBack;
    this.#drained = drained;
  }

  /** The active lock was called back. Said again after a reconnect: one drain is enough. */
  start(): void {
    const session = this.#currentSession();
    if (this.#running !== undefined && this.#session === session) return;
    this.#session = session;
    const running = this.#run(session)
      .catch((error: unknown) => {
        if (this.#currentSession() === session || !(error instanceof FsError)) log('%O', error);
      })
      .finally(() => {
        if (this.#running === running) this.#running = undefined;
      });
    this.#running = running;
  }

  /** Changes when another instance serves, and when the target throws this client out. */
  #currentSession(): string {
    return `${this.#target.instance}/${this.#target.generation}`;
  }

  /** Resolves when no drain is under way. */
  async ended(): Promise<void> {
    await this.#running;
  }

  async #run(session: string): Promise<void> {
    const target = this.#target;
    const isVoid = (): boolean => this.#currentSession() !== session;
    const { gate } = target;
    log('begins: %d operations inside, %d bytes dirty', gate.inside, this.#context.dirtyBytes(target));
    this.#context.options.onState?.('draining for a controlled shutdown');
    const stopProgress = this.#reportProgress();
    try {
      await this.#ahead(isVoid);
      if (isVoid()) return;
      gate.setDrain('draining');
      await gate.idle();
      await target.idle('operation');
      // Most of what is dirty goes while locks that others call back still leave one by one, in time.
      await this.#writeBack.flushAll(target);
      if (isVoid()) return;
      // The kernel's caches, what they bring back, then ours: the release of each lock does it (lock_release.ts).
      const handles = await target.locks.cancelAll();
      if (isVoid()) return;
      await this.#writeBack.flushAll(target);
      target.sendCloses();
      await target.idle('operation', 'data', 'closing');
      if (isVoid()) return;
      gate.setDrain('drained');
      this.#report();
      target.cancel(handles);
      target.cancel([...target.activeHandles]);
      target.activeHandles.clear();
      log('done: %d cache locks given back', handles.length);
      this.#context.options.onState?.('drained: waiting for the server to come back', 'drained');
      this.#drained();
    } finally {
      stopProgress();
    }
  }

  async #ahead(isVoid: () => boolean): Promise<void> {
    const { timers } = this.#context.runtime;
    const { locks } = this.#target;
    let isLate = false;
    let late = (): void => undefined;
    const limit = new Promise<void>((resolve) => {
      late = resolve;
    });
    const timer = timers.after(AHEAD_MS, () => {
      isLate = true;
      late();
    });
    try {
      await Promise.race([this.#writeBack.flushAll(this.#target), limit]);
      for (let left = locks.size; left > 0; left -= AHEAD_LOCKS) {
        if (isLate || isVoid()) return;
        const given = await Promise.race([locks.giveBackOldest(AHEAD_LOCKS), limit]);
        if (given === 0) return;
        await new Promise<void>((resolve) => timers.soon(resolve));
      }
    } finally {
      timer.cancel();
    }
  }

  #reportProgress(): () => void {
    const { timers } = this.#context.runtime;
    const again = (): void => {
      this.#report();
      timer = timers.after(PROGRESS_MS, again, true);
    };
    let timer = timers.after(0, again, true);
    return () => timer.cancel();
  }

  #report(): void {
    const target = this.#target;
    if (!target.requester.attached) return;
    target.requester.notify(DrainProgress, {
      dirtyBytes: this.#context.dirtyBytes(target),
      rpcsInFlight: target.inFlight('operation') + target.inFlight('data'),
      locks: target.locks.size,
    });
  }
}
