/**
 * Names. Each name has two records, by name and by position, that say the same. Fsck reads both kinds in full, and
 * compares each record with the other one. The record by name counts: look-ups use it. If a record is lost or damaged,
 * fsck makes it again from the other one.
 *
 * A position without a name has one of two causes: the name was lost, or the position was left when the name was
 * removed. The inode tells which: a name was lost if the inode has more links than names.
 */

import { isDir } from '../../base/attr.js';
import { displayName, type Fid, NAME_MAX, type Name, ROOT_FID } from '../../base/ids.js';
import type { Dirent } from '../api.js';
import { afterPrefix, fidKey, fidNameKey, fidNumberKey, KEY, readU64 } from '../format/keys.js';
import { type InodeIndex, NumberList } from './inodes.js';
import { moveName, placeName, readableName, readablePosition, removeName } from './repair.js';
import type { Finding, FindingKind, Repair } from './report.js';
import { type FsckContext, isSoundKey, type KeyValue, reportKey, scanType } from './scan.js';

const DUPLICATES_MAX = 10_000;
/** Fsck remembers names whose records are damaged, and FIDs of missing inodes, up to this number. */
const REMEMBERED_MAX = 1_000_000;

export interface NamesResult {
  readonly lastCookie: number;
  /** FIDs that a name leads to and that have content, but no inode. undefined: there are too many to tell. */
  readonly namedGhosts: ReadonlySet<number> | undefined;
}

export async function checkNames(context: FsckContext, index: InodeIndex): Promise<NamesResult> {
  const pass = new NamesPass(context, index);
  context.progress('names', 0);
  await pass.names();
  context.progress('positions', 0);
  await pass.positions();
  await pass.sharedCookies();
  return {
    lastCookie: pass.lastCookie,
    namedGhosts: pass.namedGhosts.size < REMEMBERED_MAX ? pass.namedGhosts : undefined,
  };
}

class NamesPass {
  lastCookie = 0;
  readonly namedGhosts = new Set<number>();
  readonly #context: FsckContext;
  readonly #index: InodeIndex;
  readonly #cookies = new NumberList();
  /** Names whose record is damaged, by key, until a position says what the record was. */
  readonly #damagedNames = new Map<string, Finding>();
  /** Positions whose record is damaged; the repair makes them again from the name. */
  readonly #damagedPositions = new Set<string>();
  /** The directory that the pass reads: its FID and index (-1: it does not exist). */
  #parent = 0;
  #parentAt = -1;

  constructor(context: FsckContext, index: InodeIndex) {
    this.#context = context;
    this.#index = index;
  }

