/**
 * SIGTERM, SIGINT, SIGHUP and SIGQUIT of a client process: they end the mount. Heard from the beginning, so that none comes at a moment at
 * which it would leave a mount that nobody serves.
 */

import { CliError } from './common.js';

const NAMES = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT'] as const;
type Name = (typeof NAMES)[number];

/** There was no mount yet. */
export class EndedBySignal extends CliError {
  override name = 'EndedBySignal';
  readonly signal: Name;
  constructor(signal: Name) {
    super(`ended by ${signal} before it was mounted`);
    this.signal = signal;
  }
}

export class EndSignals {
  readonly #abort = new AbortController();
  #unmount: (() => void) | undefined;

  constructor() {
    for (const name of NAMES) process.on(name, () => this.#heard(name));
  }

  /** Aborts when one comes before there is a mount; the reason is an EndedBySignal. */
  get beforeMount(): AbortSignal {
    return this.#abort.signal;
  }

  /** There is a mount. @param unmount called for each signal, also for one that came while it was made. */
  mounted(unmount: () => void): void {
    this.#unmount = unmount;
    if (this.#abort.signal.aborted) unmount();
  }

  #heard(name: Name): void {
    if (this.#unmount === undefined) this.#abort.abort(new EndedBySignal(name));
    else this.#unmount();
  }
}

/** Ends this process as the signal would have: whoever waits for it learns how it ended. */
export function dieBy({ signal }: EndedBySignal): void {
  for (const name of NAMES) process.removeAllListeners(name);
  process.kill(process.pid, signal);
}
