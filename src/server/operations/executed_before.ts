/** Helps to answer an operation again that was executed before and whose first reply is lost. */

import { S_IFREG } from '../../base/attr.js';
import type { Fid } from '../../base/ids.js';
import type { Inode, Reader } from '../../storage/api.js';

const NEVER = { sec: 0, nsec: 0 } as const;

/**
 * The inode as it is now. If it is gone since, the answer is an inode without a name: nobody will ever see the rest of it.
 */
export function inodeOrGone(reader: Reader, fid: Fid, mode = S_IFREG): Inode {
  const times = { atime: NEVER, mtime: NEVER, ctime: NEVER, btime: NEVER };
  const numbers = { nlink: 0, uid: 0, gid: 0, rdev: 0, sizeBytes: 0, blocks: 0 };
  return reader.inode(fid) ?? { fid, mode, ...numbers, ...times, parent: 0, digest: undefined };
}
