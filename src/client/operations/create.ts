/** CREATE as the client sends it: for mknod, mkdir and symlink (names.ts), and for an open that creates (opens.ts). */

import { isRegular, S_IFDIR, S_IFMT } from '../../base/attr.js';
import type { Fid, Name } from '../../base/ids.js';
import { isPromise } from '../../base/maybe_promise.js';
import type { Create } from '../../wire/meta.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import type { Caller, NewObject } from '../api.js';
import type { ClientContext } from '../cache/context.js';
import { ACROSS_SESSIONS, type TargetSession } from '../session/target_session.js';

/** The fields of a CREATE that describe the new object, under a FID that was never used. */
export async function newObject(
  op: Caller,
  target: TargetSession,
  parent: Fid,
  name: Name | undefined,
  { mode, umask, rdev, linkText }: NewObject,
): Promise<Omit<RequestOf<typeof Create>, 'exclusive' | 'want'>> {
  const taken = target.fids.take();
  const fid = isPromise(taken) ? await ACROSS_SESSIONS.wait(taken) : taken;
  return { parent, name, fid, mode, umask, uid: op.uid, gid: op.gid, rdev, target: linkText };
}

/** Applies what the reply to a CREATE brings. To be called in its apply(). */
export function applyCreate(
  context: ClientContext,
  target: TargetSession,
  { parent, name, want }: RequestOf<typeof Create>,
  reply: ReplyOf<typeof Create>,
): void {
  const { attr } = reply;
  context.beliefs.applyGrants(target, { want, parent, inodes: [attr] }, reply.locks);
  context.beliefs.applyAttr(target, attr);
  if (reply.parentAttr !== undefined) context.beliefs.applyAttr(target, reply.parentAttr);
  if (name !== undefined) context.beliefs.applyName(target, parent, name, attr.fid);
  // No other client could have put a name into it, and from now on none can before the server calls the lock back.
  const empty = !reply.existed && (attr.mode & S_IFMT) === S_IFDIR;
  if (empty && context.beliefs.holdsNames(target, attr.fid)) context.names.setComplete(attr.fid);
  if (isRegular(attr.mode) && target.locks.holds('data', attr.fid)) context.files.of(attr.fid);
}
