/**
 * The active server lock. Every client holds it PR while it may send requests. A shutdown takes it EX, and gets it when
 * the last client has drained.
 */

import type { MaybePromise } from '../../base/maybe_promise.js';
import type { LockSpec } from '../../dlm/api.js';
import type { ClientExport } from '../export/export.js';
import type { ServedTarget } from './served_target.js';

const EXCLUSIVE: LockSpec = { type: 'active', fid: 0, mode: 'EX', bits: 0 };

/**
 * Sends every client a BAST. New requests for the lock wait behind this one, but clients that are just back from a
 * server crash get it first.
 * @returns the release, once nobody else holds the lock. @throws FsError ECANCELED if the signal aborts.
 */
export function takeActiveLock(target: ServedTarget, signal: AbortSignal): MaybePromise<() => void> {
  const acquire = (): MaybePromise<() => void> => target.locks.acquire(undefined, [EXCLUSIVE], signal);
  return target.undrained.none(signal)?.then(acquire) ?? acquire();
}

/** Clients that still have to drain: they hold the lock, or are about to ask for it. */
export function undrained(target: ServedTarget): ClientExport[] {
  const holders = target.locks.holders('active').flatMap((uuid) => target.exports.get(uuid) ?? []);
  return [...holders, ...target.undrained];
}
