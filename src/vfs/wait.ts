/** Waits that an INTERRUPT ends. */

import { FsError } from '../base/errno.js';

/** Resolves with the promise; rejects with EINTR when the signal aborts first. The promise goes on by itself. */
export function interruptible(promise: Promise<void>, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.reject(new FsError('EINTR'));
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(new FsError('EINTR'));
    signal.addEventListener('abort', onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}
