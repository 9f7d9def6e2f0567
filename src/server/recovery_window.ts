/**
 * The recovery window after a restart: the clients of the previous instance come back, open again what they had open and
 * take their application locks again, before anybody may do anything that could conflict with it.
 *
 * It ends when the last known client is done: never a fixed grace. A client that does not come is waited for until the
 * soft limit; one that has come, but is not done, until the hard limit; then it is evicted, alone.
 */

import { assert } from '../base/assert.js';
import type { ClientUuid } from '../base/ids.js';
import { logger } from '../base/log.js';
import type { Timer, Timers } from '../runtime/ports.js';
import type { ClientRecord } from '../storage/api.js';

const log = logger('server:recovery');

export interface RecoveryWindowOptions {
  readonly softMs: number;
  readonly hardMs: number;
  /** A known client is out of time. The owner evicts it, and says gone(). */
  expired(client: ClientRecord, reason: string): void;
  /** Once: nobody is waited for any more. Not called after abandon(). */
  ended(): void;
}

export class RecoveryWindow {
  readonly #options: RecoveryWindowOptions;
  readonly #waited: Map<ClientUuid, ClientRecord>;
  readonly #come = new Set<ClientUuid>();
  readonly #timers: readonly Timer[];
  #resolve: () => void = () => undefined;
  #open = true;
  /** Resolves when the window ends; never when it is abandoned (the server stops). */
  readonly over: Promise<void>;

  constructor(timers: Timers, known: readonly ClientRecord[], options: RecoveryWindowOptions) {
    assert(known.length > 0, 'a recovery window without clients');
    this.#options = options;
    this.#waited = new Map(known.map((client) => [client.uuid, client]));
    this.over = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    this.#timers = [
      timers.after(options.softMs, () => this.#expire(options.softMs, (uuid) => !this.#come.has(uuid))),
      timers.after(options.hardMs, () => this.#expire(options.hardMs, () => true)),
    ];
  }

  get isOpen(): boolean {
    return this.#open;
  }

  /** The client's record while it is waited for. */
  known(uuid: ClientUuid): ClientRecord | undefined {
    return this.#waited.get(uuid);
  }

  /** Those that have not connected yet. */
  missing(): ClientRecord[] {
    return [...this.#waited.values()].filter(({ uuid }) => !this.#come.has(uuid));
  }

  /** It has connected and is replaying. */
  came(uuid: ClientUuid): void {
    this.#come.add(uuid);
  }

  /** It has replayed everything. */
  done(uuid: ClientUuid): void {
    if (this.#waited.delete(uuid)) this.#look();
  }

  /** It was evicted, or has said goodbye. */
  gone(uuid: ClientUuid): void {
    this.done(uuid);
  }

  /** The server stops: the clients stay known, and recover with the next instance. */
  abandon(): void {
    this.#open = false;
    for (const timer of this.#timers) timer.cancel();
  }

  #expire(afterMs: number, which: (uuid: ClientUuid) => boolean): void {
    for (const client of [...this.#waited.values()]) {
      if (!which(client.uuid)) continue;
      const what = this.#come.has(client.uuid) ? 'did not finish its recovery' : 'did not come back';
      this.#options.expired(client, `it ${what} within ${afterMs} ms after the server started`);
      this.gone(client.uuid);
    }
  }

  #look(): void {
    if (!this.#open || this.#waited.size > 0) return;
    log('ends: all clients are done');
    this.abandon();
    this.#options.ended();
    this.#resolve();
  }
}