  #add(kind: FindingKind, fid: Fid, text: string, repair?: Repair): void {
    this.#context.findings.add({ kind, fid, text, ...(repair === undefined ? {} : { repair }) });
  }

  // ---- By name.

  async names(): Promise<void> {
    const { counts } = this.#context;
    await scanType(this.#context, KEY.direntByName, (record) => {
      if (!isSoundKey(record.key)) {
        reportKey(this.#context.findings, record);
        return;
      }
      counts.names++;
      if (counts.names % 1000 === 0) this.#context.progress('names', counts.names);
      const parent = readU64(record.key, 1) as Fid;
      if (parent !== this.#parent) this.#enter(parent);
      this.#name(parent, record.key.toString('latin1', 9) as Name, record);
    });
  }

  #enter(parent: Fid): void {
    this.#parent = parent;
    this.#parentAt = this.#index.find(parent);
    if (this.#parentAt < 0) {
      this.#add('directory', parent, `directory ${parent} does not exist, but has names`);
    } else if (!this.#index.isDirectory(this.#parentAt) && this.#index.type(this.#parentAt) !== 0) {
      this.#add('directory', parent, `inode ${parent} is no directory, but has names`);
    }
  }

  #name(parent: Fid, name: Name, { key, value }: KeyValue): void {
    const text = `the name ${displayName(name)} in directory ${parent}`;
    if (!isName(name)) this.#add('name', parent, `${text} is no name`);
    const dirent = readableName(name, value);
    if (dirent === undefined) {
      const finding: Finding = {
        kind: 'damaged-record',
        fid: parent,
        text: `the record of ${text} is damaged`,
      };
      if (this.#damagedNames.size < REMEMBERED_MAX) this.#damagedNames.set(key.toString('latin1'), finding);
      else this.#context.findings.add(finding);
      return;
    }
    const at = this.#index.find(dirent.fid);
    if (at < 0) {
      this.#dangling(parent, dirent, text);
      return;
    }
    this.#index.countName(at, this.#parentAt);
    const type = this.#index.type(at);
    if (type !== 0 && type !== dirent.type) {
      this.#add('name', dirent.fid, `${text} says that inode ${dirent.fid} is ${kindOf(dirent.type)}`, {
        stage: 'records',
        done: `set to ${kindOf(type)}`,
        apply: (tx) => placeName(tx, parent, name, { type }),
      });
    } else if (dirent.fid === ROOT_FID) {
      this.#add('name', dirent.fid, `${text} leads to the root`);
    } else {
      this.#positionOf(parent, dirent, text);
    }
  }

  #dangling(parent: Fid, dirent: Dirent, text: string): void {
    const { fid, name } = dirent;
    if (this.#hasContent(fid)) {
      if (this.namedGhosts.size < REMEMBERED_MAX) this.namedGhosts.add(fid);
      this.#add('dangling-name', fid, `${text} leads to inode ${fid}, of which only the content is there`);
      return;
    }
    this.#add('dangling-name', fid, `${text} leads to inode ${fid}, which does not exist`, {
      stage: 'records',
      done: 'removed',
      apply: (tx) => removeName(tx, parent, name),
    });
  }

  /** Whether a record other than the inode belongs to this FID. */
  #hasContent(fid: Fid): boolean {
    const { db } = this.#context;
    const types = [KEY.direntByName, KEY.xattr, KEY.symlink, KEY.inlineData, KEY.blockMap];
    // A file that the server is removing does not count.
    if (db.get(fidKey(KEY.doomed, fid)) !== undefined) return false;
    return types.some((type) => {
      const prefix = fidKey(type, fid);
      return [...db.range(prefix, afterPrefix(prefix), 1)].length > 0;
    });
  }

  #positionOf(parent: Fid, dirent: Dirent, text: string): void {
    const { cookie, fid, name, type } = dirent;
    const key = fidNumberKey(KEY.direntByCookie, parent, cookie);
    const value = this.#context.db.get(key);
    const position = value === undefined ? undefined : readablePosition(cookie, value);
    let fault: string | undefined;
    if (value === undefined) fault = `${text} has no record at its position ${cookie}`;
    else if (position === undefined) fault = `the record at position ${cookie}, of ${text}, is damaged`;
    else if (position.name !== name)
      fault = `${text} says it is at position ${cookie}, where another name is`;
    else if (position.fid !== fid || position.type !== type) {
      fault = `${text} leads to inode ${fid}, but to ${position.fid} by its position ${cookie}`;
    }
    if (fault === undefined) return;
    if (value !== undefined && position === undefined) this.#damagedPositions.add(key.toString('latin1'));
    this.#add('position', fid, fault, {
      stage: 'records',
      done: 'written again',
      apply: (tx) => placeName(tx, parent, name),
    });
  }

  // ---- By position.

  async positions(): Promise<void> {
    let count = 0;
    await scanType(this.#context, KEY.direntByCookie, (record) => {
      if (!isSoundKey(record.key)) {
        reportKey(this.#context.findings, record);
        return;
      }
      count++;
      if (count % 1000 === 0) this.#context.progress('positions', count);
      const cookie = readU64(record.key, 9);
      this.#cookies.push(cookie);
      this.lastCookie = Math.max(this.lastCookie, cookie);
      this.#position(readU64(record.key, 1) as Fid, cookie, record);
    });
    for (const finding of this.#damagedNames.values()) this.#context.findings.add(finding);
  }

  #position(parent: Fid, cookie: number, { key, value }: KeyValue): void {
    const position = readablePosition(cookie, value);
    const where = `position ${cookie} in directory ${parent}`;
    if (position === undefined) {
      if (this.#damagedPositions.has(key.toString('latin1'))) return;
      this.#removable(
        parent,
        cookie,
        `the record at ${where}, which no name has, is damaged`,
        'damaged-record',
      );
      return;
    }
    const nameKey = fidNameKey(KEY.direntByName, parent, position.name);
    const named = this.#context.db.get(nameKey);
    const text = `the name ${displayName(position.name)} at ${where}`;
    if (named !== undefined) {
      const dirent = readableName(position.name, named);
      if (dirent?.cookie === cookie) return;
      const damaged = this.#damagedNames.get(nameKey.toString('latin1'));
      if (dirent === undefined && damaged !== undefined) {
        this.#damagedNames.delete(nameKey.toString('latin1'));
        this.#restore(parent, position, 'damaged-record', damaged.text);
        return;
      }
      this.#removable(parent, cookie, `${text} is at another position`);
      return;
    }
    if (this.#isLostName(parent, position)) {
      this.#restore(parent, position, 'position', `${text} has no record by name`);
    } else {
      this.#removable(parent, cookie, `${text} is no name of inode ${position.fid}`);
    }
  }

  #isLostName(parent: Fid, { fid, name, type }: Dirent): boolean {
    const at = this.#index.find(fid);
    if (at < 0 || !isName(name) || this.#index.type(at) !== type) return false;
    if (isDir(type)) return this.#index.names(at) === 0 && this.#index.parent(at) === parent;
    return this.#index.names(at) < this.#index.nlink(at);
  }

  /** Makes the record by name again; from here on fsck counts the name. */
  #restore(parent: Fid, dirent: Dirent, kind: FindingKind, text: string): void {
    const at = this.#index.find(dirent.fid);
    if (at >= 0) this.#index.countName(at, this.#index.find(parent));
    this.#add(kind, dirent.fid, text, {
      stage: 'records',
      done: 'written again',
      apply: (tx) => tx.putDirent(parent, dirent),
    });
  }

  #removable(parent: Fid, cookie: number, text: string, kind: FindingKind = 'position'): void {
    this.#add(kind, parent, text, {
      stage: 'records',
      done: 'removed',
      apply: (tx) => {
        const position = tx.position(parent, cookie);
        // An earlier repair may have given the position to a name.
        if (position !== undefined && tx.dirent(parent, position.name)?.cookie === cookie) return;
        tx.remove(fidNumberKey(KEY.direntByCookie, parent, cookie));
      },
    });
  }

  // ---- Positions are never used twice on a target.

  async sharedCookies(): Promise<void> {
    const shared = this.#cookies.duplicates(DUPLICATES_MAX);
    if (shared.size === 0) return;
    const first = new Set<number>();
    await scanType(this.#context, KEY.direntByCookie, ({ key, value }) => {
      const cookie = isSoundKey(key) ? readU64(key, 9) : 0;
      if (!shared.has(cookie)) return;
      if (!first.has(cookie)) {
        first.add(cookie);
        return;
      }
      const parent = readU64(key, 1) as Fid;
      const name = readablePosition(cookie, value)?.name;
      if (name === undefined) return;
      const text = `position ${cookie} of the name ${displayName(name)} in directory ${parent} is used twice`;
      this.#add('position', parent, text, {
        stage: 'records',
        done: 'moved',
        apply: (tx) => moveName(tx, parent, name),
      });
    });
  }
}

function isName(name: string): boolean {
  return (
    name.length > 0 &&
    name.length <= NAME_MAX &&
    name !== '.' &&
    name !== '..' &&
    !name.includes('/') &&
    !name.includes('\0')
  );
}

const KINDS: Readonly<Record<number, string>> = {
  49152: 'a socket',
  40960: 'a symbolic link',
  32768: 'a regular file',
  24576: 'a block device',
  16384: 'a directory',
  8192: 'a character device',
  4096: 'a fifo',
};
function kindOf(type: number): string {
  return KINDS[type] ?? `of type ${type}`;
}
