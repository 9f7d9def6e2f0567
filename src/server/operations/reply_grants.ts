/**
 * Cache locks that go with a reply because the client asked for them (`want`). The server grants a lock only if it need not
 * call anybody back: the operation holds its server locks, so nothing can be in the way of PARENT and ATTR. It does not grant
 * a lock that the client holds already.
 */

import { isDir, isRegular } from '../../base/attr.js';
import type { Fid } from '../../base/ids.js';
import type { LockSpec } from '../../dlm/api.js';
import type { Inode } from '../../storage/api.js';
import { BIT_ATTR, BIT_UPDATE, type GrantMessage } from '../../wire/lock.js';
import { WANT_ATTR, WANT_DATA_READ, WANT_DATA_WRITE, WANT_PARENT } from '../../wire/meta.js';
import type { ServedCall } from '../target/served_call.js';
import { dataLock, inodeLock } from './with_locks.js';

/** All bits that cached attributes need: a directory's size and times change with its names. */
export function attrBits(mode: number): number {
  return isDir(mode) ? BIT_UPDATE | BIT_ATTR : BIT_ATTR;
}

export function grantParent(call: ServedCall, want: number, parent: Fid, into: GrantMessage[]): void {
  if ((want & WANT_PARENT) !== 0) grant(call, inodeLock(parent, 'PR', BIT_UPDATE | BIT_ATTR), into);
}

/** @returns whether the client has the lock. */
export function grantInode(call: ServedCall, want: number, inode: Inode, into: GrantMessage[]): boolean {
  return (want & WANT_ATTR) !== 0 && grant(call, attrLock(inode), into);
}

export function attrLock(inode: Inode): LockSpec {
  return inodeLock(inode.fid, 'PR', attrBits(inode.mode));
}

/** @returns whether the client has a data lock. Then the attributes of the store, or of the client itself, are exact. */
export function grantData(call: ServedCall, want: number, inode: Inode, into: GrantMessage[]): boolean {
  if ((want & (WANT_DATA_READ | WANT_DATA_WRITE)) === 0 || !isRegular(inode.mode)) return false;
  if ((want & WANT_DATA_WRITE) !== 0 && grant(call, dataLock(inode.fid, 'PW'), into)) return true;
  return (want & WANT_DATA_READ) !== 0 && grant(call, dataLock(inode.fid, 'PR'), into);
}

function grant(call: ServedCall, spec: LockSpec, into: GrantMessage[]): boolean {
  // The client replays its locks in a request of their own.
  if (call.isReplay) return false;
  const { locks } = call.target;
  // The client has what it wants. Thousands of equal locks would make every look at the resource slow.
  if (locks.covers(call.client.uuid, spec)) return true;
  if (call.target.runtime.faults.strikes('grant.refuse')) return false;
  const handle = locks.tryEnqueue(call.client.uuid, spec);
  if (handle === undefined) return false;
  // If a grant were lost with its reply, the client could never give it back.
  call.keepReply();
  const type = spec.type === 'data' ? 'data' : 'inode';
  into.push({
    handle,
    fid: spec.fid as Fid,
    type,
    mode: spec.mode,
    bits: spec.bits === 0 ? undefined : spec.bits,
  });
  return true;
}
