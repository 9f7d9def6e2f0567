/**
 * Links: counts the names that lead to each inode, and checks that every directory hangs on the root by the parent that
 * it names. Works on what the passes before it remembered; reads no inode records.
 */

import { type Fid, ROOT_FID } from '../../base/ids.js';
import { afterPrefix, fidKey, KEY } from '../format/keys.js';
import type { MetaDatabase } from '../meta_medium.js';
import { ASTRAY, DAMAGED, type InodeIndex, ON_WAY, ORPHAN, REACHED } from './inodes.js';
import { canReconnect, reconnect } from './repair.js';
import type { FindingKind, Repair } from './report.js';
import { breathe, type FsckContext } from './scan.js';

const INODES_A_BREATH = 10_000;

export async function checkTree(context: FsckContext, index: InodeIndex): Promise<void> {
  const judge = new TreeJudge(context, index);
  judge.root();
  for (let at = 0; at < index.length; at++) {
    judge.links(at);
    if (judge.hasRoot) judge.way(at);
    if (at % INODES_A_BREATH === 0) await breathe(context.runtime);
  }
}

class TreeJudge {
  readonly #context: FsckContext;
  readonly #index: InodeIndex;
  readonly #canReconnect: boolean;
  hasRoot = false;

  constructor(context: FsckContext, index: InodeIndex) {
    this.#context = context;
    this.#index = index;
    this.#canReconnect = canReconnect(context.db);
  }

  #add(kind: FindingKind, fid: Fid, text: string, repair?: Repair): void {
    this.#context.findings.add({ kind, fid, text, ...(repair === undefined ? {} : { repair }) });
  }

  /** The root lives on target 0. */
  root(): void {
    if (this.#context.superblock.targetIndex !== 0) return;
    const index = this.#index;
    const at = index.find(ROOT_FID);
    if (at < 0) this.#add('directory', ROOT_FID, 'the root directory does not exist');
    else if (index.has(at, DAMAGED)) return;
    else if (!index.isDirectory(at)) this.#add('directory', ROOT_FID, 'the root is no directory');
    else {
      this.hasRoot = true;
      index.set(at, REACHED);
    }
  }

  links(at: number): void {
    const index = this.#index;
    if (index.has(at, DAMAGED)) return;
    const fid = index.fid(at);
    const names = index.names(at);
    const isDirectory = index.isDirectory(at);
    if (fid === ROOT_FID) {
      if (!this.hasRoot) return;
      this.#count(at, 2 + index.subdirs(at));
      this.#parentIs(at, ROOT_FID);
      return;
    }
    if (names > 0 && index.has(at, ORPHAN)) {
      this.#add('orphan', fid, `inode ${fid} has a name, but is marked as an orphan`, {
        stage: 'links',
        done: 'mark removed',
        apply: (tx) => tx.remove(fidKey(KEY.orphan, fid)),
      });
    }
    if (names === 0) this.#nameless(at);
    else if (!isDirectory) this.#count(at, names);
    else this.#directory(at, names);
  }

  #directory(at: number, names: number): void {
    const index = this.#index;
    const fid = index.fid(at);
    if (names > 1) {
      this.#add('directory', fid, `${names} names lead to directory ${fid}`);
      return;
    }
    this.#count(at, 2 + index.subdirs(at));
    const holder = index.holder(at);
    if (holder >= 0) this.#parentIs(at, index.fid(holder));
  }

  #count(at: number, expected: number): void {
    const nlink = this.#index.nlink(at);
    if (nlink === expected) return;
    const fid = this.#index.fid(at);
    this.#add('link-count', fid, `inode ${fid} has the link count ${nlink}, but ${expected} links`, {
      stage: 'links',
      done: `set to ${expected}`,
      apply: (tx) => tx.changeInode(fid, { nlink: expected }),
    });
  }

  #parentIs(at: number, expected: Fid | 0): void {
    const parent = this.#index.parent(at);
    if (parent === expected) return;
    const fid = this.#index.fid(at);
    const said = parent === 0 ? 'no directory' : `directory ${parent}`;
    const right = expected === 0 ? 'none' : `${expected}`;
    this.#add('parent', fid, `directory ${fid} has ${said} as its parent, but it is in ${right}`, {
      stage: 'links',
      done: `set to ${right}`,
      apply: (tx) => tx.changeInode(fid, { parent: expected }),
    });
  }

  /** The inode has no name: it is unlinked and open, or lost. */
  #nameless(at: number): void {
    const index = this.#index;
    const fid = index.fid(at);
    const isOrphan = index.has(at, ORPHAN);
    if (index.isDirectory(at) && (isOrphan || index.nlink(at) === 0) && hasNames(this.#context.db, fid)) {
      this.#add('directory', fid, `directory ${fid} was removed, but has names`);
      return;
    }
    if (isOrphan) {
      this.#count(at, 0);
      if (index.isDirectory(at)) this.#parentIs(at, 0);
    } else if (index.nlink(at) === 0) {
      this.#add('orphan', fid, `inode ${fid} was unlinked, but is not marked as an orphan`, {
        stage: 'links',
        done: 'marked',
        apply: (tx) => tx.mark(KEY.orphan, fid),
      });
    } else {
      this.#lost(at, fid);
    }
  }

  #lost(at: number, fid: Fid): void {
    const kind = this.#index.isDirectory(at) ? 'directory' : 'inode';
    const { superblock } = this.#context;
    const repair: Repair = {
      stage: 'lost+found',
      done: `named /lost+found/#${fid}`,
      apply: (tx) => reconnect(tx, fid, superblock.targetIndex),
    };
    const text = `${kind} ${fid} has the link count ${this.#index.nlink(at)}, but no name`;
    this.#add('nameless', fid, text, this.hasRoot && this.#canReconnect ? repair : undefined);
  }

  /** Follows the names from a directory upwards, and remembers whether the way leads to the root. */
  way(at: number): void {
    const index = this.#index;
    if (!index.isDirectory(at) || index.has(at, REACHED | ASTRAY)) return;
    const way: number[] = [];
    let here = at;
    while (here >= 0 && !index.has(here, REACHED | ASTRAY | ON_WAY)) {
      index.set(here, ON_WAY);
      way.push(here);
      here = index.holder(here);
    }
    const reached = here >= 0 && index.has(here, REACHED);
    if (here >= 0 && index.has(here, ON_WAY)) {
      const fids = way.slice(way.indexOf(here)).map((one) => index.fid(one));
      const text = `directories ${fids.slice(0, 8).join(', ')} hold each other and do not hang on the root`;
      this.#add('cycle', index.fid(here), text);
    }
    for (const one of way) {
      index.unset(one, ON_WAY);
      index.set(one, reached ? REACHED : ASTRAY);
    }
  }
}

function hasNames(db: MetaDatabase, directory: Fid): boolean {
  const prefix = fidKey(KEY.direntByName, directory);
  return [...db.range(prefix, afterPrefix(prefix), 1)].length > 0;
}
