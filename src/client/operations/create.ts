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

/** The object, under this FID. */
export function newObject(
  op: Caller,
  fid: Fid,
  parent: Fid,
  name: Name | undefined,
  { mode, umask, rdev, linkText }: NewObject,
): Omit<Creation, 'exclusive'> {
  return { parent, name, fid, mode, umask, uid: op.uid, gid: op.gid, rdev, target: linkText };
}
