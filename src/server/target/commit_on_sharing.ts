/**
 * Commit on sharing, as operations see it. The lock server notes with the locks what each operation has changed, and
 * the locks of other clients wait there until the change is durable (dlm/uncommitted.ts, docs/recovery/commit_on_sharing.md). This file
 * handles what locks do not cover: reads of things that are not locked, and refusals, which are answers about the state
 * too.
 */

import type { Transno } from '../../base/ids.js';
import type { LockSpec } from '../../dlm/api.js';
import type { HandlerOutcome } from '../../rpc/api.js';
import type { ClientExport } from '../export/export.js';
import type { ServedTarget } from './served_target.js';

/** The part of a ServedCall that this file needs. */
export interface NotedCall {
  readonly target: ServedTarget;
  readonly client: ClientExport;
  readonly isReplay: boolean;
  readonly locked: readonly LockSpec[];
  readonly alsoChanged: readonly LockSpec[];
  /** The transno of the call's changes, once they are noted. */
  noted: Transno | undefined;
}

/**
 * Call it when the operation has taken effect: it has changed what it holds exclusively. Call it in the same turn as
 * the effect, and before the reply grants cache locks: the client has its turn now, ahead of those that wait. Noting a
 * transno once is enough.
 */
export function noteChanges(call: NotedCall, { transno }: Pick<HandlerOutcome<unknown>, 'transno'>): void {
  if (transno === undefined || transno === 0 || transno === call.noted) return;
  call.noted = transno;
  for (const spec of call.locked) if (spec.mode === 'EX') noteChange(call, spec, transno);
  for (const spec of call.alsoChanged) noteChange(call, spec, transno);
}

export function noteChange(call: NotedCall, spec: LockSpec, transno: Transno): void {
  call.target.locks.changed(call.client.uuid, spec, transno);
}

/** Whether another client has changed it, and a crash could still undo that change. */
export function isUncommitted(call: NotedCall, spec: LockSpec): boolean {
  return call.target.locks.isUncommitted(call.client.uuid, spec);
}

/**
 * For an operation that the state refuses (no such name, a name that is taken) before it has any locks. The state that
 * it saw must last, so the server answers the refusal when everything that the operation may have seen is durable.
 * @throws the refusal, at once if no other client has uncommitted changes.
 */
export function refused(call: NotedCall, refusal: unknown): Promise<never> {
  const { store, locks } = call.target;
  if (call.isReplay || !locks.hasUncommitted(call.client.uuid)) throw refusal;
  return store.sync().then(() => {
    throw refusal;
  });
}
