/**
 * CONNECTs of a server that has no target yet: a standby, or one that is starting. They are kept for a moment, and
 * answered when the server becomes active; who is still not served then is told to wait, and asks again.
 *
 * Told at once, a hundred clients that ask again every few milliseconds take the processor that the start needs. Kept for
 * long, a client would not ask the partner, which may be the one that becomes active.
 */

import { Deferred } from '../../base/wait.js';
import type { Timer, Timers } from '../../runtime/ports.js';

const KEPT_MS = 100;

export class ConnectWait {
  readonly #timers: Timers;
  #timer: Timer | undefined;
  #waiting: Deferred<void> | undefined;

  constructor(timers: Timers) {
    this.#timers = timers;
  }

  /** Resolves when it is over, KEPT_MS after the first of those that share it has come. */
  begin(): Promise<void> {
    if (this.#waiting === undefined) {
      this.#waiting = new Deferred();
      this.#timer = this.#timers.after(KEPT_MS, () => this.over());
    }
    return this.#waiting.promise;
  }

  /** The server has become active, or has stopped. */
  over(): void {
    this.#timer?.cancel();
    this.#waiting?.resolve();
    this.#waiting = undefined;
  }
}
