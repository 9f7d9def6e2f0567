/**
 * RENAME. Its rules: src/rules/rename.ts.
 *
 * The server executes operations one at a time, each in one turn. So the checks here (above all: a directory does not move
 * below itself) still hold when the rename takes effect, and it needs no lock over all renames.
 */

import { isDir, S_IFCHR, S_IFDIR } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import type { LockSpec } from '../../dlm/api.js';
import type { Incoming } from '../../rpc/api.js';
import {
  applyRename,
  checkFlags,
  checkRename,
  findNames,
  leftAsItIs,
  type MovedNames,
  movesNothing,
  someAtOrAbove,
} from '../../rules/rename.js';
import type { ReplyRecord } from '../../storage/api.js';
import { BIT_ATTR, BIT_UPDATE } from '../../wire/lock.js';
import { RENAME_EXCHANGE, type Rename } from '../../wire/meta.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import { isUncommitted } from '../target/commit_on_sharing.js';
import type { ServedCall } from '../target/served_call.js';
import { circumstancesOf } from './circumstances.js';
import { inodeOrGone } from './executed_before.js';
import { attrBits } from './reply_grants.js';
import { type Answered, inodeLock, locked } from './with_locks.js';

type Request = RequestOf<typeof Rename>;
type Reply = ReplyOf<typeof Rename>;

export function rename(call: ServedCall, request: Request, incoming: Incoming<Reply>): Answered<Reply> {
  const { target } = call;
  checkFlags(request);
  let names: MovedNames;
  call.looksInto = [request.parent, request.newParent];
  return locked(
    call,
    incoming,
    () => {
      names = findNames(target.store, request);
      return locksFor(request, names);
    },
    () => {
      checkRename(target.store, request, names);
      if (movesNothing(names)) return { reply: leftAsItIs(target.store, request, names) };
      const { whiteoutFid } = request;
      if (whiteoutFid !== undefined) {
        target.assertNewFid(call.client, whiteoutFid);
        if (target.store.inode(whiteoutFid) !== undefined) {
          throw new FsError('EPROTO', `FID ${whiteoutFid} is in use`);
        }
        call.alsoChanged = [inodeLock(whiteoutFid, 'EX', BIT_ATTR)];
      }
      const { result, transno } = call.execute(
        (tx) => applyRename(tx, request, names, circumstancesOf(call, request)),
        names.source.fid,
      );
      return { reply: result, transno };
    },
    () => dependsOnMoves(call, request, names),
  );
}

/**
 * True if a directory can move only because another client has moved a directory above its new place, and that move is not
 * committed: if a crash undid it, this move could close a circle. Looks at the directories above without locks.
 */
function dependsOnMoves(call: ServedCall, request: Request, { source, other }: MovedNames): boolean {
  if (request.parent === request.newParent) return false;
  const movedAbove = (below: Fid): boolean =>
    someAtOrAbove(call.target.store, below, (fid) => isUncommitted(call, inodeLock(fid, 'PR', BIT_UPDATE)));
  if (isDir(source.type) && movedAbove(request.newParent)) return true;
  return other !== undefined && isDir(other.type) && movedAbove(request.parent);
}

function locksFor(request: Request, { source, other }: MovedNames): readonly LockSpec[] {
  const specs: LockSpec[] = [inodeLock(request.parent, 'EX', BIT_UPDATE | BIT_ATTR)];
  const add = (fid: Fid, bits: number): void => {
    // One inode may have several of these roles; an operation must not wait for itself.
    const known = specs.findIndex((spec) => spec.fid === fid);
    if (known < 0) specs.push(inodeLock(fid, 'EX', bits));
    else specs[known] = inodeLock(fid, 'EX', bits | (specs[known]?.bits ?? 0));
  };
  add(request.newParent, BIT_UPDATE | BIT_ATTR);
  // A moved directory needs UPDATE too: its '..' changes.
  add(source.fid, attrBits(source.type));
  if (other !== undefined) add(other.fid, attrBits(other.type));
  return specs;
}

/** For a RENAME that was executed before. Nobody knows the replaced inode any more; an exchanged one is at the old name. */
export function renamed(call: ServedCall, request: Request, done: ReplyRecord): Reply {
  const { store } = call.target;
  const exchange = (request.flags & RENAME_EXCHANGE) !== 0;
  const other = exchange ? store.dirent(request.parent, request.name) : undefined;
  return {
    attr: inodeOrGone(store, done.fid as Fid),
    parentAttr: inodeOrGone(store, request.parent, S_IFDIR),
    newParentAttr: inodeOrGone(store, request.newParent, S_IFDIR),
    otherAttr: other === undefined ? undefined : store.inode(other.fid),
    whiteoutAttr:
      request.whiteoutFid === undefined ? undefined : inodeOrGone(store, request.whiteoutFid, S_IFCHR),
  };
}
