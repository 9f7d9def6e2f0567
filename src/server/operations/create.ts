/**
 * CREATE: mknod, mkdir, symlink, open(O_CREAT), O_TMPFILE.
 *
 * The client names the new inode, so a CREATE that arrives twice finds its own work and answers as the first time. The
 * mode comes with the umask beside it: whether the umask counts is known here only, where the default ACL is.
 */

import {
  isDir,
  isRegular,
  isSymlink,
  O_TRUNC,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_IFSOCK,
  S_ISGID,
} from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import type { MaybePromise } from '../../base/maybe_promise.js';
import type { LockSpec } from '../../dlm/api.js';
import type { HandlerOutcome, Incoming } from '../../rpc/api.js';
import type { Dirent, Inode, ReplyRecord, Tx } from '../../storage/api.js';
import { BIT_ATTR, BIT_UPDATE, type GrantMessage } from '../../wire/lock.js';
import type { Create } from '../../wire/meta.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import { O_TMPFILE_BIT } from '../export/open_table.js';
import type { ServedCall } from '../target/served_call.js';
import { ACL_ACCESS, ACL_DEFAULT, encodeAcl, inheritAcl, isMinimal, parseAcl } from './acl.js';
import { inodeOrGone, needInode, needLiveDirectory } from './checks.js';
import { Edits } from './inode_edits.js';
import { describe } from './lookup.js';
import { openInode, truncationLocks } from './open.js';
import { attrBits, grantData, grantInode, grantParent } from './reply_grants.js';
import { type Answered, inodeLock, locked } from './with_locks.js';

type Request = RequestOf<typeof Create>;
type Reply = ReplyOf<typeof Create>;

const TYPES: readonly number[] = [S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK];
const PERMISSIONS = 0o7777;
const UMASK_BITS = 0o777;
/** What a directory says of itself; its names live in the meta store. */
const DIRECTORY_BYTES = 4096;
const DIRECTORY_BLOCKS = 8;

export function create(call: ServedCall, request: Request, incoming: Incoming<Reply>): Answered<Reply> {
  checkRequest(request);
  const { store } = call.target;
  const { parent, name } = request;
  let entry: Dirent | undefined;
  return locked(
    call,
    incoming,
    () => {
      needLiveDirectory(store, parent);
      entry = name === undefined ? undefined : store.dirent(parent, name);
      if (entry !== undefined) return locksToOpen(request, entry);
      // A nameless file changes nothing in the directory; its attributes decide what the file inherits.
      if (name === undefined) return [inodeLock(parent, 'PR', BIT_ATTR)];
      return [inodeLock(parent, 'EX', BIT_UPDATE | BIT_ATTR)];
    },
    () => (entry === undefined ? makeNew(call, request) : openExisting(call, request, entry)),
  );
}

function checkRequest(request: Request): void {
  const type = request.mode & S_IFMT;
  if (!TYPES.includes(type)) throw new FsError('EINVAL', `type 0o${type.toString(8)}`);
  if ((type === S_IFLNK) !== (request.target !== undefined)) {
    throw new FsError('EINVAL', 'a target and a symbolic link go together');
  }
  if (request.target?.length === 0) throw new FsError('ENOENT', 'empty target');
  if (request.name === undefined && (request.fh === undefined || type !== S_IFREG)) {
    throw new FsError('EINVAL', 'only an open regular file may be without a name');
  }
  if (request.fh !== undefined && type !== S_IFREG) {
    throw new FsError('EINVAL', 'only a regular file is opened as it is made');
  }
}

function locksToOpen(request: Request, entry: Dirent): readonly LockSpec[] {
  const reads = [inodeLock(request.parent, 'PR', BIT_UPDATE), inodeLock(entry.fid, 'PR', BIT_ATTR)];
  if (entry.fid === request.fid) return reads;
  if (request.exclusive) throw new FsError('EEXIST');
  if (isDir(entry.type)) throw new FsError('EISDIR');
  // The kernel follows symbolic links before it creates: here it lost a race, and O_NOFOLLOW's errno ends it.
  if (isSymlink(entry.type)) throw new FsError('ELOOP');
  // mknod and mkdir do not open what is there.
  if (!isRegular(request.mode) || request.fh === undefined) throw new FsError('EEXIST');
  const truncates = isRegular(entry.type) && ((request.flags ?? 0) & O_TRUNC) !== 0;
  return truncates ? [inodeLock(request.parent, 'PR', BIT_UPDATE), ...truncationLocks(entry.fid)] : reads;
}

function openExisting(
  call: ServedCall,
  request: Request,
  entry: Dirent,
): MaybePromise<HandlerOutcome<Reply>> {
  const { store } = call.target;
  const { want, fh, flags = 0 } = request;
  const mine = entry.fid === request.fid;
  if (mine) {
    const inode = needInode(store, entry.fid);
    if (fh !== undefined && !call.isReplay) call.target.opens.add(call.client, fh, inode.fid, flags);
    return { reply: withLocks(call, request, inode, false) };
  }
  const reply = (attr: Inode, locks: GrantMessage[]): Reply => {
    grantParent(call, want, request.parent, locks);
    return { attr, existed: true, locks };
  };
  if (fh === undefined) return describe(call, want, needInode(store, entry.fid), reply);
  return openInode(call, { fid: entry.fid, fh, flags, want, time: request.time }, reply);
}

