/**
 * Checks that the cache locks in a reply are those that the request asked for. The client would believe what such a lock covers,
 * and give it back when the server calls it back. A lock on another inode, of a stronger mode or with other bits shows that the
 * server and the client do not mean the same.
 */

import { type Attr, isDir, isRegular } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import { BIT_ATTR, BIT_UPDATE, type GrantMessage } from '../../wire/lock.js';
import {
  WANT_ATTR,
  WANT_DATA_READ,
  WANT_DATA_WRITE,
  WANT_OWN,
  WANT_OWN_FILES,
  WANT_OWN_PARENT,
  WANT_PARENT,
} from '../../wire/meta.js';

/** What a request asked for. */
export interface Asked {
  /** WANT bits, as the client sent them. */
  readonly want: number;
  /** The directory that WANT_PARENT is about. */
  readonly parent?: Fid | undefined;
  /** The inodes that the other WANT bits are about. */
  readonly inodes: readonly Pick<Attr, 'fid' | 'mode'>[];
}

/** @throws FsError EPROTO for the first lock that the request did not ask for. */
export function checkGrants(asked: Asked, grants: readonly GrantMessage[]): void {
  if (grants.length === 0) return;
  const modes = new Map(asked.inodes.map(({ fid, mode }) => [fid, mode]));
  for (const grant of grants) {
    if (isOfParent(asked, grant) || isOfInode(asked.want, modes.get(grant.fid), grant)) continue;
    const { type, fid, mode, bits } = grant;
    throw new FsError(
      'EPROTO',
      `the server granted a lock that nobody asked for: ${type} ${fid} ${mode}, bits ${bits ?? 0}`,
    );
  }
}

function isOfParent({ want, parent }: Asked, grant: GrantMessage): boolean {
  if (grant.fid !== parent) return false;
  if ((want & WANT_OWN_PARENT) !== 0 && isOwnLock(grant)) return true;
  return (want & WANT_PARENT) !== 0 && isInodeLock(grant, BIT_UPDATE | BIT_ATTR);
}

function isOfInode(want: number, fileMode: number | undefined, grant: GrantMessage): boolean {
  if (fileMode === undefined) return false;
  if (grant.type === 'inode') {
    if ((want & WANT_OWN) !== 0 && isDir(fileMode) && isOwnLock(grant)) return true;
    if ((want & WANT_OWN_FILES) !== 0 && !isDir(fileMode) && isOwnFileLock(grant)) return true;
    const bits = isDir(fileMode) ? BIT_UPDATE | BIT_ATTR : BIT_ATTR;
    return (want & WANT_ATTR) !== 0 && isInodeLock(grant, bits);
  }
  if (!isRegular(fileMode) || (grant.bits ?? 0) !== 0) return false;
  return (
    (grant.mode === 'PR' && (want & WANT_DATA_READ) !== 0) ||
    (grant.mode === 'PW' && (want & WANT_DATA_WRITE) !== 0)
  );
}

function isInodeLock({ type, mode, bits = 0 }: GrantMessage, wanted: number): boolean {
  return type === 'inode' && mode === 'PR' && bits !== 0 && (bits & ~wanted) === 0;
}

function isOwnLock({ type, mode, bits = 0 }: GrantMessage): boolean {
  return type === 'inode' && mode === 'EX' && bits === (BIT_UPDATE | BIT_ATTR);
}

export function isOwnFileLock({
  type,
  mode,
  bits = 0,
}: Pick<GrantMessage, 'type' | 'mode' | 'bits'>): boolean {
  return type === 'inode' && mode === 'EX' && bits === BIT_ATTR;
}
