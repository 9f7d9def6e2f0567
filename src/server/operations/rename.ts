/**
 * RENAME, by the rules of rename(2) and renameat2(2).
 *
 * Operations are executed one at a time and in one go, so what is checked here (that a directory does not move below
 * itself, above all) still holds when it takes effect: no lock over all renames is needed.
 */

import { isDir, S_IFCHR, S_IFDIR } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import type { LockSpec } from '../../dlm/api.js';
import type { Incoming } from '../../rpc/api.js';
import type { Dirent, Inode, Reader, ReplyRecord, Tx } from '../../storage/api.js';
import { BIT_ATTR, BIT_UPDATE } from '../../wire/lock.js';
import { RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, type Rename } from '../../wire/meta.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import { isUncommitted } from '../target/commit_on_sharing.js';
import type { ServedCall } from '../target/served_call.js';
import { inodeOrGone, needEntry, needLiveDirectory } from './checks.js';
import { newInode } from './create.js';
import { Edits } from './inode_edits.js';
import { attrBits } from './reply_grants.js';
import { type Answered, inodeLock, locked } from './with_locks.js';

type Request = RequestOf<typeof Rename>;
type Reply = ReplyOf<typeof Rename>;

/** What the two names lead to. */
interface Names {
  readonly source: Dirent;
  readonly other: Dirent | undefined;
}

export function rename(call: ServedCall, request: Request, incoming: Incoming<Reply>): Answered<Reply> {
  const { target } = call;
  checkFlags(request);
  let names: Names;
  return locked(
    call,
    incoming,
    () => {
      names = look(target.store, request);
      return locksFor(request, names);
    },
    () => {
      const { source, other } = names;
      if (other?.fid === source.fid) return { reply: unchanged(target.store, request, source.fid) };
      check(target.store, request, names);
      const { whiteoutFid } = request;
      if (whiteoutFid !== undefined) {
        target.assertNewFid(whiteoutFid);
        if (target.store.inode(whiteoutFid) !== undefined) {
          throw new FsError('EPROTO', `FID ${whiteoutFid} is in use`);
        }
        call.alsoChanged = inodeLock(whiteoutFid, 'EX', BIT_ATTR);
      }
      const { result, transno } = call.execute(
        (tx) => move(new Edits(call, tx, request.time), request, names),
        source.fid,
      );
      return { reply: result, transno };
    },
    () => dependsOnMoves(call, request, names),
  );
}

/**
 * A directory may move because another client has moved one of those above its new place: if that was undone by a crash,
 * this move could close a circle. The directories above are looked at without locks.
 */
function dependsOnMoves(call: ServedCall, request: Request, { source, other }: Names): boolean {
  if (request.parent === request.newParent) return false;
  const movedAbove = (below: Fid): boolean =>
    someAtOrAbove(call.target.store, below, (fid) => isUncommitted(call, inodeLock(fid, 'PR', BIT_UPDATE)));
  if (isDir(source.type) && movedAbove(request.newParent)) return true;
  return other !== undefined && isDir(other.type) && movedAbove(request.parent);
}

function checkFlags({ flags, whiteoutFid }: Request): void {
  if ((flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT)) !== 0) {
    throw new FsError('EINVAL', `flags ${flags}`);
  }
  if ((flags & RENAME_EXCHANGE) !== 0 && flags !== RENAME_EXCHANGE) {
    throw new FsError('EINVAL', 'an exchange replaces nothing and leaves nothing behind');
  }
  if (((flags & RENAME_WHITEOUT) !== 0) !== (whiteoutFid !== undefined)) {
    throw new FsError('EINVAL', 'a whiteout and its FID go together');
  }
}

function look(reader: Reader, request: Request): Names {
  needLiveDirectory(reader, request.parent);
  needLiveDirectory(reader, request.newParent);
  return {
    source: needEntry(reader, request.parent, request.name),
    other: reader.dirent(request.newParent, request.newName),
  };
}

function locksFor(request: Request, { source, other }: Names): readonly LockSpec[] {
  const specs: LockSpec[] = [inodeLock(request.parent, 'EX', BIT_UPDATE | BIT_ATTR)];
  const add = (fid: Fid, bits: number): void => {
    // One inode may be several of these at once; one operation must not wait for itself.
    const known = specs.findIndex((spec) => spec.fid === fid);
    if (known < 0) specs.push(inodeLock(fid, 'EX', bits));
    else specs[known] = inodeLock(fid, 'EX', bits | (specs[known]?.bits ?? 0));
  };
  add(request.newParent, BIT_UPDATE | BIT_ATTR);
  // UPDATE of a moved directory too: its '..' changes.
  add(source.fid, attrBits(source.type));
  if (other !== undefined) add(other.fid, attrBits(other.type));
  return specs;
}

