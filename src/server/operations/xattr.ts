/** GETXATTR, LISTXATTR, SETXATTR, REMOVEXATTR. src/rules/xattr.ts has their rules, and how ACL and mode follow each other. */

import type { Timespec } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import type { Incoming } from '../../rpc/api.js';
import { needInode } from '../../rules/checks.js';
import { aclKillsSgid, isListed } from '../../rules/permission_attrs.js';
import {
  applyRemovexattr,
  applySetxattr,
  checkRemovexattr,
  checkSetxattr,
  checkXattrChange,
  checkXattrName,
} from '../../rules/xattr.js';
import type { Inode, Tx } from '../../storage/api.js';
import { BIT_ATTR } from '../../wire/lock.js';
import type { Getxattr, Listxattr, Removexattr, Setxattr } from '../../wire/meta.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import type { ServedCall } from '../target/served_call.js';
import { type Answered, inodeLock, locked } from './with_locks.js';

function reading<R>(call: ServedCall, fid: Fid, incoming: Incoming<R>, run: () => R): Answered<R> {
  const { store } = call.target;
  return locked(
    call,
    incoming,
    () => {
      needInode(store, fid);
      return [inodeLock(fid, 'PR', BIT_ATTR)];
    },
    () => ({ reply: run() }),
  );
}

export function getxattr(
  call: ServedCall,
  request: RequestOf<typeof Getxattr>,
  incoming: Incoming<ReplyOf<typeof Getxattr>>,
): Answered<ReplyOf<typeof Getxattr>> {
  checkXattrName(request.name);
  return reading(call, request.fid, incoming, () => {
    const value = call.target.store.xattr(request.fid, request.name);
    if (value === undefined) throw new FsError('ENODATA');
    return { value };
  });
}

export function listxattr(
  call: ServedCall,
  request: RequestOf<typeof Listxattr>,
  incoming: Incoming<ReplyOf<typeof Listxattr>>,
): Answered<ReplyOf<typeof Listxattr>> {
  return reading(call, request.fid, incoming, () => {
    const names = call.target.store.xattrNames(request.fid);
    return { names: call.caller === undefined ? names : names.filter(isListed) };
  });
}

/** Runs a change of the inode's attributes under its ATTR lock. */
function changing(
  call: ServedCall,
  { fid, time }: { readonly fid: Fid; readonly time?: Timespec | undefined },
  incoming: Incoming<{ readonly attr: Inode }>,
  change: (tx: Tx, inode: Inode, now: Timespec) => Inode,
): Answered<{ readonly attr: Inode }> {
  const { store } = call.target;
  return locked(
    call,
    incoming,
    () => {
      needInode(store, fid);
      return [inodeLock(fid, 'EX', BIT_ATTR)];
    },
    () => {
      const { result, transno } = call.execute((tx) => change(tx, needInode(tx, fid), call.time(time)), fid);
      return { reply: { attr: result }, transno };
    },
  );
}

export function setxattr(
  call: ServedCall,
  request: RequestOf<typeof Setxattr>,
  incoming: Incoming<ReplyOf<typeof Setxattr>>,
): Answered<ReplyOf<typeof Setxattr>> {
  checkXattrChange(request);
  return changing(call, request, incoming, (tx, inode, now) => {
    checkSetxattr(tx, inode, request);
    const killSgid =
      request.killSgid === true ||
      (call.caller !== undefined && aclKillsSgid(inode, request.name, call.caller));
    return applySetxattr(tx, inode, { ...request, killSgid }, now);
  });
}

export function removexattr(
  call: ServedCall,
  request: RequestOf<typeof Removexattr>,
  incoming: Incoming<ReplyOf<typeof Removexattr>>,
): Answered<ReplyOf<typeof Removexattr>> {
  const { name } = request;
  checkXattrName(name);
  return changing(call, request, incoming, (tx, inode, now) => {
    checkRemovexattr(tx, inode, name);
    return applyRemovexattr(tx, inode, name, now);
  });
}
