/**
 * Inodes being changed by one operation. The two parents of a rename may be one inode, or a parent and a child at once:
 * reading and changing them all through here keeps each of them one thing.
 */

import { isDir, type Timespec } from '../base/attr.js';
import type { Fid, Name } from '../base/ids.js';
import type { Inode, Tx } from '../storage/api.js';
import { needInode } from './checks.js';

/** What becomes of an inode that loses its last name: it stays without one while somebody uses it, or goes at once. */
export type Fate = 'orphan' | 'destroyed';

/** What a change depends on and no record says. */
export interface Circumstances {
  readonly now: Timespec;
  /** A replay: where the first name that the change makes lay in its directory; the others lie behind it, one by one. */
  readonly position?: number | undefined;
  /** Called once for each inode that loses its last name, inside the change that carries the answer out. */
  fateOf(fid: Fid): Fate;
}

export class Edits {
  readonly tx: Tx;
  readonly now: Timespec;
  /** Where the first name that the change has made lies in its directory. */
  position: number | undefined;
  readonly #circumstances: Circumstances;
  #names = 0;
  readonly #inodes = new Map<Fid, Inode>();

  constructor(tx: Tx, circumstances: Circumstances) {
    this.tx = tx;
    this.now = circumstances.now;
    this.#circumstances = circumstances;
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

  /** The directory must not have the name. */
  putName(parent: Fid, name: Name, fid: Fid, type: number): void {
    const first = this.#circumstances.position;
    const before = first === undefined ? undefined : first + this.#names++;
    const position = this.tx.putDirent(parent, name, fid, type, before);
    this.position ??= position;
  }

  /** Names were added to or removed from the directory. */
  changeDirectory(fid: Fid, nlinkDelta: number): Inode {
    const { nlink } = this.get(fid);
    return this.change(fid, { nlink: nlink + nlinkDelta, mtime: this.now, ctime: this.now });
  }

  /** One name of the inode is gone; a directory has only one. @returns the inode as it is now. */
  dropName(fid: Fid): Inode {
    const inode = this.get(fid);
    const nlink = isDir(inode.mode) ? 0 : inode.nlink - 1;
    if (nlink > 0) return this.change(fid, { nlink, ctime: this.now });
    this.#inodes.delete(fid);
    const nameless: Inode = { ...inode, nlink: 0, parent: 0, ctime: this.now };
    if (this.#circumstances.fateOf(fid) === 'orphan') {
      this.tx.putInode(nameless);
      this.tx.putOrphan(fid);
    } else {
      this.tx.destroyInode(fid);
    }
    return nameless;
  }

  /** To be called last. */
  write(): void {
    for (const inode of this.#inodes.values()) this.tx.putInode(inode);
  }
}
