/** Looks at what is there that end with the errno a caller of POSIX expects. */

import { isDir, isRegular } from '../base/attr.js';
import { FsError } from '../base/errno.js';
import type { Fid, Name } from '../base/ids.js';
import type { Dirent, Inode, Reader } from '../storage/api.js';

/**
 * @throws FsError ESTALE: a client knows the FID, so it was there. The kernel looks the path up once more on ESTALE and
 *   then finds the truth; ENOENT it would hand to the application.
 */
export function needInode(reader: Reader, fid: Fid): Inode {
  const inode = reader.inode(fid);
  if (inode === undefined) throw new FsError('ESTALE', `inode ${fid} is gone`);
  return inode;
}

/** A directory in which names may be looked up. @throws FsError ESTALE, ENOTDIR. */
export function needDirectory(reader: Reader, fid: Fid): Inode {
  const inode = needInode(reader, fid);
  if (!isDir(inode.mode)) throw new FsError('ENOTDIR', `inode ${fid} is not a directory`);
  return inode;
}

/** A directory that may get names. @throws FsError ESTALE, ENOTDIR; ENOENT when it was removed but is open. */
export function needLiveDirectory(reader: Reader, fid: Fid): Inode {
  const inode = needDirectory(reader, fid);
  if (inode.nlink === 0) throw new FsError('ENOENT', `directory ${fid} was removed`);
  return inode;
}

export function needEntry(reader: Reader, parent: Fid, name: Name): Dirent {
  const entry = reader.dirent(parent, name);
  if (entry === undefined) throw new FsError('ENOENT', 'no such name');
  return entry;
}

/** @throws FsError EISDIR for a directory, EINVAL for what else has no data. */
export function needRegular(reader: Reader, fid: Fid): Inode {
  const inode = needInode(reader, fid);
  if (isDir(inode.mode)) throw new FsError('EISDIR', `inode ${fid} is a directory`);
  if (!isRegular(inode.mode)) throw new FsError('EINVAL', `inode ${fid} is not a regular file`);
  return inode;
}
