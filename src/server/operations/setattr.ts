/** SETATTR: chmod, chown, truncate, utimensat, and the loss of privileges at a write. Its rules: src/rules/setattr.ts. */

import { isRegular } from '../../base/attr.js';
import type { Fid } from '../../base/ids.js';
import { andThen } from '../../base/maybe_promise.js';
import type { LockSpec } from '../../dlm/api.js';
import type { Incoming } from '../../rpc/api.js';
import { needInode } from '../../rules/checks.js';
import { permittedChange } from '../../rules/permission_attrs.js';
import { applyPartOfCut, applySetattr, checkSetattr } from '../../rules/setattr.js';
import type { Inode, Within } from '../../storage/api.js';
import { BIT_ATTR } from '../../wire/lock.js';
import type { Setattr } from '../../wire/meta.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import type { ServedCall } from '../target/served_call.js';
import { inodeOrGone } from './executed_before.js';
import { type Answered, dataToSet, inodeLock, locked } from './with_locks.js';

type Request = RequestOf<typeof Setattr>;

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
      checkSetattr(before, request);
      const { caller } = call;
      const changes = caller === undefined ? request : permittedChange(before, request, caller);
      const now = call.time(request.time);
      if (sizeBytes === undefined) {
        // It adds no bytes, so it may use the space reserved for deletes.
        const { result, transno } = call.execute((tx) => applySetattr(tx, before, changes, now), fid, true);
        return { reply: { attr: result }, transno };
      }
      const within: Within = (tx, inode, isLast) => {
        if (!isLast) return applyPartOfCut(tx, inode, changes);
        applySetattr(tx, inode, changes, now);
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
 * Needs data EX if it sets size or mtime: a client that writes into its cache is the authority on both, and would overwrite
 * this mtime with its own at its next flush.
 */
function locksFor(call: ServedCall, request: Request, inode: Inode): readonly LockSpec[] {
  const attr = inodeLock(request.fid, 'EX', BIT_ATTR);
  const setsMtime = request.mtime !== undefined || request.mtimeNow === true;
  const needsData = isRegular(inode.mode) && (request.sizeBytes !== undefined || setsMtime);
  return needsData ? [attr, ...dataToSet(call, request.fid)] : [attr];
}

/** For a change of one inode's attributes that was executed before: answers with the inode as it is now. */
export function changedBefore(call: ServedCall, request: { readonly fid: Fid }): { readonly attr: Inode } {
  return { attr: inodeOrGone(call.target.store, request.fid) };
}
