/**
 * Cache locks that go with a reply because the client asked for them (`want`). The server grants a lock only if it need not
 * call anybody back: the operation holds its server locks, so nothing can be in the way of PARENT and ATTR. It does not grant
 * a lock that the client holds already. An own lock (UPDATE|ATTR EX on a directory, ATTR EX on what is in it) comes after the
 * shared lock, in addition to it.
 */

import { isDir, isRegular } from '../../base/attr.js';
import type { Fid } from '../../base/ids.js';
import type { LockSpec } from '../../dlm/api.js';
import type { Inode } from '../../storage/api.js';
import { BIT_ATTR, BIT_UPDATE, type GrantMessage } from '../../wire/lock.js';
import {
  WANT_ATTR,
  WANT_DATA_READ,
  WANT_DATA_WRITE,
  WANT_OWN,
  WANT_OWN_FILES,
  WANT_OWN_PARENT,
  WANT_PARENT,
} from '../../wire/meta.js';
import { FEATURE } from '../../wire/session.js';
import type { ServedCall } from '../target/served_call.js';
import { mayHoldData } from './data_access.js';
import { dataLock, inodeLock } from './with_locks.js';

/** All bits that cached attributes need: a directory's size and times change with its names. */
export function attrBits(mode: number): number {
  return isDir(mode) ? BIT_UPDATE | BIT_ATTR : BIT_ATTR;
}

export function grantParent(call: ServedCall, want: number, parent: Fid, into: GrantMessage[]): void {
  if ((want & WANT_PARENT) !== 0) grant(call, inodeLock(parent, 'PR', BIT_UPDATE | BIT_ATTR), into);
  if ((want & WANT_OWN_PARENT) !== 0 && canOwn(call)) grant(call, ownLock(parent), into);
}

/** @returns whether the client has the lock on the attributes. */
export function grantInode(call: ServedCall, want: number, inode: Inode, into: GrantMessage[]): boolean {
  const isGranted = (want & WANT_ATTR) !== 0 && grant(call, attrLock(inode), into);
  if ((want & WANT_OWN) !== 0 && isDir(inode.mode) && canOwn(call)) grant(call, ownLock(inode.fid), into);
  return isGranted;
}

/**
 * An own lock on what was in an own directory before, if nobody else has to do with it: no name of it is elsewhere, and no client
 * that reads or writes it would have to ask for its attributes right away.
 */
export function grantOwnFile(
  call: ServedCall,
  want: number,
  parent: Fid,
  { fid, mode, nlink }: Inode,
  into: GrantMessage[],
): void {
  const { client, target } = call;
  if ((want & WANT_OWN_FILES) === 0 || (client.features & FEATURE.ownFiles) === 0) return;
  if (isDir(mode) || nlink !== 1 || !has(call, ownLock(parent))) return;
  if (target.locks.heldAlone(client.uuid, dataLock(fid, 'EX'))) grant(call, ownFileLock(fid), into);
}

/**
 * For an inode that this BATCH has made: all that `want` asks of the inode itself. The client has changes under these locks
 * already, so no fault refuses them. No other client can have a lock in the way. But if an earlier instance executed the
 * BATCH, an operation of another client may have a lock on a new directory while it waits for the directory above.
 */
export function grantMade(call: ServedCall, want: number, inode: Inode, into: GrantMessage[]): void {
  // The client replays its locks in a request of their own.
  if (call.isReplay) return;
  const specs: LockSpec[] = [];
  if (isRegular(inode.mode) && (want & WANT_DATA_WRITE) !== 0) specs.push(dataLock(inode.fid, 'PW'));
  else if (isRegular(inode.mode) && (want & WANT_DATA_READ) !== 0) specs.push(dataLock(inode.fid, 'PR'));
  if ((want & WANT_ATTR) !== 0) specs.push(attrLock(inode));
  for (const spec of specs) if (!has(call, spec)) put(call, spec, into);
  if ((want & WANT_OWN) === 0 || !isDir(inode.mode)) return;
  const own = ownLock(inode.fid);
  if (!has(call, own) && !put(call, own, into)) call.client.madeUnowned.add(inode.fid);
}

function canOwn(call: ServedCall): boolean {
  return (call.client.features & FEATURE.batch) !== 0;
}

/** Its holder decides alone what is in the directory. */
export function ownLock(directory: Fid): LockSpec {
  return inodeLock(directory, 'EX', BIT_UPDATE | BIT_ATTR);
}

/** Its holder decides alone what the attributes of an inode that is no directory are, and where in own directories its name is. */
export function ownFileLock(fid: Fid): LockSpec {
  return inodeLock(fid, 'EX', BIT_ATTR);
}

export function attrLock(inode: Inode): LockSpec {
  return inodeLock(inode.fid, 'PR', attrBits(inode.mode));
}

/** @returns whether the client has a data lock. Then the attributes of the store, or of the client itself, are exact. */
export function grantData(call: ServedCall, want: number, inode: Inode, into: GrantMessage[]): boolean {
  if ((want & (WANT_DATA_READ | WANT_DATA_WRITE)) === 0 || !isRegular(inode.mode)) return false;
  const may = (mode: 'PR' | 'PW'): boolean => !call.client.isRestricted || mayHoldData(call, inode, mode);
  if ((want & WANT_DATA_WRITE) !== 0 && may('PW') && grant(call, dataLock(inode.fid, 'PW'), into))
    return true;
  return (want & WANT_DATA_READ) !== 0 && may('PR') && grant(call, dataLock(inode.fid, 'PR'), into);
}

function grant(call: ServedCall, spec: LockSpec, into: GrantMessage[]): boolean {
  // The client replays its locks in a request of their own.
  if (call.isReplay) return false;
  if (has(call, spec)) return true;
  return !call.target.runtime.faults.strikes('grant.refuse') && put(call, spec, into);
}

/** The client has what it wants. Thousands of equal locks would make every look at the resource slow. */
function has({ target, client }: ServedCall, spec: LockSpec): boolean {
  return target.locks.covers(client.uuid, spec);
}

function put(call: ServedCall, spec: LockSpec, into: GrantMessage[]): boolean {
  const handle = call.target.locks.tryEnqueue(call.client.uuid, spec);
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
