/** ENQUEUE, CANCEL and the application locks (flock, fcntl, OFD). */

import { FsError } from '../../base/errno.js';
import type { Fid, LockHandle } from '../../base/ids.js';
import type { LockSpec } from '../../dlm/api.js';
import type { Incoming, Outcome } from '../../rpc/api.js';
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
import type { Call } from '../target/call.js';
import { refused } from '../target/commit_on_sharing.js';
import { noteCancelled } from '../target/eviction.js';
import { needInode } from './checks.js';
import type { Answered } from './with_locks.js';

type Request = RequestOf<typeof Enqueue>;
type Reply = ReplyOf<typeof Enqueue>;

export function enqueue(call: Call, request: Request, incoming: Incoming<Reply>): Answered<Reply> {
  // Lost with its reply, a grant could never be given back.
  call.keepReply();
  if (request.type === 'flock') return flock(call, request);
  const { export: owner, target, header } = call;
  if ((header.flags & FLAG_RECOVERY) !== 0) {
    throw new FsError('EPROTO', 'cache locks are replayed by REPLAY_LOCKS');
  }
  const spec = specOf(request);
  if (spec.type !== 'active' && target.store.inode(spec.fid as Fid) === undefined) {
    return refused(call, new FsError('ESTALE', `inode ${spec.fid} is gone`));
  }
  // The right to send requests: not before the client is known to whatever instance comes next.
  const unknown = spec.type === 'active' && owner.recorded !== undefined;
  const atOnce = unknown ? undefined : target.locks.tryEnqueue(owner.uuid, spec);
  return atOnce === undefined ? enqueueLater(call, spec, incoming) : granted(call, spec, atOnce);
}

async function enqueueLater(call: Call, spec: LockSpec, incoming: Incoming<Reply>): Promise<undefined> {
  const { export: owner, target } = call;
  const wait = new AbortController();
  owner.waits.add(wait);
  // When the connection breaks the client asks again, and waits its turn from there.
  wait.signal.addEventListener('abort', () => call.forget(), { once: true });
  try {
    if (spec.type === 'active') await owner.recorded;
    const handle = await target.locks.enqueue(owner.uuid, spec, wait.signal);
    incoming.answer(granted(call, spec, handle));
  } finally {
    owner.waits.delete(wait);
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

function granted(call: Call, spec: LockSpec, handle: LockHandle): Outcome<Reply> {
  const { export: owner, target } = call;
  if (spec.type === 'active') {
    owner.activeLocks.add(handle);
    target.returning.delete(owner);
    return { reply: { handle, granted: true } };
  }
  const attr = target.store.inode(spec.fid as Fid);
  if (attr === undefined) {
    target.locks.cancel(owner.uuid, [handle]);
    throw new FsError('ESTALE', `inode ${spec.fid} went away while its lock was waited for`);
  }
  return { reply: { handle, granted: true, attr } };
}

/** Answered at once; a lock that waits is told of by CAST. */
function flock(call: Call, request: Request): Outcome<Reply> {
  const { fid, flock: range } = request;
  if (fid === undefined || range === undefined) throw new FsError('EPROTO', 'a flock of nothing');
  needInode(call.target.store, fid);
  const grant = call.target.locks.flock(
    call.export.uuid,
    fid,
    range,
    request.wait === true,
    request.sequence,
  );
  return { reply: { handle: grant.handle, granted: grant.granted, sequence: grant.sequence } };
}

export function cancel(call: Call, request: RequestOf<typeof Cancel>): Outcome<ReplyOf<typeof Cancel>> {
  const { export: owner, target } = call;
  for (const handle of request.handles) noteCancelled(owner, handle);
  target.locks.cancel(owner.uuid, request.handles);
  target.clientCancelled(owner);
  return { reply: {} };
}

export function testFlock(
  call: Call,
  request: RequestOf<typeof TestFlock>,
): Outcome<ReplyOf<typeof TestFlock>> {
  const { export: owner, target } = call;
  const conflict = target.locks.testFlock(owner.uuid, request.fid, request.flock);
  return { reply: { conflict: conflict === undefined ? undefined : rangeFor(owner.features, conflict) } };
}

export function unflock(call: Call, request: RequestOf<typeof Unflock>): Outcome<ReplyOf<typeof Unflock>> {
  call.target.locks.unflock(call.export.uuid, request.fid, request.flock);
  return { reply: {} };
}
