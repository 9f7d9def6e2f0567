/**
 * The rules by which a reply enters the caches, and by which the client believes what is in them.
 *
 * The client applies replies in the order in which they arrive (CallOptions.apply). It decides whether it may believe something
 * when it uses it: attributes and names are cacheable while the client holds a lock that covers them and the server has not
 * called that lock back. So withValidity() is called last, in the turn that answers the kernel, never when the reply arrived: the
 * client must see a BAST that came right behind the reply.
 */

import { type Attr, blocksOfUnwritten, compareTime, isDir, isRegular, shownBlocks } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import { type Fid, type LockHandle, type Name, ROOT_FID } from '../../base/ids.js';
import type { CachedLock } from '../../dlm/api.js';
import { BIT_ATTR, BIT_UPDATE, type GrantMessage } from '../../wire/lock.js';
import { WANT_ATTR, WANT_DATA_READ, WANT_PARENT } from '../../wire/meta.js';
import type { AttrsWithValidity } from '../api.js';
import { OWN_BITS } from '../session/own_directories.js';
import type { TargetSession } from '../session/target_session.js';
import type { AttrCache } from './attr_cache.js';
import type { DentryCache } from './dentry_cache.js';
import type { FileState, FileTable } from './file_state.js';
import { type Asked, checkGrants, isOwnFileLock } from './grant_check.js';
import type { PageCache } from './page_cache.js';

/** The tables that the beliefs are about. */
interface Tables {
  readonly attrs: AttrCache;
  readonly names: DentryCache;
  readonly files: FileTable;
  readonly pages: PageCache;
}

export class Beliefs {
  readonly #tables: Tables;

  constructor(tables: Tables) {
    this.#tables = tables;
  }

  // What replies bring.

  /**
   * Takes the locks that came with a reply.
   * @throws FsError EPROTO for a lock that the request did not ask for, or under a handle in use: then it takes none of them.
   */
  applyGrants(target: TargetSession, asked: Asked, locks: readonly GrantMessage[]): void {
    checkGrants(asked, locks);
    for (const { handle } of locks) needFreshHandle(target, handle);
    for (const grant of locks) {
      const { handle, fid, type, mode, bits } = grant;
      const lock = target.locks.add({ handle, fid, type, mode, bits: bits ?? 0 });
      if (type === 'data') this.#tables.files.of(fid);
      if (isOwnFileLock(grant)) this.#own(target, lock, asked.parent);
    }
    // Locks take memory from what pages may have.
    if (locks.length > 0) this.#tables.pages.makeRoom();
  }

  #own(target: TargetSession, lock: CachedLock, parent: Fid | undefined): void {
    // The client has removed it since it asked.
    if (this.#tables.attrs.get(lock.fid as Fid)?.nlink === 0) return;
    const home = parent === undefined ? undefined : target.locks.match('inode', parent, 'EX', OWN_BITS);
    target.own.addLocked(lock, home);
  }

  /**
   * Attributes from a reply, in its apply(), after its grants.
   * @param own the reply is to an operation of ours that set size or times. The client flushed the file before it.
   */
  applyAttr(target: TargetSession, attr: Attr, own = false): void {
    const { fid } = attr;
    // What the client has changed since is not in it. It changes no size of a file by itself.
    if (target.changes.touches(fid)) {
      if (own && target.locks.holds('data', fid)) this.#tables.files.get(fid)?.adoptSize(attr);
      return;
    }
    if (fid === ROOT_FID) this.#tables.attrs.sawRoot(attr);
    let bits = BIT_ATTR;
    if (isRegular(attr.mode)) {
      const file = this.#tables.files.get(fid);
      if (file !== undefined) applySize(target, file, attr, own);
    } else if (isDir(attr.mode)) {
      bits |= BIT_UPDATE;
    }
    if (target.locks.match('inode', fid, 'PR', bits) !== undefined) this.#tables.attrs.put(attr);
    else this.#tables.attrs.delete(fid);
  }

  applyName(target: TargetSession, parent: Fid, name: Name, fid: Fid | 0): void {
    if (target.changes.changesName(parent, name) || !this.holdsNames(target, parent)) return;
    this.#tables.names.put(parent, name, fid);
  }

  // What the client believes.

