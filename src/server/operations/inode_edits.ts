/**
 * Inodes being changed by one operation. The two parents of a rename may be one inode, or a parent and a child at once:
 * reading and changing them all through here keeps each of them one thing.
 */

import { isDir, type Timespec } from '../../base/attr.js';
import type { Fid } from '../../base/ids.js';
import type { Inode, Tx } from '../../storage/api.js';
import { withoutNames } from '../target/orphans.js';
import type { ServedCall } from '../target/served_call.js';
import type { ServedTarget } from '../target/served_target.js';
import { needInode } from './checks.js';

export class Edits {
  readonly tx: Tx;
  readonly now: Timespec;
  readonly #target: ServedTarget;
  readonly #inodes = new Map<Fid, Inode>();

  /** @param time the request's, for replays. */
  constructor(call: ServedCall, tx: Tx, time: Timespec | undefined) {
    this.tx = tx;
    this.#target = call.target;
    this.now = call.time(time);
  }

  /** @throws FsError ESTALE */
  get(fid: Fid): Inode {
    return this.#inodes.get(fid) ?? needInode(this.tx, fid);
  }

  change(fid: Fid, changes: Partial<Inode>): Inode {
    const changed = { ...this.get(fid), ...changes };
    this.#inodes.set(fid, changed);
    return changed;
  }

  /** Names were added to or removed from the directory. */
  changeDirectory(fid: Fid, nlinkDelta: number): Inode {
    const { nlink } = this.get(fid);
    return this.change(fid, { nlink: nlink + nlinkDelta, mtime: this.now, ctime: this.now });
  }

  /** One name of the inode is gone; a directory has only one. */
  dropName(fid: Fid): Inode {
    const inode = this.get(fid);
    const nlink = isDir(inode.mode) ? 0 : inode.nlink - 1;
    const left = { ...inode, nlink, ctime: this.now };
    if (nlink > 0) return this.change(fid, left);
    this.#inodes.delete(fid);
    return withoutNames(this.#target, this.tx, left);
  }

  /** To be called last. */
  write(): void {
    for (const inode of this.#inodes.values()) this.tx.putInode(inode);
  }
}
