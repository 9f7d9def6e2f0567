/**
 * The rules of rename(2) and renameat2(2).
 *
 * What is checked here (that a directory does not move below itself, above all) must still hold when it is applied: the
 * caller executes both in one go.
 */

import { isDir, S_IFCHR } from '../base/attr.js';
import { FsError } from '../base/errno.js';
import type { Fid, Name } from '../base/ids.js';
import type { Dirent, Inode, Reader, Tx } from '../storage/api.js';
import { RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT } from '../wire/meta.js';
import { needEntry, needLiveDirectory } from './checks.js';
import { newInode } from './create.js';
import { type Circumstances, Edits } from './inode_edits.js';

export interface Move {
  readonly parent: Fid;
  readonly name: Name;
  readonly newParent: Fid;
  readonly newName: Name;
  /** RENAME_* */
  readonly flags: number;
  /** With RENAME_WHITEOUT: the inode of the whiteout, and who makes it. */
  readonly whiteoutFid?: Fid | undefined;
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
}

/** What the two names lead to. */
export interface MovedNames {
  readonly source: Dirent;
  readonly other: Dirent | undefined;
}

export interface Moved {
  readonly attr: Inode;
  readonly parentAttr: Inode;
  readonly newParentAttr: Inode;
  /** What had the new name: now unlinked, or under the old name (RENAME_EXCHANGE). */
  readonly otherAttr?: Inode | undefined;
  /** What the old name leads to now. */
  readonly whiteoutAttr?: Inode | undefined;
  /** Where the first of the names that it made lies in its directory. The others lie behind it, one by one. */
  readonly position?: number | undefined;
}

/** @throws FsError EINVAL */
export function checkFlags({ flags, whiteoutFid }: Move): void {
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

/** @throws FsError ESTALE, ENOTDIR, ENOENT for the directories; ENOENT for the old name. */
export function findNames(reader: Reader, move: Move): MovedNames {
  needLiveDirectory(reader, move.parent);
  needLiveDirectory(reader, move.newParent);
  return {
    source: needEntry(reader, move.parent, move.name),
    other: reader.dirent(move.newParent, move.newName),
  };
}

/** Two names of one inode, or one name twice: rename(2) leaves both. */
export function movesNothing({ source, other }: MovedNames): boolean {
  return other?.fid === source.fid;
}

/** @throws FsError ENOENT, EEXIST, EINVAL, ENOTEMPTY, ENOTDIR, EISDIR. */
export function checkRename(reader: Reader, move: Move, names: MovedNames): void {
  const { source, other } = names;
  const { flags, parent, newParent } = move;
  const exchange = (flags & RENAME_EXCHANGE) !== 0;
  if (exchange && other === undefined) throw new FsError('ENOENT', 'nothing to exchange with');
  if ((flags & RENAME_NOREPLACE) !== 0 && other !== undefined) throw new FsError('EEXIST');
  if (movesNothing(names)) return;
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

/** Whether `is` says so of a directory on the way from `below` up to the root, both counted. */
export function someAtOrAbove(reader: Reader, below: Fid, is: (fid: Fid) => boolean): boolean {
  let at: Fid = below;
  for (;;) {
    if (is(at)) return true;
    const parent = reader.inode(at)?.parent ?? 0;
    // The root is its own parent.
    if (parent === 0 || parent === at) return false;
    at = parent;
  }
}

/** The answer to a rename that moves nothing. @throws FsError ESTALE */
export function leftAsItIs(reader: Reader, { parent, newParent }: Move, { source }: MovedNames): Moved {
  const attr = reader.inode(source.fid);
  const parentAttr = reader.inode(parent);
  const newParentAttr = reader.inode(newParent);
  if (attr === undefined || parentAttr === undefined || newParentAttr === undefined) {
    throw new FsError('ESTALE', 'a name leads to an inode that is gone');
  }
  return { attr, parentAttr, newParentAttr };
}

/** Only for a rename that moves something. */
export function applyRename(tx: Tx, move: Move, names: MovedNames, circumstances: Circumstances): Moved {
  const { source, other } = names;
  const { parent, name, newParent, newName, flags } = move;
  const edits = new Edits(tx, circumstances);
  tx.removeDirent(parent, name);
  let otherAttr: Inode | undefined;
  let sourceGain = isDir(source.type) ? -1 : 0;
  let targetGain = isDir(source.type) ? 1 : 0;
  if (other !== undefined) {
    tx.removeDirent(newParent, newName);
    if (isDir(other.type)) targetGain -= 1;
    if ((flags & RENAME_EXCHANGE) !== 0) {
      if (isDir(other.type)) sourceGain += 1;
      otherAttr = place(edits, other, parent, name);
    } else {
      otherAttr = edits.dropName(other.fid);
    }
  }
  place(edits, source, newParent, newName);
  const whiteoutAttr = leaveWhiteout(edits, move);
  edits.changeDirectory(parent, sourceGain);
  edits.changeDirectory(newParent, targetGain);
  const moved: Moved = {
    attr: edits.get(source.fid),
    parentAttr: edits.get(parent),
    newParentAttr: edits.get(newParent),
    // It is neither parent, so it has not changed since: checkRename refuses a new name that leads above the old one.
    otherAttr,
    whiteoutAttr,
    position: edits.position,
  };
  edits.write();
  return moved;
}

/** overlayfs hides with it what is below the old name: a character device 0:0 without permissions. */
function leaveWhiteout(edits: Edits, move: Move): Inode | undefined {
  const { parent, name, whiteoutFid, uid = 0, gid = 0 } = move;
  if (whiteoutFid === undefined) return undefined;
  const whiteout = newInode(edits, { parent, name, fid: whiteoutFid, mode: S_IFCHR, umask: 0, uid, gid });
  edits.tx.putInode(whiteout);
  edits.putName(parent, name, whiteoutFid, S_IFCHR);
  return whiteout;
}

function place(edits: Edits, entry: Dirent, parent: Fid, name: Name): Inode {
  edits.putName(parent, name, entry.fid, entry.type);
  const moved = isDir(entry.type) ? { parent, ctime: edits.now } : { ctime: edits.now };
  return edits.change(entry.fid, moved);
}
