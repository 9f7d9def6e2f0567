/** The rules of unlink(2) and rmdir(2). */

import { isDir } from '../base/attr.js';
import { FsError } from '../base/errno.js';
import type { Fid, Name } from '../base/ids.js';
import type { Dirent, Inode, Reader, Tx } from '../storage/api.js';
import { needDirectory, needEntry } from './checks.js';
import { type Circumstances, Edits } from './inode_edits.js';

export interface Removal {
  readonly parent: Fid;
  readonly name: Name;
  /** rmdir */
  readonly directory: boolean;
}

export interface Removed {
  /** nlink 0 when that was its last name. */
  readonly attr: Inode;
  readonly parentAttr: Inode;
}

/** @throws FsError ESTALE, ENOTDIR for the directory; ENOENT. */
export function findVictim(reader: Reader, { parent, name }: Removal): Dirent {
  needDirectory(reader, parent);
  return needEntry(reader, parent, name);
}

/** @throws FsError ENOTDIR, EISDIR, ENOTEMPTY. */
export function checkUnlink(reader: Reader, { directory }: Removal, { fid, type }: Dirent): void {
  if (directory && !isDir(type)) throw new FsError('ENOTDIR');
  if (!directory && isDir(type)) throw new FsError('EISDIR');
  if (directory && !reader.directoryEmpty(fid)) throw new FsError('ENOTEMPTY');
}

export function applyUnlink(
  tx: Tx,
  removal: Removal,
  { fid }: Dirent,
  circumstances: Circumstances,
): Removed {
  const { parent, name, directory } = removal;
  const edits = new Edits(tx, circumstances);
  tx.removeDirent(parent, name);
  const attr = edits.dropName(fid);
  const parentAttr = edits.changeDirectory(parent, directory ? -1 : 0);
  edits.write();
  return { attr, parentAttr };
}
