/**
 * The client's part in a controlled shutdown: the server called the active lock back (docs/recovery/client.md, "Drain").
 *
 * Work ahead, while operations go on: the client writes what is dirty, and gives unused locks back, with what they keep in
 * caches. It does so once and within a limit, so that the drain of a busy client ends.
 *
 * Then, in this order: the gate drains, and operations inside end. The client writes dirty pages, empties the kernel's caches,
 * writes what they bring back, empties its own caches and sends its closes. The gate closes. All cache locks go back in one
 * batch, then the active lock. The client asks for the active lock again at once: the server grants it when the shutdown is
 * cancelled, and never answers when it stops.
 *
 * A process that hands its mount over to another one (handover.ts) drains in the same way, and keeps the active lock.
 *
 * The drain does not depend on one connection: when it breaks, the calls of the drain wait for the next one. The drain ends
 * early when what it drains is void: another instance serves, or the target has evicted this client.
 */

import { FsError } from '../../base/errno.js';
import type { LockHandle } from '../../base/ids.js';
import type { Lifetime } from '../../base/lifetime.js';
import { logger } from '../../base/log.js';
import { Deferred, patiently } from '../../base/wait.js';
import type { Histogram, Metrics } from '../../runtime/ports.js';
import { DrainProgress } from '../../wire/admin.js';
import { Sync } from '../../wire/data.js';
import { SERVER_AWAY } from '../api.js';
import type { ClientContext } from '../cache/context.js';
import type { WriteBack } from '../io/write_back.js';
import type { TargetSession } from '../session/target_session.js';
import type { Import } from './import.js';

const log = logger('client:drain');

const PROGRESS_MS = 100;
/** Time limit of the work ahead. What is not done by then is done while operations wait. */
const AHEAD_MS = 1000;
/** Locks given back in one go. The client serves operations in between. */
const AHEAD_LOCKS = 512;

export function drainSeconds(metrics: Metrics): Histogram {
  return metrics.histogram(
    'holdfast_client_drain_seconds',
    'Time of a drain, from when the server asked for it',
  );
}

export class Drain {
  readonly #context: ClientContext;
  readonly #target: TargetSession;
  readonly #writeBack: WriteBack;
  /** drained() makes the import ask for the active lock again. */
  readonly #connection: Pick<Import, 'drained'>;
  /** The drain under way, for the instance in #serving. When another one serves, it is void and ends at its next step. */
  #running: Promise<void> | undefined;
  #serving: Lifetime | undefined;
  /** Set while another process is to go on as this client: the attempt. */
  #leaving: object | undefined;
  /** Ends when the last drain for another process has, which may be some time after it was given up. */
  #left: Promise<void> = Promise.resolve();
  /** The server has called the active lock back meanwhile. */
  #shutdownWaits = false;

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

  /** The server called the active lock back. It says so again after a reconnect: one drain is enough. */
  start(): void {
    const { serving } = this.#target;
    if (this.#leaving !== undefined) {
      this.#shutdownWaits = true;
      return;
    }
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
    await this.#left;
  }

  async #run(serving: Lifetime): Promise<void> {
    const target = this.#target;
    this.#context.options.onState?.('draining for a controlled shutdown');
    const stopProgress = this.#reportProgress();
    const { clock, metrics } = this.#context.runtime;
    const beganMs = clock.nowMs();
    try {
      await serving.wait(this.#left);
      await this.#ahead(serving);
      const handles = await this.#empty(serving);
      target.gate.setDrain('drained');
      this.#report();
      target.outgoing.cancel(handles);
      target.outgoing.cancel([...target.activeHandles]);
      target.activeHandles.clear();
      drainSeconds(metrics).observe((clock.nowMs() - beganMs) / 1000);
      log('done: %d cache locks given back', handles.length);
      this.#context.options.onState?.('drained: waiting for the server to come back', 'drained');
      this.#connection.drained();
    } finally {
      stopProgress();
    }
  }

  /**
   * Drains for another process that goes on as this client: as for a shutdown, but the active lock stays, and nothing is left that a
   * crash of the server could undo.
   * @param patience its abort ends the attempt. The caller calls stay() after any failure.
   * @throws FsError EAGAIN while the server is away, or shuts down; the signal's reason.
   */
  async leave(patience: AbortSignal): Promise<void> {
    const { serving, gate } = this.#target;
    if (!gate.isOpen) throw new FsError('EAGAIN', SERVER_AWAY);
    const attempt = {};
    this.#leaving = attempt;
    const leaving = this.#leave(this.#left, serving, attempt);
    this.#left = leaving.catch((error: unknown) => log('leaving: %s', error));
    await patiently(leaving, patience);
  }

  async #leave(before: Promise<void>, serving: Lifetime, attempt: object): Promise<void> {
    const { gate, outgoing, replays } = this.#target;
    const check = (): void => {
      if (this.#leaving !== attempt) throw new FsError('ECANCELED', 'this process stays');
    };
    await serving.wait(before);
    await this.#ahead(serving);
    check();
    const handles = await this.#empty(serving);
    check();
    gate.setDrain('drained');
    outgoing.cancel(handles);
    await serving.wait(outgoing.idle('closing'));
    // The next process could not replay it.
    if (replays.size > 0) await serving.wait(this.#target.call('data', Sync, {}));
  }

  /** Nobody else goes on as this client. A shutdown that was asked for meanwhile begins now. */
  stay(): void {
    if (this.#leaving === undefined) return;
    this.#leaving = undefined;
    this.#target.locks.cancelNoMore();
    this.#target.gate.setDrain('no');
    if (this.#shutdownWaits) this.start();
    this.#shutdownWaits = false;
  }

  /** @returns the cache locks, which the client does not use any more. It has nothing of its own, and the gate is shut. */
  async #empty(serving: Lifetime): Promise<readonly LockHandle[]> {
    const target = this.#target;
    const { gate } = target;
    log('begins: %d operations inside, %d bytes dirty', gate.inside, this.#context.dirtyBytes(target));
    gate.setDrain('draining');
    // The connection may have been lost meanwhile: the gate was closed, and ends have waited at it.
    target.outgoing.sendEnds();
    await serving.wait(gate.idle());
    await serving.wait(target.outgoing.idle('operation'));
    await serving.wait(target.changes.flushed());
    // Writes most dirty data now, while locks that other clients call back still go back one by one, in time.
    await serving.wait(this.#writeBack.flushAll(target));
    // The release of each lock empties the kernel's caches, writes what they bring back, and empties ours (lock_release.ts).
    const handles = await serving.wait(target.locks.cancelAll());
    await serving.wait(this.#writeBack.flushAll(target));
    target.outgoing.sendEnds();
    await serving.wait(target.outgoing.idle('operation', 'data', 'changes', 'closing'));
    return handles;
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
      rpcsInFlight: target.outgoing.inFlight('operation') + target.outgoing.inFlight('data'),
      locks: target.locks.size,
    });
  }
}
