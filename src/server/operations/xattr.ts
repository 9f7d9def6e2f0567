/**
 * Extended attributes. The namespaces are those of Linux: user., trusted., security. and the two POSIX ACLs of system.;
 * who may read or set them is the kernel's decision. ACLs are tied to the mode here, see acl.ts.
 */

import { isDir, isSymlink, S_ISGID, type Timespec } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import type { Incoming } from '../../rpc/api.js';
import type { Inode, Tx } from '../../storage/api.js';
import { BIT_ATTR } from '../../wire/lock.js';
import type { Getxattr, Listxattr, Removexattr, Setxattr } from '../../wire/meta.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import type { ServedCall } from '../target/served_call.js';
import { ACL_ACCESS, ACL_DEFAULT, isMinimal, modeOfAcl, parseAcl } from './acl.js';
import { needInode } from './checks.js';
import { type Answered, inodeLock, locked } from './with_locks.js';

const NAMESPACES = ['user.', 'trusted.', 'security.'] as const;
const XATTR_CREATE = 1;
const XATTR_REPLACE = 2;
/** listxattr(2) cannot return more: an attribute past it could never be listed. */
const LIST_BYTES_MAX = 65_536;

function checkName(name: string): void {
  if (name === ACL_ACCESS || name === ACL_DEFAULT) return;
  const namespace = NAMESPACES.find((prefix) => name.startsWith(prefix));
  if (namespace === undefined) throw new FsError('EOPNOTSUPP', 'no such namespace of attributes');
  if (name.length === namespace.length) throw new FsError('EINVAL', 'a namespace is not a name');
}

function isAcl(name: string): boolean {
  return name === ACL_ACCESS || name === ACL_DEFAULT;
}

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
  checkName(request.name);
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
  return reading(call, request.fid, incoming, () => ({ names: call.target.store.xattrNames(request.fid) }));
}

/** Runs a change of the inode's attributes under its ATTR lock. */
function changing(
  call: ServedCall,
  { fid, time }: { readonly fid: Fid; readonly time?: Timespec | undefined },
  incoming: Incoming<{ readonly attr: Inode }>,
  change: (tx: Tx, inode: Inode) => Inode,
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
      const { result, transno } = call.execute((tx) => {
        const inode = { ...change(tx, needInode(tx, fid)), ctime: call.time(time) };
        tx.putInode(inode);
        return inode;
      }, fid);
      return { reply: { attr: result }, transno };
    },
  );
}

export function setxattr(
  call: ServedCall,
  request: RequestOf<typeof Setxattr>,
  incoming: Incoming<ReplyOf<typeof Setxattr>>,
): Answered<ReplyOf<typeof Setxattr>> {
  const { fid, name, value, flags } = request;
  checkName(name);
  if ((flags & ~(XATTR_CREATE | XATTR_REPLACE)) !== 0) throw new FsError('EINVAL', `flags ${flags}`);
  return changing(call, request, incoming, (tx, inode) => {
    if (isAcl(name)) return setAcl(tx, inode, name, value, request.killSgid === true);
    const known = tx.xattr(fid, name);
    if ((flags & XATTR_CREATE) !== 0 && known !== undefined) throw new FsError('EEXIST');
    if ((flags & XATTR_REPLACE) !== 0 && known === undefined) throw new FsError('ENODATA');
    if (known === undefined) checkRoomForName(tx, fid, name);
    tx.putXattr(fid, name, value);
    return inode;
  });
}

function checkRoomForName(tx: Tx, fid: Fid, name: string): void {
  let bytes = name.length + 1;
  for (const other of tx.xattrNames(fid)) bytes += other.length + 1;
  if (bytes > LIST_BYTES_MAX)
    throw new FsError('ENOSPC', 'the names of all attributes are too long together');
}

/** An access ACL that says no more than a mode is kept as the mode; an ACL without entries takes it away. */
function setAcl(tx: Tx, inode: Inode, name: string, value: Uint8Array, killSgid: boolean): Inode {
  if (isSymlink(inode.mode)) throw new FsError('EOPNOTSUPP', 'symbolic links have no ACL');
  const acl = parseAcl(value);
  if (name === ACL_DEFAULT) {
    if (!isDir(inode.mode)) throw new FsError('EACCES', 'only directories have a default ACL');
    if (acl === undefined) removeIfThere(tx, inode.fid, name);
    else tx.putXattr(inode.fid, name, value);
    return inode;
  }
  if (acl === undefined || isMinimal(acl)) removeIfThere(tx, inode.fid, name);
  else tx.putXattr(inode.fid, name, value);
  if (acl === undefined) return inode;
  const mode = modeOfAcl(acl, inode.mode);
  return { ...inode, mode: killSgid ? mode & ~S_ISGID : mode };
}

function removeIfThere(tx: Tx, fid: Fid, name: string): void {
  if (tx.xattr(fid, name) !== undefined) tx.removeXattr(fid, name);
}

export function removexattr(
  call: ServedCall,
  request: RequestOf<typeof Removexattr>,
  incoming: Incoming<ReplyOf<typeof Removexattr>>,
): Answered<ReplyOf<typeof Removexattr>> {
  const { fid, name } = request;
  checkName(name);
  return changing(call, request, incoming, (tx, inode) => {
    // An ACL that is not there is as good as removed: setfacl --remove-all counts on it.
    if (!isAcl(name) && tx.xattr(fid, name) === undefined) throw new FsError('ENODATA');
    removeIfThere(tx, fid, name);
    return inode;
  });
}
