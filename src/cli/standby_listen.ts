/**
 * The port of a standby. Its address may be that of the server that has the target, on the same host: then the standby binds the
 * port as soon as that server closes it, before it has the target, so that clients that come back wait here.
 *
 * Several standbys may want the port, and one gets the target. That one must get the port too. So a standby without the target
 * keeps a port only while nobody who has the target can want it:
 *
 * - the holder had it: it was in use, and was given up, under the same holder;
 * - the holder has another port: it serves, and this one is free;
 * - the holder runs on another host.
 *
 * A standby gives the port up when it sees another holder, and asks these questions anew. A port that is free says nothing by itself:
 * the holder may be about to bind it.
 */

import { FsError } from '../base/errno.js';
import { Deferred } from '../base/wait.js';
import { sleep, type Timers } from '../runtime/ports.js';
import type { Server } from '../server/server.js';

const PORT_POLL_MS = 5;
/** How often a standby looks whether a port is still free that it may not keep. */
const FREE_POLL_MS = 100;

export class StandbyListen {
  readonly #server: Pick<Server, 'listen' | 'vacate'>;
  readonly #timers: Timers;
  readonly #signal: AbortSignal;
  readonly #bound = new Deferred<void>();
  /** The holder of the target cannot want a port that is free. */
  #holderHasPort = false;
  /** It was in use since the holder of the target has last changed. */
  #wasBusy = false;
  #hasTarget = false;
  /** Resolves when one of the above may have changed. */
  #news = new Deferred<void>();
  /** How often the holder has changed. */
  #changes = 0;

  constructor(server: Pick<Server, 'listen' | 'vacate'>, timers: Timers, signal: AbortSignal) {
    this.#server = server;
    this.#timers = timers;
    this.#signal = signal;
    // Awaited when the standby has the target. Until then a failure must not become an unhandled rejection.
    this.#bound.promise.catch(() => undefined);
    this.#run().catch(this.#bound.reject);
  }

  /** A look at the block has found a holder, or another one than the look before. @param elsewhere it runs on another host. */
  holderChanged(elsewhere: boolean): void {
    this.#changes += 1;
    this.#wasBusy = false;
    this.#holderHasPort = elsewhere;
    this.#news.resolve();
  }

  /** The holder, on this host, has bound its port. */
  holderServes(): void {
    this.#holderHasPort = true;
    this.#news.resolve();
  }

  /** This standby has the target. Resolves when it listens. @throws FsError if it cannot. */
  listening(): Promise<void> {
    this.#hasTarget = true;
    this.#news.resolve();
    return this.#bound.promise;
  }

  async #run(): Promise<void> {
    while (!this.#signal.aborted) {
      this.#news = new Deferred();
      const before = this.#changes;
      const isBound = await this.#bind();
      const isSame = before === this.#changes;
      if (isBound && isSame && !this.#hasTarget && (this.#holderHasPort || this.#wasBusy)) {
        while (before === this.#changes && !this.#hasTarget) {
          await this.#news.promise;
          this.#news = new Deferred();
        }
      }
      if (isBound && this.#hasTarget) {
        this.#bound.resolve();
        return;
      }
      if (isBound) await this.#server.vacate();
      else if (isSame) this.#wasBusy = true;
      const pause = sleep(this.#timers, isBound ? FREE_POLL_MS : PORT_POLL_MS);
      await (isBound ? Promise.race([pause, this.#news.promise]) : pause);
    }
    this.#bound.resolve();
  }

  async #bind(): Promise<boolean> {
    try {
      await this.#server.listen();
      return true;
    } catch (thrown) {
      if (thrown instanceof FsError && thrown.code === 'EBUSY') return false;
      throw thrown;
    }
  }
}
