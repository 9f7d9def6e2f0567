/**
 * The changes that repairs consist of. A transaction sees its own changes, so repairs that change one record (the
 * counters, a directory that gains two names) run one after the other. Each repair reads the records again when it
 * runs: an earlier repair may have changed them since the check.
 */

import { isDir, S_IFDIR, S_IFMT } from '../../base/attr.js';
import { type Fid, fidOf, type Name, ROOT_FID } from '../../base/ids.js';
import type { Checksum } from '../../runtime/ports.js';
import type { Dirent, Inode } from '../api.js';
import { afterPrefix, bareKey, fidKey, fidNameKey, fidNumberKey, KEY } from '../format/keys.js';
import {
  COUNTERS_BYTES,
  type Counters,
  DIRENT_BY_COOKIE_HEADER,
  DIRENT_BY_NAME_BYTES,
  damaged,
  decodeCounters,
  decodeDirentByCookie,
  decodeDirentByName,
  decodeInode,
  encodeCounters,
  encodeDirentByCookie,
  encodeDirentByName,
  encodedInode,
  MARK_RECORD,
} from '../format/records.js';
import { encodeSuperblock } from '../format/superblock.js';
import { storedSuperblock } from '../meta/superblock_layer.js';
import type { MetaDatabase, Writer } from '../meta_medium.js';

const LOST_AND_FOUND = 'lost+found' as Name;

export class RepairTx {
  readonly #db: MetaDatabase;
  /** By key as latin1 text; null means removed. */
  readonly #changes = new Map<string, Buffer | null>();

  constructor(db: MetaDatabase) {
    this.#db = db;
  }

  get size(): number {
    return this.#changes.size;
  }
  get(key: Buffer): Buffer | undefined {
    const changed = this.#changes.get(key.toString('latin1'));
    if (changed !== undefined) return changed ?? undefined;
    const value = this.#db.get(key);
    // Copy the value: it is a view whose memory is longer than the view.
    return value === undefined ? undefined : Buffer.from(value.subarray(0, value.length));
  }
  put(key: Buffer, value: Buffer): void {
    this.#changes.set(key.toString('latin1'), value);
  }
  remove(key: Buffer): void {
    if (this.get(key) !== undefined) this.#changes.set(key.toString('latin1'), null);
  }
  write(writer: Writer): void {
    for (const [text, value] of this.#changes) {
      const key = Buffer.from(text, 'latin1');
      if (value === null) writer.remove(key);
      else writer.put(key, value);
    }
  }

