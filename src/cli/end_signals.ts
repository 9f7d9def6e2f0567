/**
 * SIGTERM, SIGINT, SIGHUP and SIGQUIT end the mount of a client process. It catches them from its start on, because a signal
 * that killed it later could leave a mount that no process serves.
 */

import { CliError } from './failure.js';

const NAMES = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT'] as const;
type Name = (typeof NAMES)[number];

/** The signal came before there was a mount. */
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

  /** Aborts if a signal comes before there is a mount; the reason is an EndedBySignal. */
  get beforeMount(): AbortSignal {
    return this.#abort.signal;
  }

  /** The caller says that there is a mount now. @param unmount called for each signal, also for one that has come already. */
  mounted(unmount: () => void): void {
    this.#unmount = unmount;
    if (this.#abort.signal.aborted) unmount();
  }

  #heard(name: Name): void {
    if (this.#unmount === undefined) this.#abort.abort(new EndedBySignal(name));
    else this.#unmount();
  }
}

/** Ends this process by the signal, so that its parent learns how it ended. */
export function dieBy({ signal }: EndedBySignal): void {
  for (const name of NAMES) process.removeAllListeners(name);
  process.kill(process.pid, signal);
}
