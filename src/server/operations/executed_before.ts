/** For the reply to an operation that was executed before, when its first reply is lost. */

import { S_IFREG } from '../../base/attr.js';
import type { Fid } from '../../base/ids.js';
import type { Inode, Reader } from '../../storage/api.js';

const NEVER = { sec: 0, nsec: 0 } as const;

/**
 * For an operation that was executed and whose answer is lost: the inode as it is now. One that is gone since has no name
 * and nothing else that anybody will ever see.
 */
export function inodeOrGone(reader: Reader, fid: Fid, mode = S_IFREG): Inode {
  const times = { atime: NEVER, mtime: NEVER, ctime: NEVER, btime: NEVER };
  const numbers = { nlink: 0, uid: 0, gid: 0, rdev: 0, sizeBytes: 0, blocks: 0 };
  return reader.inode(fid) ?? { fid, mode, ...numbers, ...times, parent: 0, digest: undefined };
}
