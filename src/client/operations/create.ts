/** A new object as the client describes it: for mknod, mkdir and symlink (names.ts), and for an open that creates (opens.ts). */

import type { Fid, Name } from '../../base/ids.js';
import { isPromise, type MaybePromise } from '../../base/maybe_promise.js';
import { interruptible } from '../../base/wait.js';
import type { Caller, NewObject } from '../api.js';
import { ACROSS_SESSIONS, type TargetSession } from '../session/target_session.js';
import type { Creation } from './namespace.js';

/** A FID that was never used. @throws FsError EINTR (as a rejection) */
export function freshFid({ signal }: Caller, { fids }: Pick<TargetSession, 'fids'>): MaybePromise<Fid> {
  const taken = fids.take();
  return isPromise(taken) ? ACROSS_SESSIONS.wait(interruptible(taken, signal)) : taken;
}

/** The object, under a FID that was never used. @throws FsError EINTR (as a rejection) */
export async function newObject(
  op: Caller,
  target: Pick<TargetSession, 'fids'>,
  parent: Fid,
  name: Name | undefined,
  { mode, umask, rdev, linkText }: NewObject,
): Promise<Omit<Creation, 'exclusive'>> {
  const taken = freshFid(op, target);
  const fid = isPromise(taken) ? await ACROSS_SESSIONS.wait(taken) : taken;
  return { parent, name, fid, mode, umask, uid: op.uid, gid: op.gid, rdev, target: linkText };
}