function makeNew(call: ServedCall, request: Request): HandlerOutcome<Reply> {
  const { target } = call;
  const { parent, name, fid, flags = 0 } = request;
  const fh = call.isReplay ? undefined : request.fh;
  target.assertNewFid(fid);
  // Two names for one new FID: only a client that confuses its own numbers does that.
  if (target.store.inode(fid) !== undefined) throw new FsError('EPROTO', `FID ${fid} is in use`);
  // Opened first: an inode without a name is destroyed unless it is open.
  if (fh !== undefined) {
    target.opens.add(call.client, fh, fid, name === undefined ? flags | O_TMPFILE_BIT : flags);
  }
  call.alsoChanged = inodeLock(fid, 'EX', attrBits(request.mode));
  try {
    const { result, transno } = call.execute((tx) => {
      const edits = new Edits(call, tx, request.time);
      const inode = newInode(edits, request);
      tx.putInode(inode);
      if (request.target !== undefined) tx.putSymlinkTarget(fid, request.target);
      if (name === undefined) {
        tx.putOrphan(fid);
      } else {
        tx.putDirent(parent, name, fid, inode.mode & S_IFMT);
        edits.changeDirectory(parent, isDir(inode.mode) ? 1 : 0);
      }
      edits.write();
      return inode;
    }, fid);
    return { reply: withLocks(call, request, result, false), transno };
  } catch (error) {
    if (fh !== undefined) target.opens.remove(call.client, fh);
    throw error;
  }
}

function withLocks(call: ServedCall, request: Request, inode: Inode, existed: boolean): Reply {
  const { want, parent, name } = request;
  const locks: GrantMessage[] = [];
  grantData(call, want, inode, locks);
  grantInode(call, want, inode, locks);
  grantParent(call, want, parent, locks);
  const parentAttr = name === undefined ? undefined : call.target.store.inode(parent);
  return { attr: inode, parentAttr, existed, locks };
}

/** Puts its ACLs; the caller puts the inode. */
export function newInode(edits: Edits, request: Request): Inode {
  const { tx, now } = edits;
  const directory = edits.get(request.parent);
  const type = request.mode & S_IFMT;
  let mode = type | (request.mode & PERMISSIONS);
  let { gid } = request;
  if ((directory.mode & S_ISGID) !== 0) {
    gid = directory.gid;
    if (type === S_IFDIR) mode |= S_ISGID;
  }
  if (type === S_IFLNK) mode = S_IFLNK | 0o777;
  else mode = withInheritedAcl(tx, request, mode);
  return {
    fid: request.fid,
    mode,
    nlink: request.name === undefined ? 0 : type === S_IFDIR ? 2 : 1,
    uid: request.uid,
    gid,
    rdev: type === S_IFCHR || type === S_IFBLK ? (request.rdev ?? 0) : 0,
    sizeBytes: type === S_IFDIR ? DIRECTORY_BYTES : (request.target?.length ?? 0),
    blocks: type === S_IFDIR ? DIRECTORY_BLOCKS : 0,
    atime: now,
    mtime: now,
    ctime: now,
    btime: now,
    parent: type === S_IFDIR ? request.parent : 0,
  };
}

/** @returns the mode; puts the ACLs that the new object gets from its directory's default ACL. */
function withInheritedAcl(tx: Tx, request: Request, mode: number): number {
  const stored = tx.xattr(request.parent, ACL_DEFAULT);
  const parentDefault = stored === undefined ? undefined : parseAcl(stored);
  if (stored === undefined || parentDefault === undefined) return mode & ~(request.umask & UMASK_BITS);
  const inherited = inheritAcl(parentDefault, mode);
  const fid: Fid = request.fid;
  if (!isMinimal(inherited.access)) tx.putXattr(fid, ACL_ACCESS, encodeAcl(inherited.access));
  if (isDir(mode)) tx.putXattr(fid, ACL_DEFAULT, stored);
  return inherited.mode;
}

/** It was executed before: the handle is opened, and everything else is as it is now. */
export function recreate(call: ServedCall, request: Request, done: ReplyRecord): Reply {
  const { target } = call;
  const { store } = target;
  const fid = done.fid || request.fid;
  if (request.fh !== undefined) {
    const flags = (request.flags ?? 0) | (request.name === undefined ? O_TMPFILE_BIT : 0);
    target.opens.add(call.client, request.fh, needInode(store, fid).fid, flags);
  }
  const parentAttr = request.name === undefined ? undefined : store.inode(request.parent);
  return {
    attr: inodeOrGone(store, fid, request.mode),
    parentAttr,
    existed: fid !== request.fid,
    locks: [],
  };
}
