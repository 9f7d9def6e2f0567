/** The rules of link(2). */

import { isDir, S_IFMT } from '../base/attr.js';
import { FsError } from '../base/errno.js';
import type { Fid, Name } from '../base/ids.js';
import type { Inode, Reader, Tx } from '../storage/api.js';
import { needInode, needLiveDirectory } from './checks.js';
import { type Circumstances, Edits } from './inode_edits.js';

/** As ext4 has it; programs that count links are tested against it. Directories are not limited. */
export const LINK_MAX = 65_000;

export interface NewName {
  readonly fid: Fid;
  readonly parent: Fid;
  readonly name: Name;
}

export interface Linked {
  readonly attr: Inode;
  readonly parentAttr: Inode;
  /** Where the name lies in the directory. */
  readonly position: number | undefined;
}

/** @throws FsError ESTALE, ENOTDIR; ENOENT for a directory that was removed. */
export function checkLinkPlace(reader: Reader, { fid, parent }: NewName): void {
  needInode(reader, fid);
  needLiveDirectory(reader, parent);
}

/**
 * @param isNamelessByBirth asked for an inode without a name: linkat(2) may give a file of O_TMPFILE its first name, which
 *   an unlinked file never gets.
 * @throws FsError ESTALE, EEXIST, EPERM, EMLINK, ENOENT.
 */
export function checkLink(
  reader: Reader,
  { fid, parent, name }: NewName,
  isNamelessByBirth: (fid: Fid) => boolean,
): void {
  const inode = needInode(reader, fid);
  if (reader.dirent(parent, name) !== undefined) throw new FsError('EEXIST');
  if (isDir(inode.mode)) throw new FsError('EPERM', 'directories have one name');
  if (inode.nlink >= LINK_MAX) throw new FsError('EMLINK');
  if (inode.nlink === 0 && !isNamelessByBirth(fid)) throw new FsError('ENOENT', 'it was unlinked');
}

export function applyLink(tx: Tx, { fid, parent, name }: NewName, circumstances: Circumstances): Linked {
  const edits = new Edits(tx, circumstances);
  const { nlink, mode } = edits.get(fid);
  if (nlink === 0) tx.removeOrphan(fid);
  edits.putName(parent, name, fid, mode & S_IFMT);
  const attr = edits.change(fid, { nlink: nlink + 1, ctime: edits.now });
  const parentAttr = edits.changeDirectory(parent, 0);
  edits.write();
  return { attr, parentAttr, position: edits.position };
}