/** Two names of one inode: rename(2) leaves both. */
function unchanged(reader: Reader, request: Request, fid: Fid): Reply {
  const attr = reader.inode(fid);
  const parentAttr = reader.inode(request.parent);
  const newParentAttr = reader.inode(request.newParent);
  if (attr === undefined || parentAttr === undefined || newParentAttr === undefined) {
    throw new FsError('ESTALE', 'a name leads to an inode that is gone');
  }
  return { attr, parentAttr, newParentAttr };
}

function check(reader: Reader, request: Request, { source, other }: Names): void {
  const { flags, parent, newParent } = request;
  const exchange = (flags & RENAME_EXCHANGE) !== 0;
  if (exchange && other === undefined) throw new FsError('ENOENT', 'nothing to exchange with');
  if ((flags & RENAME_NOREPLACE) !== 0 && other !== undefined) throw new FsError('EEXIST');
  if (isDir(source.type) && isAtOrAbove(reader, source.fid, newParent)) {
    throw new FsError('EINVAL', 'a directory cannot move below itself');
  }
  if (other === undefined) return;
  if (isDir(other.type) && isAtOrAbove(reader, other.fid, parent)) {
    throw new FsError(exchange ? 'EINVAL' : 'ENOTEMPTY', 'the target holds the source');
  }
  if (exchange) return;
  if (isDir(source.type) && !isDir(other.type)) throw new FsError('ENOTDIR');
  if (!isDir(source.type) && isDir(other.type)) throw new FsError('EISDIR');
  if (isDir(other.type) && !reader.directoryEmpty(other.fid)) throw new FsError('ENOTEMPTY');
}

/** Whether the way up from `below` meets `above`. */
function isAtOrAbove(reader: Reader, above: Fid, below: Fid): boolean {
  return someAtOrAbove(reader, below, (fid) => fid === above);
}

function someAtOrAbove(reader: Reader, below: Fid, is: (fid: Fid) => boolean): boolean {
  let at: Fid = below;
  for (;;) {
    if (is(at)) return true;
    const parent = reader.inode(at)?.parent ?? 0;
    // The root is its own parent.
    if (parent === 0 || parent === at) return false;
    at = parent;
  }
}

function move(edits: Edits, request: Request, { source, other }: Names): Reply {
  const { tx } = edits;
  const { parent, name, newParent, newName, flags } = request;
  tx.removeDirent(parent, name);
  let otherAttr: Inode | undefined;
  let sourceGain = isDir(source.type) ? -1 : 0;
  let targetGain = isDir(source.type) ? 1 : 0;
  if (other !== undefined) {
    tx.removeDirent(newParent, newName);
    if (isDir(other.type)) targetGain -= 1;
    if ((flags & RENAME_EXCHANGE) !== 0) {
      if (isDir(other.type)) sourceGain += 1;
      otherAttr = place(edits, tx, other, parent, name);
    } else {
      otherAttr = edits.dropName(other.fid);
    }
  }
  place(edits, tx, source, newParent, newName);
  const whiteoutAttr = leaveWhiteout(edits, request);
  edits.changeDirectory(parent, sourceGain);
  edits.changeDirectory(newParent, targetGain);
  const reply: Reply = {
    attr: edits.get(source.fid),
    parentAttr: edits.get(parent),
    newParentAttr: edits.get(newParent),
    otherAttr: otherAttr === undefined || otherAttr.nlink === 0 ? otherAttr : edits.get(otherAttr.fid),
    whiteoutAttr,
  };
  edits.write();
  return reply;
}

/** overlayfs hides with it what is below the old name: a character device 0:0 without permissions. */
function leaveWhiteout(edits: Edits, request: Request): Inode | undefined {
  const { parent, name, whiteoutFid, uid = 0, gid = 0 } = request;
  if (whiteoutFid === undefined) return undefined;
  const object = { mode: S_IFCHR, umask: 0, uid, gid, exclusive: true, want: 0 };
  const whiteout = newInode(edits, { parent, name, fid: whiteoutFid, ...object });
  edits.tx.putInode(whiteout);
  edits.tx.putDirent(parent, name, whiteoutFid, S_IFCHR);
  return whiteout;
}

function place(edits: Edits, tx: Tx, entry: Dirent, parent: Fid, name: Request['name']): Inode {
  tx.putDirent(parent, name, entry.fid, entry.type);
  const moved = isDir(entry.type) ? { parent, ctime: edits.now } : { ctime: edits.now };
  return edits.change(entry.fid, moved);
}

/** It was executed before. What it replaced is not known any more; what it exchanged is under the old name. */
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
