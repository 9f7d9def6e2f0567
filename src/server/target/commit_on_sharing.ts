/**
 * Commit on sharing, as operations see it: what each of them has changed is noted with its locks, and the locks of other
 * clients wait there until it is durable (dlm/uncommitted.ts, docs/RECOVERY.md). Here is what locks do not cover: looks
 * at things that are not locked, and refusals, which are answers about the state too.
 */

import type { Transno } from '../../base/ids.js';
import type { LockSpec } from '../../dlm/api.js';
import type { HandlerOutcome } from '../../rpc/api.js';
import type { ClientExport } from '../export/export.js';
import type { ServedTarget } from './served_target.js';

/** What it needs of a Call. */
export interface NotedCall {
  readonly target: ServedTarget;
  readonly client: ClientExport;
  readonly isReplay: boolean;
  readonly locked: readonly LockSpec[];
  readonly alsoChanged: LockSpec | undefined;
  /** The transno of its changes, once they are noted. */
  noted: Transno | undefined;
}

/**
 * The operation has taken effect: what it holds exclusively it has changed. In the turn of the effect, and before cache
 * locks are granted with the reply: its client has its turn now, past those that wait. Once is enough.
 */
export function noteChanges(call: NotedCall, { transno }: Pick<HandlerOutcome<unknown>, 'transno'>): void {
  if (transno === undefined || transno === 0 || transno === call.noted) return;
  call.noted = transno;
  for (const spec of call.locked) if (spec.mode === 'EX') noteChange(call, spec, transno);
  if (call.alsoChanged !== undefined) noteChange(call, call.alsoChanged, transno);
}

export function noteChange(call: NotedCall, spec: LockSpec, transno: Transno): void {
  call.target.locks.changed(call.client.uuid, spec, transno);
}

/** Another client has changed it, and a crash could still undo that. */
export function isUncommitted(call: NotedCall, spec: LockSpec): boolean {
  return call.target.locks.isUncommitted(call.client.uuid, spec);
}

/**
 * An operation is refused by what is there (no such name, a name that is taken) before it has any locks. What it saw must
 * last, so the refusal is answered when everything that it may have seen is durable.
 * @throws the refusal, at once when no other client has changed anything.
 */
export function refused(call: NotedCall, refusal: unknown): Promise<never> {
  const { store, locks } = call.target;
  if (call.isReplay || !locks.hasUncommitted(call.client.uuid)) throw refusal;
  return store.sync().then(() => {
    throw refusal;
  });
}
