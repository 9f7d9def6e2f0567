/**
 * Clients that have recovered from a server crash and do not have the active lock yet. They resend unanswered requests
 * and write dirty data only when they have it: until then they are far from drained.
 */

import { FsError } from '../../base/errno.js';
import { onAbort, WaitList } from '../../base/wait.js';
import type { ClientExport } from './export.js';

export class UndrainedClients {
  readonly #clients = new Set<ClientExport>();
  readonly #untilNone = new WaitList();

  [Symbol.iterator](): IterableIterator<ClientExport> {
    return this.#clients.values();
  }

  has(client: ClientExport): boolean {
    return this.#clients.has(client);
  }

  add(client: ClientExport): void {
    this.#clients.add(client);
  }

  /** The client has the active lock, or is gone. */
  delete(client: ClientExport): void {
    if (this.#clients.delete(client) && this.#clients.size === 0) this.#untilNone.wake();
  }

  /** Forgets all of them, before anybody waits for them: they have nothing to finish at this server. */
  clear(): void {
    this.#clients.clear();
  }

  /** Resolves when there are none. @throws FsError ECANCELED if the signal aborts. */
  none(signal: AbortSignal): Promise<void> | undefined {
    if (this.#clients.size === 0) return undefined;
    return new Promise((resolve, reject) => {
      const unlisten = onAbort(signal, () =>
        reject(new FsError('ECANCELED', 'the wait for undrained clients was aborted')),
      );
      void this.#untilNone.wait().then(() => {
        unlisten();
        resolve();
      });
    });
  }
}
