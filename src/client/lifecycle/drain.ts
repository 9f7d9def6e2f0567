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
import type { Lifetime } from '../../base/lifetime.js';
import { logger } from '../../base/log.js';
import { Deferred } from '../../base/wait.js';
import { DrainProgress } from '../../wire/admin.js';
import type { ClientContext } from '../cache/context.js';
import type { WriteBack } from '../io/write_back.js';
import type { TargetSession } from '../session/target_session.js';
import type { Import } from './import.js';

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
  readonly #connection: Pick<Import, 'drained'>;
  /** Of the session that began it: of another one it is void, and ends at its next step. */
  #running: Promise<void> | undefined;
  #serving: Lifetime | undefined;

  constructor(
    context: ClientContext,
    target: TargetSession,
    writeBack: WriteBack,
    connection: Pick<Import, 'drained'>,
  ) {
    this.#context = context;
    this.#target = target;
    this.#writeBack = writeBack;
    this.#connection = connection;
  }

  /** The active lock was called back. Said again after a reconnect: one drain is enough. */
  start(): void {
    const { serving } = this.#target;
    if (this.#running !== undefined && this.#serving === serving) return;
    this.#serving = serving;
    const running = this.#run(serving)
      .catch((error: unknown) => {
        // What it drained is void: another instance serves, or the target has evicted this client.
        if (!serving.isOver || !(error instanceof FsError)) log('%O', error);
      })
      .finally(() => {
        if (this.#running === running) this.#running = undefined;
      });
    this.#running = running;
  }

  /** Resolves when no drain is under way. */
  async ended(): Promise<void> {
    await this.#running;
  }

  async #run(serving: Lifetime): Promise<void> {
    const target = this.#target;
    const { gate } = target;
    log('begins: %d operations inside, %d bytes dirty', gate.inside, this.#context.dirtyBytes(target));
    this.#context.options.onState?.('draining for a controlled shutdown');
    const stopProgress = this.#reportProgress();
    try {
      await this.#ahead(serving);
      gate.setDrain('draining');
      await serving.wait(gate.idle());
      await serving.wait(target.idle('operation'));
      // Most of what is dirty goes while locks that others call back still leave one by one, in time.
      await serving.wait(this.#writeBack.flushAll(target));
      // The kernel's caches, what they bring back, then ours: the release of each lock does it (lock_release.ts).
      const handles = await serving.wait(target.locks.cancelAll());
      await serving.wait(this.#writeBack.flushAll(target));
      target.sendCloses();
      await serving.wait(target.idle('operation', 'data', 'closing'));
      gate.setDrain('drained');
      this.#report();
      target.cancel(handles);
      target.cancel([...target.activeHandles]);
      target.activeHandles.clear();
      log('done: %d cache locks given back', handles.length);
      this.#context.options.onState?.('drained: waiting for the server to come back', 'drained');
      this.#connection.drained();
    } finally {
      stopProgress();
    }
  }

  async #ahead(serving: Lifetime): Promise<void> {
    const { timers } = this.#context.runtime;
    const { locks } = this.#target;
    let isLate = false;
    const limit = new Deferred<void>();
    const timer = timers.after(AHEAD_MS, () => {
      isLate = true;
      limit.resolve();
    });
    try {
      await serving.wait(Promise.race([this.#writeBack.flushAll(this.#target), limit.promise]));
      for (let left = locks.size; left > 0; left -= AHEAD_LOCKS) {
        if (isLate) return;
        const given = await serving.wait(Promise.race([locks.giveBackOldest(AHEAD_LOCKS), limit.promise]));
        if (given === 0) return;
        await serving.wait(new Promise<void>((resolve) => timers.soon(resolve)));
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
