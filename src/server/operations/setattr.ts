/** SETATTR: chmod, chown, truncate, utimensat, and the loss of privileges at a write. */

import { isDir, isRegular, isSymlink, S_IFMT, S_ISGID, S_ISUID, type Timespec } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import { checkFileEnd, clampTime } from '../../base/limits.js';
import { andThen } from '../../base/maybe_promise.js';
import type { LockSpec } from '../../dlm/api.js';
import type { Incoming } from '../../rpc/api.js';
import type { Inode, Tx, Within } from '../../storage/api.js';
import { BIT_ATTR } from '../../wire/lock.js';
import type { Setattr } from '../../wire/meta.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import type { ServedCall } from '../target/served_call.js';
import { ACL_ACCESS, aclAfterChmod, encodeAcl, parseAcl } from './acl.js';
import { inodeOrGone, needInode } from './checks.js';
import { type Answered, dataToSet, inodeLock, locked } from './with_locks.js';

type Request = RequestOf<typeof Setattr>;

const PERMISSIONS = 0o7777;
const S_IXGRP = 0o010;
const CAPABILITY = 'security.capability';

export function setattr(
  call: ServedCall,
  request: Request,
  incoming: Incoming<ReplyOf<typeof Setattr>>,
): Answered<ReplyOf<typeof Setattr>> {
  const { store } = call.target;
  const { fid, sizeBytes } = request;
  return locked(
    call,
    incoming,
    () => locksFor(call, request, needInode(store, fid)),
    () => {
      const before = needInode(store, fid);
      const now = call.time(request.time);
      if (sizeBytes === undefined) {
        // It adds no bytes, so it may use what is kept for deletes.
        const { result, transno } = call.execute(
          (tx) => {
            const after = changed(before, request, now);
            applyTies(tx, before, after, request);
            tx.putInode(after);
            return after;
          },
          fid,
          true,
        );
        return { reply: { attr: result }, transno };
      }
      if (isDir(before.mode)) throw new FsError('EISDIR');
      if (!isRegular(before.mode)) throw new FsError('EINVAL', 'it has no size');
      checkFileEnd(sizeBytes);
      const within: Within = (tx, inode, isLast) => {
        if (!isLast) {
          // What is cut off is gone, whatever becomes of the rest: so are the privileges of what it was.
          if (request.killSuidgid === true) tx.putInode({ ...inode, mode: withoutPrivileges(inode.mode) });
          dropCapability(tx, inode);
          return;
        }
        const after = changed(inode, request, now);
        applyTies(tx, inode, after, request);
        tx.putInode(after);
        call.writeRecord(tx, fid);
      };
      const truncated = store.data.truncate(fid, sizeBytes, {
        time: now,
        within,
        transno: call.replayTransno,
      });
      return andThen(truncated, ({ transno }) => ({ reply: { attr: needInode(store, fid) }, transno }));
    },
  );
}

/**
 * Data EX where size or mtime are set: a client that writes into its cache is the authority on both, and would set its
 * own mtime over this one at its next flush.
 */
function locksFor(call: ServedCall, request: Request, inode: Inode): readonly LockSpec[] {
  const attr = inodeLock(request.fid, 'EX', BIT_ATTR);
  const setsMtime = request.mtime !== undefined || request.mtimeNow === true;
  const needsData = isRegular(inode.mode) && (request.sizeBytes !== undefined || setsMtime);
  return needsData ? [attr, ...dataToSet(call, request.fid)] : [attr];
}

function changed(inode: Inode, request: Request, now: Timespec): Inode {
  let { mode } = inode;
  if (request.mode !== undefined) mode = (mode & S_IFMT) | (request.mode & PERMISSIONS);
  if (request.killSuidgid === true && !isDir(mode)) mode = withoutPrivileges(mode);
  return {
    ...inode,
    mode,
    uid: request.uid ?? inode.uid,
    gid: request.gid ?? inode.gid,
    atime: request.atimeNow === true ? now : asked(request.atime, inode.atime),
    mtime: request.mtimeNow === true ? now : asked(request.mtime, inode.mtime),
    ctime: asked(request.ctime, now),
  };
}

function asked(time: Timespec | undefined, otherwise: Timespec): Timespec {
  return time === undefined ? otherwise : clampTime(time);
}

/** S_ISGID without group execution is mandatory locking's mark, no privilege, and stays. */
export function withoutPrivileges(mode: number): number {
  const kept = mode & ~S_ISUID;
  return (kept & S_IXGRP) !== 0 ? kept & ~S_ISGID : kept;
}

/** What hangs on mode and owner: the access ACL follows a chmod; file capabilities do not survive a new owner or size. */
function applyTies(tx: Tx, before: Inode, after: Inode, request: Request): void {
  if (after.mode !== before.mode && request.mode !== undefined && !isSymlink(after.mode)) {
    const stored = tx.xattr(after.fid, ACL_ACCESS);
    const acl = stored === undefined ? undefined : parseAcl(stored);
    if (acl !== undefined) tx.putXattr(after.fid, ACL_ACCESS, encodeAcl(aclAfterChmod(acl, after.mode)));
  }
  const owned = request.uid !== undefined || request.gid !== undefined;
  if (owned || request.sizeBytes !== undefined || request.killSuidgid === true) dropCapability(tx, after);
}

export function dropCapability(tx: Tx, inode: Inode): void {
  if (tx.xattr(inode.fid, CAPABILITY) !== undefined) tx.removeXattr(inode.fid, CAPABILITY);
}

/** It was executed before, as other changes of one inode's attributes: the inode as it is now. */
export function changedBefore(call: ServedCall, request: { readonly fid: Fid }): { readonly attr: Inode } {
  return { attr: inodeOrGone(call.target.store, request.fid) };
}
