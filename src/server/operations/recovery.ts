/**
 * PING, DISCONNECT, GET_FIDS and recovery: REPLAYED, REPLAY_OPENS, REPLAY_LOCKS, RECOVERY_DONE. CONNECT is in
 * session/connect.ts, the replays themselves are in session/replay.ts.
 *
 * A client does all of this twice if it lost the connection on the way. The server drops nothing before the second time; the
 * client ends up with the state that it replayed last.
 */

import { ACCESS_READ, ACCESS_WRITE, accessOf, isDir } from '../../base/attr.js';
import type { Fh, Fid } from '../../base/ids.js';
import type { LockSpec } from '../../dlm/api.js';
import type { HandlerOutcome, Incoming } from '../../rpc/api.js';
import { BIT_ATTR, BIT_UPDATE } from '../../wire/lock.js';
import type { Empty, ReplyOf, RequestOf } from '../../wire/operation.js';
import type { Of } from '../../wire/schema.js';
import {
  FEATURE,
  type GetFids,
  type RecoveryDone,
  type Replayed,
  type ReplayLocks,
  type ReplayOpens,
  type ReplayTickets,
} from '../../wire/session.js';
import { isSameTicket } from '../access/tickets.js';
import type { RecoveryWindow } from '../lifecycle/recovery_window.js';
import { goodbye } from '../target/eviction.js';
import type { ServedCall } from '../target/served_call.js';
import { type Answered, answered } from './with_locks.js';

type Nothing = Of<typeof Empty>;

export function ping(): HandlerOutcome<Nothing> {
  return { reply: {} };
}

/** Answers when the goodbye is durable: otherwise a server that starts after a crash would wait for this client. */
export function disconnect(
  call: ServedCall,
  _request: Nothing,
  incoming: Incoming<Nothing>,
): Answered<Nothing> {
  goodbye(call.target, call.client);
  const gone = call.target.store.sync().then((): HandlerOutcome<Nothing> => ({ reply: {} }));
  return answered(incoming, gone);
}

/**
 * Gives a range. There are so many between two commits, for all clients, and so many in all: a client that asks again before the
 * range it got is committed (which is long before it can have used it up) waits for that.
 */
export function getFids(
  call: ServedCall,
  _request: Nothing,
  incoming: Incoming<ReplyOf<typeof GetFids>>,
): Answered<ReplyOf<typeof GetFids>> {
  // If the reply is lost, the range is only a hole in the numbers. But a resend must not make a second hole.
  call.keepReply();
  const { target, client } = call;
  const give = (): HandlerOutcome<ReplyOf<typeof GetFids>> => {
    call.assertLive();
    return { reply: target.allocateFids(client) };
  };
  const before = client.fids.committed;
  const given = before === undefined ? give() : before.then(give);
  const committed: Promise<void> = Promise.resolve(given)
    .then(() => target.store.sync())
    // Who waits for the range or for the commit hears why it failed.
    .catch(() => undefined)
    .then(() => {
      if (client.fids.committed === committed) client.fids.committed = undefined;
    });
  client.fids.committed = committed;
  return answered(incoming, given);
}

/** Answers when the server has executed all operations that this client has replayed. */
export function replayed(
  call: ServedCall,
  window: RecoveryWindow | undefined,
  incoming: Incoming<ReplyOf<typeof Replayed>>,
): Answered<Nothing> {
  if (window === undefined) return { reply: {} };
  return told((tell) => window.replays.complete(call.client.uuid, tell), incoming);
}

/** Takes note of what the client proves, for the replays that follow. */
export function replayTickets(
  call: ServedCall,
  window: RecoveryWindow | undefined,
  request: RequestOf<typeof ReplayTickets>,
): HandlerOutcome<Nothing> {
  const { target, client } = call;
  window?.progress(client.uuid);
  if (!client.rights.squashRoot) return { reply: {} };
  for (const { fid, access, ticket } of request.tickets) {
    if (!isSameTicket(ticket, target.ticketFor(client, fid, access))) continue;
    client.proven.set(fid, (client.proven.get(fid) ?? 0) | access);
  }
  return { reply: {} };
}