  holdsNames(target: TargetSession, parent: Fid): boolean {
    return target.locks.match('inode', parent, 'PR', BIT_UPDATE) !== undefined;
  }

  /** A lock of ours keeps it true that the inode has no extended attributes. */
  lacksXattrs(target: TargetSession, fid: Fid): boolean {
    if (this.#tables.attrs.get(fid)?.noXattrs !== true) return false;
    return target.locks.match('inode', fid, 'PR', BIT_ATTR) !== undefined;
  }

  /** Attributes that locks of ours keep true, or undefined. */
  cachedAttr(target: TargetSession, fid: Fid): AttrsWithValidity | undefined {
    const attr = this.#tables.attrs.get(fid);
    if (attr === undefined) return undefined;
    const known = this.withValidity(target, attr, undefined);
    return known.attrCacheable ? known : undefined;
  }

  /**
   * The inode as it is now, for the caller to hand out in this turn.
   * @param attr what the reply said; what the cache has under a lock is not older.
   * @param parent the directory in which its name was looked up.
   */
  withValidity(target: TargetSession, attr: Attr, parent: Fid | undefined): AttrsWithValidity {
    const { fid } = attr;
    const { locks } = target;
    const nameCacheable = parent !== undefined && this.holdsNames(target, parent);
    const fresh = this.#tables.attrs.get(fid) ?? attr;
    if (isRegular(fresh.mode)) {
      const file = this.#tables.files.get(fid);
      if (file === undefined || !file.sizeKnown || !locks.holds('data', fid)) {
        return { attr: withBlocks(fresh), attrCacheable: false, nameCacheable };
      }
      const attrCacheable =
        locks.match('inode', fid, 'PR', BIT_ATTR) !== undefined &&
        locks.match('data', fid, 'PR', 0) !== undefined;
      return { attr: withSize(fresh, file), attrCacheable, nameCacheable };
    }
    const bits = isDir(fresh.mode) ? BIT_ATTR | BIT_UPDATE : BIT_ATTR;
    const attrCacheable = locks.match('inode', fid, 'PR', bits) !== undefined;
    return { attr: fresh, attrCacheable, nameCacheable };
  }

  /** Locks to ask for with an operation in this directory. */
  wantParent(target: TargetSession, parent: Fid): number {
    const held = target.locks.match('inode', parent, 'PR', BIT_UPDATE | BIT_ATTR);
    return held === undefined ? WANT_PARENT : 0;
  }

  /** Locks to ask for with the attributes of an inode. */
  wantAttr(target: TargetSession, fid: Fid): number {
    const attr = this.#tables.attrs.get(fid);
    // The cache has an entry only under its lock.
    if (attr === undefined) return WANT_ATTR | WANT_DATA_READ;
    return isRegular(attr.mode) && !target.locks.holds('data', fid) ? WANT_DATA_READ : 0;
  }
}

/** @throws FsError EPROTO if the client has a lock under this handle already. */
export function needFreshHandle({ locks }: TargetSession, handle: LockHandle): void {
  if (locks.knows(handle))
    throw new FsError('EPROTO', `the server granted two locks under the handle ${handle}`);
}

function applySize(target: TargetSession, file: FileState, attr: Attr, own: boolean): void {
  const { locks } = target;
  if (!locks.holds('data', file.fid)) {
    file.sizeKnown = false;
  } else if (own || !file.sizeKnown || locks.find('data', file.fid, 'PW', 0) === undefined) {
    file.adopt(attr);
  } else if (compareTime(attr.ctime, file.ctime) > 0) {
    file.ctime = attr.ctime;
  }
}

function withBlocks(attr: Attr): Attr {
  const blocks = shownBlocks(attr.blocks);
  return blocks === attr.blocks ? attr : { ...attr, blocks };
}

/** Attributes of a file under a data lock: size and times come from what this client keeps. */
function withSize(attr: Attr, file: FileState): Attr {
  return {
    ...attr,
    sizeBytes: file.sizeBytes,
    blocks: Math.max(shownBlocks(file.blocks), blocksOfUnwritten(file.unwrittenBytes)),
    mtime: file.mtime,
    ctime: compareTime(file.ctime, attr.ctime) > 0 ? file.ctime : attr.ctime,
  };
}
