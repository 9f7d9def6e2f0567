/**
 * The port of a standby. Its address may be that of the server that has the target, on the same host: then the standby binds the
 * port as soon as that server closes it, before it has the target, so that clients that come back wait here.
 *
 * Several standbys may want the port, and one gets the target. So a standby that has bound a port which was the holder's gives it
 * up when it sees another holder; and it keeps a port only if it was in use before, under the same holder: a new holder may not
 * have bound it yet. A standby whose address was free from the beginning keeps it.
 */

import { FsError } from '../base/errno.js';
import { Deferred } from '../base/wait.js';
import { sleep, type Timers } from '../runtime/ports.js';
import type { Server } from '../server/server.js';

const PORT_POLL_MS = 5;

export class StandbyListen {
  readonly #server: Pick<Server, 'listen' | 'vacate'>;
  readonly #timers: Timers;
  readonly #signal: AbortSignal;
  readonly #bound = new Deferred<void>();
  /** The first attempt has bound it: nobody else wants it. */
  #isOwn = false;
  /** It was in use since the holder of the target has last changed. */
  #wasBusy = false;
  #hasTarget = false;
  /** How often the holder has changed. */
  #changes = 0;
  #newHolder = new Deferred<void>();

  constructor(server: Pick<Server, 'listen' | 'vacate'>, timers: Timers, signal: AbortSignal) {
    this.#server = server;
    this.#timers = timers;
    this.#signal = signal;
    // Awaited when the standby has the target. Until then a failure must not become an unhandled rejection.
    this.#bound.promise.catch(() => undefined);
    this.#run().catch(this.#bound.reject);
  }

  /** A look at the block has found another holder than the look before. */
  holderChanged(): void {
    this.#changes += 1;
    this.#wasBusy = false;
    this.#newHolder.resolve();
  }

  /** This standby has the target. Resolves when it listens. @throws FsError if it cannot. */
  listening(): Promise<void> {
    this.#hasTarget = true;
    this.#newHolder.resolve();
    return this.#bound.promise;
  }

  async #run(): Promise<void> {
    for (let first = true; !this.#signal.aborted; first = false) {
      this.#newHolder = new Deferred();
      const before = this.#changes;
      const isBound = await this.#bind();
      if (!isBound && before === this.#changes) this.#wasBusy = true;
      this.#isOwn ||= first && isBound;
      if (isBound && (this.#isOwn || this.#wasBusy || this.#hasTarget)) {
        if (!this.#isOwn && !this.#hasTarget) await this.#newHolder.promise;
        if (this.#isOwn || this.#hasTarget) {
          this.#bound.resolve();
          return;
        }
      }
      if (isBound) await this.#server.vacate();
      await sleep(this.#timers, PORT_POLL_MS);
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
