/**
 * The active server lock: every client holds it PR while it may send requests; a shutdown takes it EX, and has it when
 * the last client has drained.
 */

import type { MaybePromise } from '../../base/maybe_promise.js';
import type { LockSpec } from '../../dlm/api.js';
import type { ClientExport } from '../export/export.js';
import type { ServedTarget } from './served_target.js';

const EXCLUSIVE: LockSpec = { type: 'active', fid: 0, mode: 'EX', bits: 0 };

/**
 * Calls every client back. New requests for the lock wait behind this one; those of clients that are just back from a
 * crash are granted before it.
 * @returns the release, once nobody else holds the lock. @throws FsError ECANCELED when the signal aborts.
 */
export function takeActiveLock(target: ServedTarget, signal: AbortSignal): MaybePromise<() => void> {
  const acquire = (): MaybePromise<() => void> => target.locks.acquire(undefined, [EXCLUSIVE], signal);
  return target.undrained.none(signal)?.then(acquire) ?? acquire();
}

/** Clients that still have to drain: they hold it, or are about to ask for it. */
export function undrained(target: ServedTarget): ClientExport[] {
  const holders = target.locks.holders('active').flatMap((uuid) => target.exports.get(uuid) ?? []);
  return [...holders, ...target.undrained];
}
