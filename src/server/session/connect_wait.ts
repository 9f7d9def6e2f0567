/**
 * CONNECTs to a server that has no target yet: a standby, or a server that is starting. It keeps them for a moment, and
 * answers them when it becomes active. If it is still not active then, it tells the client to wait, and the client asks
 * again.
 *
 * If the server answered at once, a hundred clients that ask again every few milliseconds would take the processor time
 * that the start needs. If it kept a CONNECT for long, the client would not ask the partner, which may be the one that
 * becomes active.
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

  /** Resolves when the wait is over, KEPT_MS after the first CONNECT that shares it. */
  begin(): Promise<void> {
    if (this.#waiting === undefined) {
      this.#waiting = new Deferred();
      this.#timer = this.#timers.after(KEPT_MS, () => this.over());
    }
    return this.#waiting.promise;
  }

  /** Call it when the server has become active, or has stopped. */
  over(): void {
    this.#timer?.cancel();
    this.#waiting?.resolve();
    this.#waiting = undefined;
  }
}
