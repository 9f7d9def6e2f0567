/**
 * The rules of setxattr(2) and removexattr(2). The namespaces are those of Linux: user., trusted., security. and the two POSIX
 * ACLs of system.; who may read or set them is the kernel's decision. ACLs are tied to the mode here, see acl.ts.
 */

import { isDir, isSymlink, S_ISGID, type Timespec } from '../base/attr.js';
import { FsError } from '../base/errno.js';
import type { Fid } from '../base/ids.js';
import type { Inode, Reader, Tx } from '../storage/api.js';
import { ACL_ACCESS, ACL_DEFAULT, isMinimal, modeOfAcl, parseAcl } from './acl.js';

export interface XattrChange {
  readonly name: string;
  readonly value: Uint8Array;
  /** XATTR_CREATE 1, XATTR_REPLACE 2. */
  readonly flags: number;
  /** An access ACL that somebody outside the group sets takes the set-group-id bit. */
  readonly killSgid?: boolean | undefined;
}

const NAMESPACES = ['user.', 'trusted.', 'security.'] as const;
const XATTR_CREATE = 1;
const XATTR_REPLACE = 2;
/** listxattr(2) cannot return more: an attribute past it could never be listed. */
const LIST_BYTES_MAX = 65_536;

function isAcl(name: string): boolean {
  return name === ACL_ACCESS || name === ACL_DEFAULT;
}

/** @throws FsError EOPNOTSUPP, EINVAL. */
export function checkXattrName(name: string): void {
  if (isAcl(name)) return;
  const namespace = NAMESPACES.find((prefix) => name.startsWith(prefix));
  if (namespace === undefined) throw new FsError('EOPNOTSUPP', 'no such namespace of attributes');
  if (name.length === namespace.length) throw new FsError('EINVAL', 'a namespace is not a name');
}

/** What can be refused without a look at the inode. @throws FsError EOPNOTSUPP, EINVAL. */
export function checkXattrChange({ name, flags }: XattrChange): void {
  checkXattrName(name);
  if ((flags & ~(XATTR_CREATE | XATTR_REPLACE)) !== 0) throw new FsError('EINVAL', `flags ${flags}`);
}

/** @throws FsError EEXIST, ENODATA, ENOSPC; for ACLs EOPNOTSUPP, EINVAL, EACCES. */
export function checkSetxattr(reader: Reader, inode: Inode, { name, value, flags }: XattrChange): void {
  if (isAcl(name)) {
    if (isSymlink(inode.mode)) throw new FsError('EOPNOTSUPP', 'symbolic links have no ACL');
    const isNone = parseAcl(value) === undefined;
    if (name === ACL_DEFAULT && !isNone && !isDir(inode.mode)) {
      throw new FsError('EACCES', 'only directories have a default ACL');
    }
    return;
  }
  const known = reader.xattr(inode.fid, name);
  if ((flags & XATTR_CREATE) !== 0 && known !== undefined) throw new FsError('EEXIST');
  if ((flags & XATTR_REPLACE) !== 0 && known === undefined) throw new FsError('ENODATA');
  if (known === undefined) checkRoomForName(reader, inode.fid, name);
}

function checkRoomForName(reader: Reader, fid: Fid, name: string): void {
  let bytes = name.length + 1;
  for (const other of reader.xattrNames(fid)) bytes += other.length + 1;
  if (bytes > LIST_BYTES_MAX)
    throw new FsError('ENOSPC', 'the names of all attributes are too long together');
}

export function applySetxattr(tx: Tx, inode: Inode, change: XattrChange, now: Timespec): Inode {
  const { name, value } = change;
  let { mode } = inode;
  if (name === ACL_ACCESS) mode = putAccessAcl(tx, inode, change);
  else if (name === ACL_DEFAULT) putDefaultAcl(tx, inode.fid, value);
  else tx.putXattr(inode.fid, name, value);
  return touched(tx, { ...inode, mode }, now);
}

/**
 * An access ACL that says no more than a mode is kept as the mode; an ACL without entries takes it away.
 * @returns the mode that goes with it.
 */
function putAccessAcl(tx: Tx, { fid, mode }: Inode, { name, value, killSgid }: XattrChange): number {
  const acl = parseAcl(value);
  if (acl === undefined || isMinimal(acl)) removeIfThere(tx, fid, name);
  else tx.putXattr(fid, name, value);
  if (acl === undefined) return mode;
  const tied = modeOfAcl(acl, mode);
  return killSgid === true ? tied & ~S_ISGID : tied;
}

function putDefaultAcl(tx: Tx, fid: Fid, value: Uint8Array): void {
  if (parseAcl(value) === undefined) removeIfThere(tx, fid, ACL_DEFAULT);
  else tx.putXattr(fid, ACL_DEFAULT, value);
}

/** @throws FsError ENODATA */
export function checkRemovexattr(reader: Reader, { fid }: Inode, name: string): void {
  // An ACL that is not there is as good as removed: setfacl --remove-all counts on it.
  if (!isAcl(name) && reader.xattr(fid, name) === undefined) throw new FsError('ENODATA');
}

export function applyRemovexattr(tx: Tx, inode: Inode, name: string, now: Timespec): Inode {
  removeIfThere(tx, inode.fid, name);
  return touched(tx, inode, now);
}

function removeIfThere(tx: Tx, fid: Fid, name: string): void {
  if (tx.xattr(fid, name) !== undefined) tx.removeXattr(fid, name);
}

function touched(tx: Tx, inode: Inode, now: Timespec): Inode {
  const after = {
    ...inode,
    ctime: now,
    noXattrs: tx.xattrNames(inode.fid).length === 0 ? (true as const) : undefined,
  };
  tx.putInode(after);
  return after;
}
