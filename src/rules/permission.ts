/**
 * Who may do what to an inode, for sessions whose kernel is not believed: the server decides then as Linux does on a local
 * filesystem. Sources: generic_permission() and acl_permission_check() in linux/fs/namei.c, posix_acl_permission() in
 * linux/fs/posix_acl.c, may_delete() and check_sticky() in linux/fs/namei.c.
 *
 * Nobody has capabilities here: root of such a session is nobody (65534), so no rule knows root. Pure functions; what the state
 * lets a caller do through a handle that is open already is the server's business.
 */

import { type Attr, isDir, isRegular, S_ISVTX } from '../base/attr.js';
import { FsError } from '../base/errno.js';
import type { Fid } from '../base/ids.js';
import type { Inode, Reader } from '../storage/api.js';
import { ACL_ACCESS, type Acl, parseAcl, TAG } from './acl.js';

/** rwx bits, as in a mode. */
export const MAY_READ = 4;
export const MAY_WRITE = 2;
export const MAY_EXEC = 1;

/** A process, as the server counts it: never root, and in no group of root's. */
export interface Caller {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  /** Root of its own host has asked. */
  readonly wasRoot: boolean;
}

/** Who asks for it, as the client says. */
export interface ClaimedCaller {
  readonly uid: number;
  readonly gid: number;
  readonly groups?: readonly number[] | undefined;
}

/** The kernel's overflowuid and overflowgid: what nobody has a name for. */
export const NOBODY_ID = 65_534;
/** No user and no group has it: chown(2) takes it for "leave it". */
const NO_ID = 0xffff_ffff;

/** Root counts as nobody, and so does a caller that the client does not name. */
export function squashed(claimed: ClaimedCaller | undefined): Caller {
  if (claimed === undefined) return { uid: NOBODY_ID, gid: NOBODY_ID, groups: [], wasRoot: false };
  const { uid, gid, groups = [] } = claimed;
  return {
    uid: squashedId(uid),
    gid: squashedId(gid),
    groups: groups.filter((each) => each !== 0 && each !== NO_ID),
    wasRoot: uid === 0,
  };
}

function squashedId(id: number): number {
  return id === 0 || id === NO_ID ? NOBODY_ID : id;
}

export function isInGroup({ gid, groups }: Caller, group: number): boolean {
  return gid === group || groups.includes(group);
}

export function isOwner({ uid }: Caller, inode: Pick<Attr, 'uid'>): boolean {
  return uid === inode.uid;
}

/**
 * @param acl the inode's access ACL, if it has one.
 * @param wants rwx bits: all of them are needed.
 */
export function mayAccess(
  { mode, uid, gid }: Pick<Attr, 'mode' | 'uid' | 'gid'>,
  acl: Acl | undefined,
  caller: Caller,
  wants: number,
): boolean {
  if (caller.uid === uid) return allows(mode >> 6, wants);
  // Linux looks at the ACL only if the mode gives the group class anything: the group bits show the mask.
  if (acl !== undefined && (mode & 0o070) !== 0) return aclAllows(acl, gid, caller, wants);
  return allows(isInGroup(caller, gid) ? mode >> 3 : mode, wants);
}

function allows(perm: number, wants: number): boolean {
  return (wants & ~perm & 7) === 0;
}

/** For everybody but the owner. */
function aclAllows(acl: Acl, gid: number, caller: Caller, wants: number): boolean {
  let isInSomeGroup = false;
  for (const { tag, id, perm } of acl) {
    switch (tag) {
      case TAG.user:
        if (id === caller.uid) return allows(perm & maskOf(acl), wants);
        break;
      case TAG.groupObj:
      case TAG.group:
        if (!isInGroup(caller, tag === TAG.groupObj ? gid : id)) break;
        isInSomeGroup = true;
        // Any group that gives all of it will do.
        if (allows(perm, wants)) return allows(perm & maskOf(acl), wants);
        break;
      case TAG.other:
        return !isInSomeGroup && allows(perm, wants);
      default:
        break;
    }
  }
  return false;
}

function maskOf(acl: Acl): number {
  return acl.find(({ tag }) => tag === TAG.mask)?.perm ?? 7;
}

export function aclOf(
  reader: Pick<Reader, 'xattr'>,
  { fid, noXattrs }: Pick<Attr, 'fid' | 'noXattrs'>,
): Acl | undefined {
  const stored = noXattrs === true ? undefined : reader.xattr(fid, ACL_ACCESS);
  return stored === undefined ? undefined : parseAcl(stored);
}

/** As mayAccess(), with the ACL that is stored. */
export function mayUse(reader: Pick<Reader, 'xattr'>, inode: Inode, caller: Caller, wants: number): boolean {
  return mayAccess(inode, aclOf(reader, inode), caller, wants);
}

/** @throws FsError EACCES */
export function needAccess(reader: Pick<Reader, 'xattr'>, inode: Inode, caller: Caller, wants: number): void {
  if (mayUse(reader, inode, caller, wants)) return;
  throw new FsError('EACCES', `user ${caller.uid} has no permission on inode ${inode.fid}`);
}

/** open(2): reading a file also passes with the right to execute it, as for NFS: a server cannot tell exec from read. */
export function mayOpen(
  reader: Pick<Reader, 'xattr'>,
  inode: Inode,
  caller: Caller,
  { reads, writes }: { readonly reads: boolean; readonly writes: boolean },
): boolean {
  const wants = (reads ? MAY_READ : 0) | (writes ? MAY_WRITE : 0);
  if (mayUse(reader, inode, caller, wants)) return true;
  return reads && !writes && isRegular(inode.mode) && mayUse(reader, inode, caller, MAY_EXEC);
}

/**
 * A name of the directory goes, or gets another inode: unlink(2), rmdir(2), both sides of rename(2).
 * @throws FsError EACCES; EPERM in a sticky directory.
 */
export function checkRemoval(reader: Reader, directory: Inode, victim: Fid, caller: Caller): void {
  needAccess(reader, directory, caller, MAY_WRITE | MAY_EXEC);
  if ((directory.mode & S_ISVTX) === 0 || isOwner(caller, directory)) return;
  const inode = reader.inode(victim);
  if (inode === undefined || isOwner(caller, inode)) return;
  throw new FsError('EPERM', `the directory is sticky, and inode ${victim} is another user's`);
}

/** A directory that gets another one above it: its '..' changes. @throws FsError EACCES */
export function checkNewParent(reader: Reader, moved: Fid, caller: Caller): void {
  const inode = reader.inode(moved);
  if (inode !== undefined && isDir(inode.mode)) needAccess(reader, inode, caller, MAY_WRITE);
}
