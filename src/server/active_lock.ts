/**
 * The active server lock: every client holds it PR while it may send requests; a shutdown takes it EX, and has it when
 * the last client has drained.
 */

import type { MaybePromise } from '../base/maybe_promise.js';
import type { LockSpec } from '../dlm/api.js';
import type { Export } from './export.js';
import type { Target } from './target.js';

const EXCLUSIVE: LockSpec = { type: 'active', fid: 0, mode: 'EX', bits: 0 };

/**
 * Calls every client back. New requests for the lock wait behind this one.
 * @returns the release, once nobody else holds the lock. @throws FsError ECANCELED when the signal aborts.
 */
export function takeActiveLock(target: Target, signal: AbortSignal): MaybePromise<() => void> {
  return target.locks.acquire(undefined, [EXCLUSIVE], signal);
}

/** Clients that still have to drain. */
export function undrained(target: Target): Export[] {
  return target.locks.holders('active').flatMap((uuid) => target.exports.get(uuid) ?? []);
}
