/**
 * The start of an instance: what the target says of the one before, and what becomes of its clients. Nothing on the devices
 * changes before begin(), whose one transaction writes the version, takes the clean mark away and, at a forced start, removes
 * the previous clients.
 */

import { type Runtime, wallMs } from '../../runtime/ports.js';
import type { ClientRecord, Superblock, TargetStore, Tx } from '../../storage/api.js';
import { evict, forgetPrevious, forgotPrevious, removePrevious } from '../target/eviction.js';
import type { ServedTarget } from '../target/served_target.js';
import type { GateDecision } from '../target/version_gate.js';
import { RecoveryWindow } from './recovery_window.js';
import { keepUnanswered } from './unanswered_creates.js';

export type MayStart = GateDecision & { readonly start: true };

/** What a start finds on the target. */
export interface Found {
  readonly known: readonly ClientRecord[];
  readonly recovers: boolean;
  readonly previous: Superblock;
}

/** @throws FsError when the store cannot begin. */
export async function beginInstance(
  runtime: Runtime,
  store: TargetStore,
  decision: MayStart,
  softwareVersion: string,
): Promise<Found> {
  const previous = store.superblock;
  const known = store.clients();
  const recovers = known.length > 0 && decision.previousClients === 'recover';
  // In the transaction that begins the instance: no crash leaves clients behind that would recover after all.
  const within =
    decision.previousClients === 'recover'
      ? undefined
      : (tx: Tx): void =>
          removePrevious(tx, known, {
            reason: decision.reason,
            instance: previous.instance + 1,
            atMs: wallMs(runtime.clock),
          });
  await store.begin(softwareVersion, { recovering: recovers, within });
  return { known, recovers, previous };
}

/** What becomes of the clients of the instance before. @returns the window, if they are waited for. */
export function takePrevious(
  target: ServedTarget,
  decision: MayStart,
  found: Found,
  limits: { readonly recoverySoftMs: number; readonly recoveryHardMs: number },
  over: () => void,
): RecoveryWindow | undefined {
  if (found.recovers) return openWindow(target, found, limits, over);
  if (decision.previousClients === 'evict') forgotPrevious(target, found.known, decision.reason);
  return undefined;
}

function openWindow(
  target: ServedTarget,
  { known, previous }: Found,
  { recoverySoftMs, recoveryHardMs }: { readonly recoverySoftMs: number; readonly recoveryHardMs: number },
  over: () => void,
): RecoveryWindow {
  // A lock that waited must not be granted before its holder has replayed it.
  target.locks.holdFlockGrants(true);
  target.recovering = true;
  return new RecoveryWindow(target.runtime, target.time, known, {
    previousVersion: previous.softwareVersion,
    wasClean: previous.clean,
    softMs: recoverySoftMs,
    hardMs: recoveryHardMs,
    lastTransno: target.store.lastTransno,
    expired: (client, reason) => {
      const owner = target.exports.get(client.uuid);
      if (owner === undefined) forgetPrevious(target, [client], reason, 'recovery');
      else evict(target, owner, reason, 'recovery');
    },
    ended: () => endRecovery(target),
    over,
  });
}

function endRecovery(target: ServedTarget): void {
  target.store.endRecovery();
  target.recovering = false;
  for (const client of target.exports) {
    client.recovering = false;
    keepUnanswered(target, client);
  }
  target.locks.holdFlockGrants(false);
}
