/**
 * PING, DISCONNECT, GET_FIDS and recovery: REPLAYED, REPLAY_OPENS, REPLAY_LOCKS, RECOVERY_DONE. CONNECT is in session/connect.ts, the
 * replays themselves in session/replay.ts.
 *
 * A client may do all of this twice, when it lost the connection on the way: nothing is dropped for it, and it ends up
 * with what it replayed last.
 */

import type { Fh } from '../../base/ids.js';
import type { LockSpec } from '../../dlm/api.js';
import type { HandlerOutcome, Incoming } from '../../rpc/api.js';
import { BIT_ATTR, BIT_UPDATE } from '../../wire/lock.js';
import type { Empty, ReplyOf, RequestOf } from '../../wire/operation.js';
import type { Of } from '../../wire/schema.js';
import type { GetFids, RecoveryDone, Replayed, ReplayLocks, ReplayOpens } from '../../wire/session.js';
import type { RecoveryWindow } from '../lifecycle/recovery_window.js';
import { goodbye } from '../target/eviction.js';
import type { ServedCall } from '../target/served_call.js';
import { type Answered, answered } from './with_locks.js';

type Nothing = Of<typeof Empty>;

export function ping(): HandlerOutcome<Nothing> {
  return { reply: {} };
}

/** Answered when it is durable: a server that starts after a crash would wait for who has left. */
export function disconnect(
  call: ServedCall,
  _request: Nothing,
  incoming: Incoming<Nothing>,
): Answered<Nothing> {
  goodbye(call.target, call.client);
  const gone = call.target.store.sync().then((): HandlerOutcome<Nothing> => ({ reply: {} }));
  return answered(incoming, gone);
}

export function getFids(call: ServedCall): HandlerOutcome<ReplyOf<typeof GetFids>> {
  // Lost with its reply it would only be a hole in the numbers; but a resend must not make a second one.
  call.keepReply();
  return { reply: call.target.allocateFids() };
}

/** Answered when everything that it has sent again has been executed. */
export function replayed(
  call: ServedCall,
  window: RecoveryWindow | undefined,
  incoming: Incoming<ReplyOf<typeof Replayed>>,
): Answered<Nothing> {
  if (window === undefined) return { reply: {} };
  return told((tell) => window.replays.complete(call.client.uuid, tell), incoming);
}

/** Opens as they were, of unlinked inodes too: those are orphans, and this is what keeps them. */
export function replayOpens(
  call: ServedCall,
  window: RecoveryWindow | undefined,
  request: RequestOf<typeof ReplayOpens>,
): HandlerOutcome<ReplyOf<typeof ReplayOpens>> {
  const { target, client } = call;
  window?.progress(client.uuid);
  const lost: Fh[] = [];
  for (const { fid, fh, flags } of request.opens) {
    if (!target.store.hasInode(fid)) lost.push(fh);
    else target.opens.add(client, fh, fid, flags);
  }
  return { reply: { lost } };
}

/** Cache locks as they were. One that another client has replayed in conflict with it is refused: 0. */
export function replayLocks(
  call: ServedCall,
  window: RecoveryWindow | undefined,
  request: RequestOf<typeof ReplayLocks>,
): HandlerOutcome<ReplyOf<typeof ReplayLocks>> {
  const { target, client } = call;
  window?.progress(client.uuid);
  const handles = request.locks.map(({ fid, type, mode, bits = 0 }) => {
    const spec: LockSpec = { type, fid, mode, bits };
    if (!target.store.hasInode(fid) || !isCacheLock(spec)) return 0;
    return client.reclaimed.take(spec) ?? target.locks.adopt(client.uuid, spec) ?? 0;
  });
  return { reply: { handles } };
}

/** What ENQUEUE would grant to a client. */
function isCacheLock({ type, mode, bits }: LockSpec): boolean {
  if (type === 'data') return bits === 0 && (mode === 'PR' || mode === 'PW');
  return mode === 'PR' && bits !== 0 && (bits & ~(BIT_UPDATE | BIT_ATTR)) === 0;
}

/** Answered when the window ends, which may be now: the last client done ends it. */
export function recoveryDone(
  call: ServedCall,
  window: RecoveryWindow | undefined,
  incoming: Incoming<ReplyOf<typeof RecoveryDone>>,
): Answered<Nothing> {
  const { target, client } = call;
  target.locks.cancel(client.uuid, client.reclaimed.rest());
  if (window === undefined || !window.isOpen) {
    client.recovering = false;
    return { reply: {} };
  }
  return told((tell) => {
    // Before anything that was held is executed: its callbacks come after this answer.
    window.whenOver(tell);
    window.done(client.uuid);
  }, incoming);
}

/** Answers in the turn in which it is told to, which may be now. */
function told(ask: (tell: () => void) => void, incoming: Incoming<Nothing>): Answered<Nothing> {
  return new Promise((resolve) => {
    ask(() => {
      incoming.answer({ reply: {} });
      resolve(undefined);
    });
  });
}
