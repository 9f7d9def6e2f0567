/** ENQUEUE, CANCEL and the application locks (flock, fcntl, OFD). */

import { FsError } from '../../base/errno.js';
import type { Fid, LockHandle } from '../../base/ids.js';
import { isPromise } from '../../base/maybe_promise.js';
import { onAbort } from '../../base/wait.js';
import type { LockSpec } from '../../dlm/api.js';
import type { HandlerOutcome, Incoming } from '../../rpc/api.js';
import { needInode } from '../../rules/checks.js';
import { FLAG_RECOVERY } from '../../wire/header.js';
import {
  BIT_ATTR,
  BIT_UPDATE,
  type Cancel,
  type Enqueue,
  rangeFor,
  type TestFlock,
  type Unflock,
} from '../../wire/lock.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import { refused } from '../target/commit_on_sharing.js';
import { noteCancelled } from '../target/eviction.js';
import type { ServedCall } from '../target/served_call.js';
import type { Answered } from './with_locks.js';

type Request = RequestOf<typeof Enqueue>;
type Reply = ReplyOf<typeof Enqueue>;

export function enqueue(call: ServedCall, request: Request, incoming: Incoming<Reply>): Answered<Reply> {
  // If a grant were lost with its reply, the client could never give it back.
  call.keepReply();
  if (request.type === 'flock') return flock(call, request);
  const { client, target, header } = call;
  if ((header.flags & FLAG_RECOVERY) !== 0) {
    throw new FsError('EPROTO', 'cache locks are replayed by REPLAY_LOCKS');
  }
  const spec = specOf(request);
  if (spec.type !== 'active' && target.store.inode(spec.fid as Fid) === undefined) {
    return refused(call, new FsError('ESTALE', `inode ${spec.fid} is gone`));
  }
  // The active lock is the right to send requests. Before the client gets it, the next instance must know the client.
  const unknown = spec.type === 'active' && client.recorded !== undefined;
  const atOnce = unknown ? undefined : target.locks.tryEnqueue(client.uuid, spec);
  return atOnce === undefined ? enqueueLater(call, spec, incoming) : granted(call, spec, atOnce);
}

async function enqueueLater(call: ServedCall, spec: LockSpec, incoming: Incoming<Reply>): Promise<undefined> {
  const { client, target } = call;
  const wait = new AbortController();
  client.waits.add(wait);
  // When the connection breaks, the client asks again and gets a new place in the queue.
  onAbort(wait.signal, () => call.forget());
  try {
    if (spec.type === 'active') await client.recorded;
    const pending = target.locks.enqueue(client.uuid, spec, wait.signal);
    const handle = await (isPromise(pending) ? target.waitsForLocks(client, [spec], pending) : pending);
    incoming.answer(granted(call, spec, handle));
  } finally {
    client.waits.delete(wait);
  }
}

function specOf(request: Request): LockSpec {
  const { type, mode } = request;
  if (type === 'active') {
    if (mode !== 'PR') throw new FsError('EINVAL', `a client holds the active lock PR, not ${mode}`);
    return { type, fid: 0, mode, bits: 0 };
  }
  if (request.fid === undefined) throw new FsError('EPROTO', 'a lock on nothing');
  if (type === 'inode') {
    const bits = request.bits ?? 0;
    if (mode !== 'PR' || bits === 0 || (bits & ~(BIT_UPDATE | BIT_ATTR)) !== 0) {
      throw new FsError('EINVAL', `a client does not hold inode locks ${mode} on bits ${bits}`);
    }
    return { type, fid: request.fid, mode, bits };
  }
  if (type !== 'data' || (mode !== 'PR' && mode !== 'PW')) {
    throw new FsError('EINVAL', `a client does not hold ${type} locks ${mode}`);
  }
  return { type, fid: request.fid, mode, bits: 0 };
}

function granted(call: ServedCall, spec: LockSpec, handle: LockHandle): HandlerOutcome<Reply> {
  const { client, target } = call;
  try {
    // Somebody may have changed the mode while the lock was waited for.
    call.permit?.();
  } catch (refusal) {
    target.locks.cancel(client.uuid, [handle]);
    throw refusal;
  }
  if (spec.type === 'active') {
    client.activeLocks.add(handle);
    target.undrained.delete(client);
    return { reply: { handle, granted: true } };
  }
  const attr = target.store.inode(spec.fid as Fid);
  if (attr === undefined) {
    target.locks.cancel(client.uuid, [handle]);
    throw new FsError('ESTALE', `inode ${spec.fid} went away while its lock was waited for`);
  }
  return { reply: { handle, granted: true, attr } };
}

/** Answers at once. If the lock waits, a CAST tells the client when it is granted. */
function flock(call: ServedCall, request: Request): HandlerOutcome<Reply> {
  const { fid, flock: range } = request;
  if (fid === undefined || range === undefined) throw new FsError('EPROTO', 'a flock of nothing');
  needInode(call.target.store, fid);
  // It says that the client had the lock before others, and whatever its limit is.
  if (request.sequence !== undefined && !call.client.reclaims)
    throw new FsError('EPROTO', 'it names the turn of a lock, and does not recover');
  const grant = call.target.locks.flock(
    call.client.uuid,
    fid,
    range,
    request.wait === true,
    request.sequence,
  );
  return { reply: { handle: grant.handle, granted: grant.granted, sequence: grant.sequence } };
}

export function cancel(
  call: ServedCall,
  request: RequestOf<typeof Cancel>,
): HandlerOutcome<ReplyOf<typeof Cancel>> {
  const { client, target } = call;
  for (const handle of request.handles) noteCancelled(client, handle);
  target.locks.cancel(client.uuid, request.handles);
  return { reply: {} };
}

export function testFlock(
  call: ServedCall,
  request: RequestOf<typeof TestFlock>,
): HandlerOutcome<ReplyOf<typeof TestFlock>> {
  const { client, target } = call;
  const conflict = target.locks.testFlock(client.uuid, request.fid, request.flock);
  return { reply: { conflict: conflict === undefined ? undefined : rangeFor(client.features, conflict) } };
}

export function unflock(
  call: ServedCall,
  request: RequestOf<typeof Unflock>,
): HandlerOutcome<ReplyOf<typeof Unflock>> {
  call.target.locks.unflock(call.client.uuid, request.fid, request.flock);
  return { reply: {} };
}
