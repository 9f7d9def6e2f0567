/**
 * The rules of chmod, chown, truncate and utimensat, and of the loss of privileges at a write. Whether a caller may do it,
 * and whether it costs the file its privileges, the kernel has decided.
 */

import {
  type Attr,
  isDir,
  isRegular,
  isSymlink,
  S_IFMT,
  S_ISGID,
  S_ISUID,
  type Timespec,
} from '../base/attr.js';
import { FsError } from '../base/errno.js';
import { checkFileEnd, clampTime } from '../base/limits.js';
import type { Inode, Tx } from '../storage/api.js';
import { ACL_ACCESS, aclAfterChmod, encodeAcl, parseAcl } from './acl.js';

export interface AttrChanges {
  readonly mode?: number | undefined;
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
  readonly sizeBytes?: number | undefined;
  readonly atime?: Timespec | undefined;
  readonly mtime?: Timespec | undefined;
  readonly atimeNow?: boolean | undefined;
  readonly mtimeNow?: boolean | undefined;
  readonly ctime?: Timespec | undefined;
  /** Drop S_ISUID, and S_ISGID where group execution is allowed. */
  readonly killSuidgid?: boolean | undefined;
}

const PERMISSIONS = 0o7777;
const S_IXGRP = 0o010;
const CAPABILITY = 'security.capability';

/** @throws FsError EISDIR, EINVAL, EFBIG for a size that the inode cannot have. */
export function checkSetattr({ mode }: Inode, { sizeBytes }: AttrChanges): void {
  if (sizeBytes === undefined) return;
  if (isDir(mode)) throw new FsError('EISDIR');
  if (!isRegular(mode)) throw new FsError('EINVAL', 'it has no size');
  checkFileEnd(sizeBytes);
}

/**
 * Everything but the content.
 * @param inode where a size is set: as the change of the content left it, with the size and times of that.
 */
export function applySetattr(tx: Tx, inode: Inode, changes: AttrChanges, now: Timespec): Inode {
  const after = changed(inode, changes, now);
  applyTies(tx, inode, after, changes);
  tx.putInode(after);
  return after;
}

/** A step of a long cut. What is cut off is gone, whatever becomes of the rest: so are the privileges of what it was. */
export function applyPartOfCut(tx: Tx, inode: Inode, { killSuidgid }: AttrChanges): void {
  if (killSuidgid === true) tx.putInode({ ...inode, mode: withoutPrivileges(inode.mode) });
  dropCapability(tx, inode);
}

/** The inode with these attributes. What else they bring about (applyTies), they bring about only for an inode with xattrs. */
export function changed<I extends Attr>(inode: I, changes: AttrChanges, now: Timespec): I {
  let { mode } = inode;
  if (changes.mode !== undefined) mode = (mode & S_IFMT) | (changes.mode & PERMISSIONS);
  if (changes.killSuidgid === true && !isDir(mode)) mode = withoutPrivileges(mode);
  return {
    ...inode,
    mode,
    uid: changes.uid ?? inode.uid,
    gid: changes.gid ?? inode.gid,
    atime: changes.atimeNow === true ? now : asked(changes.atime, inode.atime),
    mtime: changes.mtimeNow === true ? now : asked(changes.mtime, inode.mtime),
    ctime: asked(changes.ctime, now),
  };
}

function asked(time: Timespec | undefined, otherwise: Timespec): Timespec {
  return time === undefined ? otherwise : clampTime(time);
}

/** S_ISGID without group execution is mandatory locking's mark, no privilege, and stays. */
function withoutPrivileges(mode: number): number {
  const kept = mode & ~S_ISUID;
  return (kept & S_IXGRP) !== 0 ? kept & ~S_ISGID : kept;
}

/** What hangs on mode and owner: the access ACL follows a chmod; file capabilities do not survive a new owner or size. */
function applyTies(tx: Tx, before: Inode, after: Inode, changes: AttrChanges): void {
  if (after.mode !== before.mode && changes.mode !== undefined && !isSymlink(after.mode)) {
    const stored = tx.xattr(after.fid, ACL_ACCESS);
    const acl = stored === undefined ? undefined : parseAcl(stored);
    if (acl !== undefined) tx.putXattr(after.fid, ACL_ACCESS, encodeAcl(aclAfterChmod(acl, after.mode)));
  }
  const owned = changes.uid !== undefined || changes.gid !== undefined;
  if (owned || changes.sizeBytes !== undefined || changes.killSuidgid === true) dropCapability(tx, after);
}

/** Somebody without privileges changes the content. @returns whether the inode had bits that it has no more. */
export function dropPrivileges(tx: Tx, inode: Inode): boolean {
  dropCapability(tx, inode);
  const mode = isDir(inode.mode) ? inode.mode : withoutPrivileges(inode.mode);
  if (mode === inode.mode) return false;
  tx.putInode({ ...inode, mode });
  return true;
}

/** Whether dropPrivileges() would take bits. */
export function hasPrivileges({ mode }: Pick<Attr, 'mode'>): boolean {
  return !isDir(mode) && withoutPrivileges(mode) !== mode;
}

/** File capabilities are of the content that somebody gave them to. */
export function dropCapability(tx: Tx, inode: Inode): void {
  if (tx.xattr(inode.fid, CAPABILITY) !== undefined) tx.removeXattr(inode.fid, CAPABILITY);
}
