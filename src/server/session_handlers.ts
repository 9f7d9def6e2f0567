/** PING, DISCONNECT, GET_FIDS and recovery: REPLAY_OPENS, RECOVERY_DONE. CONNECT is in connect.ts. */

import type { Fh } from '../base/ids.js';
import type { Incoming, Outcome } from '../rpc/api.js';
import type { Empty, ReplyOf, RequestOf } from '../wire/operation.js';
import type { Of } from '../wire/schema.js';
import type { GetFids, RecoveryDone, ReplayOpens } from '../wire/session.js';
import type { Call } from './call.js';
import { goodbye } from './eviction.js';
import { type Answered, answered } from './locked.js';
import type { RecoveryWindow } from './recovery_window.js';

type Nothing = Of<typeof Empty>;

export function ping(): Outcome<Nothing> {
  return { reply: {} };
}

export function disconnect(call: Call): Outcome<Nothing> {
  goodbye(call.target, call.export);
  return { reply: {} };
}

export function getFids(call: Call): Outcome<ReplyOf<typeof GetFids>> {
  // Lost with its reply it would only be a hole in the numbers; but a resend must not make a second one.
  call.keepReply();
  return { reply: call.target.allocateFids() };
}

/** Opens as they were, of unlinked inodes too: those are orphans, and this is what keeps them. */
export function replayOpens(
  call: Call,
  request: RequestOf<typeof ReplayOpens>,
): Outcome<ReplyOf<typeof ReplayOpens>> {
  const { target, export: owner } = call;
  const lost: Fh[] = [];
  for (const { fid, fh, flags } of request.opens) {
    if (target.store.inode(fid) === undefined) lost.push(fh);
    else target.opens.add(owner, fh, fid, flags);
  }
  return { reply: { lost } };
}

/** Answered when the window ends, which may be now: the last client done ends it. */
export function recoveryDone(
  call: Call,
  window: RecoveryWindow | undefined,
  incoming: Incoming<ReplyOf<typeof RecoveryDone>>,
): Answered<Nothing> {
  const { export: owner } = call;
  if (window === undefined || !window.isOpen) {
    owner.recovering = false;
    return { reply: {} };
  }
  window.done(owner.uuid);
  if (!window.isOpen) return { reply: {} };
  return answered(
    incoming,
    window.over.then(() => ({ reply: {} })),
  );
}
