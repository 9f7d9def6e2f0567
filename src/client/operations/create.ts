/** A new object as the client describes it: for mknod, mkdir and symlink (names.ts), and for an open that creates (opens.ts). */

import type { Fid, Name } from '../../base/ids.js';
import { isPromise } from '../../base/maybe_promise.js';
import type { Caller, NewObject } from '../api.js';
import { ACROSS_SESSIONS, type TargetSession } from '../session/target_session.js';
import type { Creation } from './namespace.js';

/** The object, under a FID that was never used. */
export async function newObject(
  op: Caller,
  target: TargetSession,
  parent: Fid,
  name: Name | undefined,
  { mode, umask, rdev, linkText }: NewObject,
): Promise<Omit<Creation, 'exclusive'>> {
  const taken = target.fids.take();
  const fid = isPromise(taken) ? await ACROSS_SESSIONS.wait(taken) : taken;
  return { parent, name, fid, mode, umask, uid: op.uid, gid: op.gid, rdev, target: linkText };
}
