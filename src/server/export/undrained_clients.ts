/**
 * Clients that have recovered from a crash and do not have the active lock yet. What was not answered before the crash is
 * sent again, and what is dirty is written, only when they have it: until then they are anything but drained.
 */

import { FsError } from '../../base/errno.js';
import type { Export } from './export.js';

export class Returning {
  readonly #clients = new Set<Export>();
  #waiting: (() => void)[] = [];

  [Symbol.iterator](): IterableIterator<Export> {
    return this.#clients.values();
  }

  has(owner: Export): boolean {
    return this.#clients.has(owner);
  }

  add(owner: Export): void {
    this.#clients.add(owner);
  }

  /** It has the active lock, or is gone. */
  delete(owner: Export): void {
    if (!this.#clients.delete(owner) || this.#clients.size > 0) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }

  /** Nobody waits for them. */
  clear(): void {
    this.#clients.clear();
  }

  /** Resolves when there are none. @throws FsError ECANCELED when the signal aborts. */
  none(signal: AbortSignal): Promise<void> | undefined {
    if (this.#clients.size === 0) return undefined;
    return new Promise((resolve, reject) => {
      const onAbort = (): void => reject(new FsError('ECANCELED', 'nobody waits for them any more'));
      signal.addEventListener('abort', onAbort, { once: true });
      this.#waiting.push(() => {
        signal.removeEventListener('abort', onAbort);
        resolve();
      });
    });
  }
}