  counters(): Counters {
    const value = this.get(bareKey(KEY.counters));
    if (value === undefined) throw damaged('counters');
    return decodeCounters(value);
  }
  setCounters(change: Partial<Counters>): void {
    const value = Buffer.alloc(COUNTERS_BYTES);
    encodeCounters({ ...this.counters(), ...change }, value);
    this.put(bareKey(KEY.counters), value);
  }
  /** Sets feature bits of the superblock. */
  addFeatures(features: number, checksum: Checksum): void {
    const superblock = storedSuperblock(this, checksum);
    const featuresIncompat = superblock.featuresIncompat | features;
    this.put(bareKey(KEY.superblock), encodeSuperblock({ ...superblock, featuresIncompat }, checksum));
  }
  inode(fid: Fid): Inode | undefined {
    const value = this.get(fidKey(KEY.inode, fid));
    return value === undefined ? undefined : decodeInode(fid, value);
  }
  putInode(inode: Inode): void {
    this.put(fidKey(KEY.inode, inode.fid), encodedInode(inode));
  }
  changeInode(fid: Fid, change: Partial<Inode>): void {
    const inode = this.inode(fid);
    if (inode !== undefined) this.putInode({ ...inode, ...change });
  }
  mark(type: typeof KEY.orphan | typeof KEY.doomed, fid: Fid): void {
    this.put(fidKey(type, fid), MARK_RECORD);
  }
  /** Removes all records that belong to a missing inode. The server frees the blocks, in steps. */
  removeContent(fid: Fid): void {
    const xattrs = fidKey(KEY.xattr, fid);
    for (const { key } of this.#db.range(xattrs, afterPrefix(xattrs))) this.remove(key);
    this.remove(fidKey(KEY.symlink, fid));
    this.remove(fidKey(KEY.inlineData, fid));
    const blockMaps = fidKey(KEY.blockMap, fid);
    const [blockMap] = this.#db.range(blockMaps, afterPrefix(blockMaps), 1);
    if (blockMap !== undefined) this.mark(KEY.doomed, fid);
  }

  /** The record by name, if it is readable. */
  dirent(parent: Fid, name: Name): Dirent | undefined {
    const value = this.get(fidNameKey(KEY.direntByName, parent, name));
    return value === undefined ? undefined : readableName(name, value);
  }
  position(parent: Fid, cookie: number): Dirent | undefined {
    const value = this.get(fidNumberKey(KEY.direntByCookie, parent, cookie));
    return value === undefined ? undefined : readablePosition(cookie, value);
  }
  putDirent(parent: Fid, dirent: Dirent): void {
    const byName = Buffer.alloc(DIRENT_BY_NAME_BYTES);
    encodeDirentByName(dirent, byName);
    this.put(fidNameKey(KEY.direntByName, parent, dirent.name), byName);
    const byCookie = Buffer.alloc(DIRENT_BY_COOKIE_HEADER + dirent.name.length);
    encodeDirentByCookie(dirent, byCookie);
    this.put(fidNumberKey(KEY.direntByCookie, parent, dirent.cookie), byCookie);
  }
  takeCookie(): number {
    const { nextCookie } = this.counters();
    this.setCounters({ nextCookie: nextCookie + 1 });
    return nextCookie;
  }
}

/** @returns undefined if the record is damaged. */
export function readableName(name: Name, value: Buffer): Dirent | undefined {
  if (value.length !== DIRENT_BY_NAME_BYTES || value[0] !== 1) return undefined;
  return decodeDirentByName(name, value);
}
/** @returns undefined if the record is damaged. */
export function readablePosition(cookie: number, value: Buffer): Dirent | undefined {
  if (value.length <= DIRENT_BY_COOKIE_HEADER || value[0] !== 1) return undefined;
  return decodeDirentByCookie(cookie, value);
}

/** Gives a name its position: the one that its record names, or a new one if another name has that position. */
export function placeName(tx: RepairTx, parent: Fid, name: Name, change: Partial<Dirent> = {}): void {
  const before = tx.dirent(parent, name);
  if (before === undefined) return;
  const dirent = { ...before, ...change };
  const there = tx.position(parent, dirent.cookie);
  const owner = there === undefined || there.name === name ? undefined : tx.dirent(parent, there.name);
  const isTaken = owner !== undefined && owner.cookie === dirent.cookie;
  const isSound = dirent.cookie > 0 && dirent.cookie < tx.counters().nextCookie;
  tx.putDirent(parent, isTaken || !isSound ? { ...dirent, cookie: tx.takeCookie() } : dirent);
}

/** Moves a name to a position of its own, because another name of the target has the same position. */
export function moveName(tx: RepairTx, parent: Fid, name: Name): void {
  const before = tx.dirent(parent, name);
  if (before === undefined) return;
  if (tx.position(parent, before.cookie)?.name === name) {
    tx.remove(fidNumberKey(KEY.direntByCookie, parent, before.cookie));
  }
  tx.putDirent(parent, { ...before, cookie: tx.takeCookie() });
}

export function removeName(tx: RepairTx, parent: Fid, name: Name): void {
  const dirent = tx.dirent(parent, name);
  if (dirent === undefined) return;
  tx.remove(fidNameKey(KEY.direntByName, parent, name));
  if (tx.position(parent, dirent.cookie)?.name === name) {
    tx.remove(fidNumberKey(KEY.direntByCookie, parent, dirent.cookie));
  }
}

/**
 * Names an inode that has no name: `#FID` in /lost+found. Makes /lost+found if there is none. Only on a target that has
 * the root, and only if no other inode has that name.
 */
export function reconnect(tx: RepairTx, fid: Fid, targetIndex: number): void {
  const inode = tx.inode(fid);
  const home = lostAndFound(tx, targetIndex);
  if (inode === undefined || home === undefined) return;
  let name = `#${fid}` as Name;
  for (let attempt = 1; tx.get(fidNameKey(KEY.direntByName, home.fid, name)) !== undefined; attempt++) {
    name = `#${fid}.${attempt}` as Name;
  }
  tx.putDirent(home.fid, { name, fid, type: inode.mode & S_IFMT, cookie: tx.takeCookie() });
  if (isDir(inode.mode)) {
    tx.putInode({ ...inode, parent: home.fid, nlink: Math.max(2, inode.nlink) });
    tx.changeInode(home.fid, { nlink: home.nlink + 1 });
  } else {
    tx.putInode({ ...inode, nlink: 1 });
  }
}

/** Whether there is a /lost+found, or fsck may make one. Only on a target that has the root. */
export function canReconnect(db: MetaDatabase): boolean {
  const name = fidNameKey(KEY.direntByName, ROOT_FID, LOST_AND_FOUND);
  return db.get(name) === undefined || existingLostAndFound(new RepairTx(db)) !== undefined;
}

function existingLostAndFound(tx: RepairTx): Inode | undefined {
  const entry = tx.dirent(ROOT_FID, LOST_AND_FOUND);
  const found = entry === undefined ? undefined : tx.inode(entry.fid);
  return found !== undefined && isDir(found.mode) && found.nlink > 0 ? found : undefined;
}

/** @returns undefined if the name belongs to something else, or there is no root. */
function lostAndFound(tx: RepairTx, targetIndex: number): Inode | undefined {
  if (tx.get(fidNameKey(KEY.direntByName, ROOT_FID, LOST_AND_FOUND)) !== undefined) {
    return existingLostAndFound(tx);
  }
  const root = tx.inode(ROOT_FID);
  if (root === undefined || !isDir(root.mode)) return undefined;
  const { nextObject, inodes } = tx.counters();
  tx.setCounters({ nextObject: nextObject + 1, inodes: inodes + 1 });
  const made: Inode = {
    ...root,
    fid: fidOf(targetIndex, nextObject),
    mode: S_IFDIR | 0o700,
    nlink: 2,
    parent: ROOT_FID,
    uid: 0,
    gid: 0,
  };
  tx.putInode(made);
  tx.putDirent(ROOT_FID, { name: LOST_AND_FOUND, fid: made.fid, type: S_IFDIR, cookie: tx.takeCookie() });
  tx.putInode({ ...root, nlink: root.nlink + 1 });
  return made;
}