/** Whether the client may say that it had this: it need not prove it, or has. */
function isProven({ client }: ServedCall, fid: Fid, access: number): boolean {
  if ((access & ACCESS_WRITE) !== 0 && client.rights.readOnly) return false;
  if (!client.rights.squashRoot) return true;
  const proven = client.proven.get(fid);
  return proven !== undefined && (proven & access) === access;
}

/** Opens the handles as they were, of unlinked inodes too: those are orphans, and these opens keep them. */
export function replayOpens(
  call: ServedCall,
  window: RecoveryWindow | undefined,
  request: RequestOf<typeof ReplayOpens>,
): HandlerOutcome<ReplyOf<typeof ReplayOpens>> {
  const { target, client } = call;
  window?.progress(client.uuid);
  const lost: Fh[] = [];
  for (const { fid, fh, flags } of request.opens) {
    if (!target.store.hasInode(fid) || !isProven(call, fid, accessOf(flags))) lost.push(fh);
    else target.opens.addAgain(client, fh, fid, flags);
  }
  return { reply: { lost } };
}

/** Grants cache locks as they were. Handle 0: refused, because another client has replayed a lock in conflict. */
export function replayLocks(
  call: ServedCall,
  window: RecoveryWindow | undefined,
  request: RequestOf<typeof ReplayLocks>,
): HandlerOutcome<ReplyOf<typeof ReplayLocks>> {
  const { target, client } = call;
  window?.progress(client.uuid);
  const handles = request.locks.map(({ fid, type, mode, bits = 0 }) => {
    const spec: LockSpec = { type, fid, mode, bits };
    if (!target.store.hasInode(fid) || !isCacheLock(call, spec)) return 0;
    return client.reclaimed.take(spec) ?? target.locks.adopt(client.uuid, spec) ?? 0;
  });
  return { reply: { handles } };
}

/** True for a lock that ENQUEUE, or the answer to an operation (an own lock), would grant to a client. */
function isCacheLock(call: ServedCall, { type, fid, mode, bits }: LockSpec): boolean {
  const { target, client } = call;
  if (type === 'data') {
    if (bits !== 0 || (mode !== 'PR' && mode !== 'PW')) return false;
    return isProven(call, fid as Fid, mode === 'PW' ? ACCESS_WRITE : ACCESS_READ);
  }
  if (mode === 'PR') return bits !== 0 && (bits & ~(BIT_UPDATE | BIT_ATTR)) === 0;
  if (mode !== 'EX') return false;
  const isOfDirectory = isDir(target.store.inode(fid as Fid)?.mode ?? 0);
  const feature = isOfDirectory ? FEATURE.batch : FEATURE.ownFiles;
  return (client.features & feature) !== 0 && bits === (isOfDirectory ? BIT_UPDATE | BIT_ATTR : BIT_ATTR);
}

/** Answers when the window ends. It ends now if this client is the last one. */
export function recoveryDone(
  call: ServedCall,
  window: RecoveryWindow | undefined,
  incoming: Incoming<ReplyOf<typeof RecoveryDone>>,
): Answered<Nothing> {
  const { target, client } = call;
  target.locks.cancel(client.uuid, client.reclaimed.rest());
  // What it had is its own again.
  const reclaimed = (): void => {
    // Through a later connection it may recover once more.
    if (client.link !== call.link) return;
    client.reclaims = false;
    client.proven.clear();
  };
  if (window === undefined || !window.isOpen) {
    client.recovering = false;
    reclaimed();
    return { reply: {} };
  }
  return told((tell) => {
    // Answers before the server executes any held request: callbacks of those come after this answer.
    window.whenOver(() => {
      reclaimed();
      tell();
    });
    window.done(client.uuid);
  }, incoming);
}

/** Answers in the turn in which `ask` calls `tell`, which may be this one. */
function told(ask: (tell: () => void) => void, incoming: Incoming<Nothing>): Answered<Nothing> {
  return new Promise((resolve) => {
    ask(() => {
      incoming.answer({ reply: {} });
      resolve(undefined);
    });
  });
}
