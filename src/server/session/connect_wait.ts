/**
 * CONNECTs of a server that has no target yet: a standby, or one that is starting. They are kept for a moment, and
 * answered when the server becomes active; who is still not served then is told to wait, and asks again.
 *
 * Told at once, a hundred clients that ask again every few milliseconds take the processor that the start needs. Kept for
 * long, a client would not ask the partner, which may be the one that becomes active.
 */

import type { Timer, Timers } from '../../runtime/ports.js';

const KEPT_MS = 100;

export class ConnectWait {
  readonly #timers: Timers;
  #timer: Timer | undefined;
  #waiting: Promise<void> | undefined;
  #end: () => void = () => undefined;

  constructor(timers: Timers) {
    this.#timers = timers;
  }

  /** Resolves when it is over, KEPT_MS after the first of those that share it has come. */
  begin(): Promise<void> {
    this.#waiting ??= new Promise((resolve) => {
      this.#end = resolve;
      this.#timer = this.#timers.after(KEPT_MS, () => this.over());
    });
    return this.#waiting;
  }

  /** The server has become active, or has stopped. */
  over(): void {
    this.#timer?.cancel();
    this.#waiting = undefined;
    this.#end();
  }
}
