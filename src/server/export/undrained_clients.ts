/**
 * Clients that have recovered from a crash and do not have the active lock yet. What was not answered before the crash is
 * sent again, and what is dirty is written, only when they have it: until then they are anything but drained.
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

  /** It has the active lock, or is gone. */
  delete(client: ClientExport): void {
    if (this.#clients.delete(client) && this.#clients.size === 0) this.#untilNone.wake();
  }

  /** Nobody waits for them. */
  clear(): void {
    this.#clients.clear();
  }

  /** Resolves when there are none. @throws FsError ECANCELED when the signal aborts. */
  none(signal: AbortSignal): Promise<void> | undefined {
    if (this.#clients.size === 0) return undefined;
    return new Promise((resolve, reject) => {
      const unlisten = onAbort(signal, () =>
        reject(new FsError('ECANCELED', 'nobody waits for them any more')),
      );
      void this.#untilNone.wait().then(() => {
        unlisten();
        resolve();
      });
    });
  }
}
