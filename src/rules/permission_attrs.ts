/**
 * Who may change attributes and extended attributes: setattr_prepare(), chown_ok(), chgrp_ok() and setattr_should_drop_suidgid()
 * in linux/fs/attr.c, mode_strip_sgid() in linux/fs/inode.c, xattr_permission() in linux/fs/xattr.c, cap_inode_setxattr() in
 * linux/security/commoncap.c, vfs_set_acl() in linux/fs/posix_acl.c. As in permission.ts nobody has capabilities.
 *
 * Some requests are not refused, but do less than they ask: a set-group-id bit is dropped. Those functions return what is to be
 * done.
 */

import {
  type Attr,
  isDir,
  isRegular,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFMT,
  S_ISGID,
  S_ISVTX,
  SET_ID_BITS,
} from '../base/attr.js';
import { FsError } from '../base/errno.js';
import type { Inode, Reader } from '../storage/api.js';
import { ACL_ACCESS } from './acl.js';
import type { NewObject } from './create.js';
import { type Caller, isInGroup, isOwner, MAY_READ, MAY_WRITE, mayUse, needAccess } from './permission.js';
import type { AttrChanges } from './setattr.js';

const S_IXGRP = 0o010;

/**
 * @param mayWrite the session may write the file through a handle that is open, whatever its mode says now.
 * @throws FsError EPERM, EACCES.
 */
export function checkAttrChange(
  reader: Reader,
  inode: Inode,
  changes: AttrChanges,
  caller: Caller,
  mayWrite: () => boolean,
): void {
  const { mode, uid, gid, sizeBytes, atime, mtime, ctime, atimeNow, mtimeNow, killSuidgid } = changes;
  const owns = isOwner(caller, inode);
  if (uid !== undefined && !(owns && uid === inode.uid)) throw notPermitted(inode, 'its owner stays');
  if (gid !== undefined && !(owns && (gid === inode.gid || isInGroup(caller, gid)))) {
    throw notPermitted(inode, `it is not this caller's to give to group ${gid}`);
  }
  if (mode !== undefined) {
    if (!owns) throw notPermitted(inode, 'only its owner may change the mode');
    checkSetId(caller, inode.mode, mode, inode.mode);
  }
  const setsTimes = atime !== undefined || mtime !== undefined || ctime !== undefined;
  if (setsTimes && !owns) throw notPermitted(inode, 'only its owner may set its times');
  const touches = atimeNow === true || mtimeNow === true;
  const writes = sizeBytes !== undefined || (killSuidgid === true && !owns);
  if ((writes || (touches && !owns)) && !mayWrite()) needAccess(reader, inode, caller, MAY_WRITE);
}

function notPermitted({ fid }: Inode, why: string): FsError {
  return new FsError('EPERM', `inode ${fid}: ${why}`);
}

/**
 * What root of a client meant as root's program must not become nobody's. (On a directory the bit gives nobody anything.)
 * @throws FsError EPERM
 */
export function checkSetId({ wasRoot }: Caller, type: number, asked: number, before = 0): void {
  const adds = asked & ~before & SET_ID_BITS;
  if (wasRoot && adds !== 0 && !isDir(type)) {
    throw new FsError('EPERM', 'root is nobody here, and a set-id program of nobody would run as nobody');
  }
}

/** What is done of a change that is permitted. */
export function permittedChange<C extends AttrChanges>(inode: Inode, changes: C, caller: Caller): C {
  let { mode, killSuidgid } = changes;
  if (mode !== undefined && !isInGroup(caller, changes.gid ?? inode.gid)) mode &= ~S_ISGID;
  const isGiven = changes.uid !== undefined || changes.gid !== undefined;
  if (!isDir(inode.mode) && (isGiven || changes.sizeBytes !== undefined)) killSuidgid = true;
  return { ...changes, mode, killSuidgid };
}

/** mknod(2) of devices. @throws FsError EPERM */
export function checkNewType({ mode, rdev = 0 }: Pick<NewObject, 'mode' | 'rdev'>): void {
  const type = mode & S_IFMT;
  // A character device 0:0 hides a name in overlayfs, and opens nothing.
  const isDevice = type === S_IFBLK || (type === S_IFCHR && rdev !== 0);
  if (isDevice) throw new FsError('EPERM', 'only root may make devices');
}

/** The mode with which the object is made. */
export function permittedMode(directory: Pick<Attr, 'mode' | 'gid'>, mode: number, caller: Caller): number {
  if ((mode & (S_ISGID | S_IXGRP)) !== (S_ISGID | S_IXGRP) || (mode & S_IFMT) === S_IFDIR) return mode;
  if ((directory.mode & S_ISGID) === 0 || isInGroup(caller, directory.gid)) return mode;
  return mode & ~S_ISGID;
}

/** @throws FsError ENODATA, EACCES. */
export function checkXattrRead(reader: Reader, inode: Inode, name: string, caller: Caller): void {
  if (name.startsWith('trusted.')) throw new FsError('ENODATA', 'only root sees trusted attributes');
  if (!name.startsWith('user.')) return;
  if (!hasUserXattrs(inode)) throw new FsError('ENODATA', 'it has no user attributes');
  needAccess(reader, inode, caller, MAY_READ);
}

/** Whether a list of the inode's attributes shows this one. */
export function isListed(name: string): boolean {
  return !name.startsWith('trusted.');
}

/** @throws FsError EPERM, EACCES. */
export function checkXattrWrite(reader: Reader, inode: Inode, name: string, caller: Caller): void {
  if (name.startsWith('trusted.') || name.startsWith('security.')) {
    throw new FsError('EPERM', `only root sets ${name}`);
  }
  const owns = isOwner(caller, inode);
  if (name.startsWith('user.')) {
    const isOthersSticky = isDir(inode.mode) && (inode.mode & S_ISVTX) !== 0 && !owns;
    if (!hasUserXattrs(inode) || isOthersSticky) throw notPermitted(inode, 'it takes no user attributes');
    needAccess(reader, inode, caller, MAY_WRITE);
    return;
  }
  // An ACL. What the inode cannot have, whoever asks, is refused in its own words.
  if (!owns) throw notPermitted(inode, 'only its owner may set an ACL');
}

function hasUserXattrs({ mode }: Inode): boolean {
  return isRegular(mode) || isDir(mode);
}

/** Whether an access ACL that this caller sets takes the set-group-id bit. */
export function aclKillsSgid(inode: Inode, name: string, caller: Caller): boolean {
  return name === ACL_ACCESS && !isInGroup(caller, inode.gid);
}

/** Whether the caller may have the content of the file, without a handle. */
export function mayHaveData(reader: Reader, inode: Inode, caller: Caller, mode: 'PR' | 'PW'): boolean {
  return mayUse(reader, inode, caller, mode === 'PW' ? MAY_WRITE : MAY_READ);
}
