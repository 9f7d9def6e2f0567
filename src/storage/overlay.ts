/**
 * The view that operations run on: what the database holds, under what executed operations changed since.
 *
 * Owns: the two layers of changes (tables.ts), the decoded inodes at hand, the counters, and the space bitmaps as the
 * executed operations have them. Reads look at the collecting layer, then the committing one, then the database.
 * A running operation writes into the collecting layer and is undone from a journal when it throws, so readers see all
 * of an operation or nothing: JavaScript runs nothing else meanwhile.
 *
 * Counters of things never to be handed out twice (objects, cookies) are written ahead of use: after a crash they go on
 * above anything that a client may have been told, committed or not.
 */

import { LRUCache } from 'lru-cache';
import { assert } from '../base/assert.js';
import { FsError } from '../base/errno.js';
import { type ClientUuid, type Fid, fidOf, type Name, type Transno } from '../base/ids.js';
import { logger } from '../base/log.js';
import type { Checksum } from '../runtime/ports.js';
import type { ClientRecord, Dirent, Inode, Tx } from './api.js';
import { type BatchTables, writeBatch } from './batch.js';
import type { Extent, ExtentAllocator } from './extent_allocator.js';
import { afterPrefix, bareKey, fidKey, fidNameKey, fidNumberKey, KEY, readU64 } from './keys.js';
import type { MetaDatabase, Writer } from './lmdb_store.js';
import {
  type Counters,
  decodeBytes,
  decodeClient,
  decodeDirentByCookie,
  decodeDirentByName,
  decodeInline,
  decodeInode,
  uuidFromBytes,
} from './records.js';
import { crc32c } from './superblock.js';
import { FidTable, Journal, Table } from './tables.js';
import { decodeWindow, type Window } from './window.js';

const log = logger('storage');

const INODE_CACHE_MAX = 50_000;
/** How far ahead of use the counters are written. */
const OBJECTS_AHEAD = 2 ** 22;
const COOKIES_AHEAD = 2 ** 22;
/** A file with more windows than this is destroyed in the background, so that an unlink stays short. */
export const DESTROY_AT_ONCE = 64;

/** What the running operation did beside the tables. */
interface Operation {
  readonly transno: Transno;
  readonly beforeChange: () => void;
  readonly counters: Counters;
  readonly bytes: number;
  readonly records: number;
  readonly allocated: Extent[];
  readonly freed: Extent[];
}

export class Overlay implements Tx {
  readonly #db: MetaDatabase;
  readonly #checksum: Checksum;
  readonly #targetIndex: number;
  readonly space: ExtentAllocator;
  readonly #tables: BatchTables = {
    inodes: new Table<Fid, Inode>(),
    names: new FidTable<Name, Dirent>(),
    cookies: new FidTable<number, Dirent>(),
    xattrs: new FidTable<string, Buffer>(),
    symlinks: new Table<Fid, Buffer>(),
    inline: new Table<Fid, Buffer>(),
    windows: new FidTable<number, Window>(),
    orphans: new Table<Fid, true>(),
    doomed: new Table<Fid, true>(),
    clients: new Table<ClientUuid, ClientRecord>(),
  };
  readonly #inodeCache = new LRUCache<Fid, Inode>({ max: INODE_CACHE_MAX });
  readonly #journal = new Journal();
  #operation: Operation | undefined;
  #counters: Counters;
  /** The counters' values on the device: nothing at or above them may be handed out before the next commit. */
  #counterLimits: Pick<Counters, 'nextObject' | 'nextCookie'>;
  #bytes = 0;
  #records = 0;
  #freed: Extent[] = [];
  #doomedNow = false;
  #sealedFreed: Extent[] = [];
  #sealedBytes = 0;
  #sealedGroups: { readonly group: number; readonly record: Buffer | undefined }[] = [];
  #sealedCounters: Counters | undefined;

  constructor(
    db: MetaDatabase,
    checksum: Checksum,
    targetIndex: number,
    counters: Counters,
    space: ExtentAllocator,
  ) {
    this.#db = db;
    this.#checksum = checksum;
    this.#targetIndex = targetIndex;
    this.#counters = counters;
    this.#counterLimits = counters;
    this.space = space;
  }

  // ---- Operations and batches.

  get running(): boolean {
    return this.#operation !== undefined;
  }
  get transno(): Transno {
    assert(this.#operation !== undefined, 'no operation is running');
    return this.#operation.transno;
  }
  get lastTransno(): Transno {
    return this.#counters.lastTransno;
  }
  get inodes(): number {
    return this.#counters.inodes;
  }
  /** A file was left to be destroyed in the background since the last look. */
  takeDoomed(): boolean {
    const doomed = this.#doomedNow;
    this.#doomedNow = false;
    return doomed;
  }
  /** Records changed and not sealed yet; and a rough size of all that is not durable, for the fill level of the device. */
  get collectedRecords(): number {
    return this.#records;
  }
  get pendingBytes(): number {
    return this.#bytes + this.#sealedBytes;
  }

  /** @param beforeChange called once, before the operation's first change; what it throws ends the operation. */
  begin(transno: Transno, beforeChange: () => void): void {
    assert(this.#operation === undefined, 'operations do not nest');
    this.#operation = {
      transno,
      beforeChange,
      counters: this.#counters,
      bytes: this.#bytes,
      records: this.#records,
      allocated: [],
      freed: [],
    };
  }
  rollback(): void {
    const operation = this.#running();
    this.#journal.rollback();
    this.#counters = operation.counters;
    this.#bytes = operation.bytes;
    this.#records = operation.records;
    this.#operation = undefined;
  }
  /** @returns whether it changed anything. */
  finish(): boolean {
    const operation = this.#running();
    const changed = !this.#journal.empty || this.#counters !== operation.counters;
    this.#journal.forget();
    for (const extent of operation.allocated) this.space.markUsed(extent);
    for (const extent of operation.freed) {
      this.space.markFreed(extent);
      this.#freed.push(extent);
    }
    if (changed) this.#counters = { ...this.#counters, lastTransno: operation.transno };
    this.#operation = undefined;
    return changed;
  }

  /** Closes the collecting layer: it is what the next write() writes. The one before it must have settled. */
  seal(final: boolean): void {
    for (const table of Object.values(this.#tables)) table.seal();
    this.#sealedFreed = this.#freed;
    this.#freed = [];
    this.#sealedBytes = this.#bytes;
    this.#bytes = 0;
    this.#records = 0;
    this.#sealedGroups = this.space.takeDirtyGroups();
    this.#sealedCounters = final
      ? this.#counters
      : {
          ...this.#counters,
          nextObject: this.#counters.nextObject + OBJECTS_AHEAD,
          nextCookie: this.#counters.nextCookie + COOKIES_AHEAD,
        };
  }
  /** The sealed layer as records. */
  write(writer: Writer): void {
    assert(this.#sealedCounters !== undefined, 'nothing is sealed');
    writeBatch(writer, this.#tables, this.#sealedGroups, this.#sealedCounters, (bytes) =>
      crc32c(this.#checksum, bytes),
    );
  }
  /** The sealed layer is durable: it is forgotten, and the blocks it freed may be handed out. */
  settle(): void {
    for (const [fid, inode] of this.#tables.inodes.sealed) {
      if (inode === null) this.#inodeCache.delete(fid);
      else this.#inodeCache.set(fid, inode);
    }
    for (const table of Object.values(this.#tables)) table.settle();
    for (const extent of this.#sealedFreed) this.space.release(extent, 'freed');
    this.#sealedFreed = [];
    this.#sealedBytes = 0;
    this.#sealedGroups = [];
    if (this.#sealedCounters !== undefined) this.#counterLimits = this.#sealedCounters;
    this.#sealedCounters = undefined;
  }

  // ---- Reading.

  inode(fid: Fid): Inode | undefined {
    const changed = this.#tables.inodes.get(fid);
    if (changed !== undefined) return changed ?? undefined;
    const cached = this.#inodeCache.get(fid);
    if (cached !== undefined) return cached;
    const value = this.#db.get(fidKey(KEY.inode, fid));
    if (value === undefined) return undefined;
    const inode = decodeInode(fid, value);
    this.#inodeCache.set(fid, inode);
    return inode;
  }
  dirent(parent: Fid, name: Name): Dirent | undefined {
    const changed = this.#tables.names.get(parent, name);
    if (changed !== undefined) return changed ?? undefined;
    const value = this.#db.get(fidNameKey(KEY.direntByName, parent, name));
    return value === undefined ? undefined : decodeDirentByName(name, value);
  }
  dirents(parent: Fid, after: number, limit: number): Dirent[] {
    const changes = this.#tables.cookies.changes(parent);
    const found: Dirent[] = [];
    if (limit <= 0) return found;
    const start = fidNumberKey(KEY.direntByCookie, parent, after + 1);
    const end = afterPrefix(fidKey(KEY.direntByCookie, parent));
    for (const { key, value } of this.#db.range(start, end)) {
      const cookie = readU64(key, 9);
      // Changed entries come below: a batch may be in the database already and not settled yet.
      if (changes?.has(cookie)) continue;
      found.push(decodeDirentByCookie(cookie, value));
      if (found.length === limit) return found;
    }
    // Cookies only grow, so entries of the layers come after those of the database, in the order they were made.
    for (const [cookie, dirent] of changes ?? []) {
      if (dirent === null || cookie <= after) continue;
      found.push(dirent);
      if (found.length === limit) break;
    }
    return found;
  }
  directoryEmpty(parent: Fid): boolean {
    return this.dirents(parent, 0, 1).length === 0;
  }
  xattr(fid: Fid, name: string): Buffer | undefined {
    const changed = this.#tables.xattrs.get(fid, name);
    if (changed !== undefined) return changed ?? undefined;
    const value = this.#db.get(fidNameKey(KEY.xattr, fid, name));
    return value === undefined ? undefined : decodeBytes(value, `xattr of ${fid}`);
  }
  xattrNames(fid: Fid): string[] {
    const changes = this.#tables.xattrs.changes(fid);
    const names: string[] = [];
    const prefix = fidKey(KEY.xattr, fid);
    for (const { key } of this.#db.range(prefix, afterPrefix(prefix))) {
      const name = key.toString('latin1', 9, key.length);
      if (!changes?.has(name)) names.push(name);
    }
    for (const [name, value] of changes ?? []) if (value !== null) names.push(name);
    return names;
  }
  symlinkTarget(fid: Fid): Buffer | undefined {
    const changed = this.#tables.symlinks.get(fid);
    if (changed !== undefined) return changed ?? undefined;
    const value = this.#db.get(fidKey(KEY.symlink, fid));
    return value === undefined ? undefined : decodeBytes(value, `symlink ${fid}`);
  }
  orphans(): Fid[] {
    return this.#marked(KEY.orphan, this.#tables.orphans);
  }
  clients(): ClientRecord[] {
    const changes = this.#tables.clients.changes();
    const found: ClientRecord[] = [];
    const prefix = bareKey(KEY.client);
    for (const { key, value } of this.#db.range(prefix, afterPrefix(prefix))) {
      const uuid = uuidFromBytes(key.subarray(1, 17)) as ClientUuid;
      if (!changes.has(uuid)) found.push(decodeClient(uuid, value));
    }
    for (const record of changes.values()) if (record !== null) found.push(record);
    return found;
  }
  /** Content of a file that lies in the database. @throws FsError EIO when its checksum is wrong. */
  inlineData(fid: Fid): Buffer | undefined {
    const changed = this.#tables.inline.get(fid);
    if (changed !== undefined) return changed ?? undefined;
    const value = this.#db.get(fidKey(KEY.inlineData, fid));
    if (value === undefined) return undefined;
    const { bytes, crc } = decodeInline(fid, value);
    if (crc32c(this.#checksum, bytes) !== crc) {
      log('checksum wrong: inline data of fid %d', fid);
      throw new FsError('EIO', `checksum wrong: inline data of ${fid}`);
    }
    return bytes;
  }
  /** Whether its content lies in the database, without looking at it. */
  hasInlineData(fid: Fid): boolean {
    const changed = this.#tables.inline.get(fid);
    return changed === undefined ? this.#db.get(fidKey(KEY.inlineData, fid)) !== undefined : changed !== null;
  }
  window(fid: Fid, index: number): Window | undefined {
    const changed = this.#tables.windows.get(fid, index);
    if (changed !== undefined) return changed ?? undefined;
    const value = this.#db.get(fidNumberKey(KEY.window, fid, index));
    return value === undefined ? undefined : decodeWindow(value, `window ${index} of ${fid}`);
  }
  /** Windows that are not empty, from index `first` on, in order, at most limit. */
  windowsFrom(fid: Fid, first: number, limit: number): [index: number, window: Window][] {
    const changes = this.#tables.windows.changes(fid);
    const newer = [...(changes ?? [])]
      .filter((entry): entry is [number, Window] => entry[1] !== null && entry[0] >= first)
      .sort((a, b) => a[0] - b[0]);
    const found: [number, Window][] = [];
    const takeNewer = (below: number): void => {
      for (
        let next = newer[0];
        next !== undefined && next[0] < below && found.length < limit;
        next = newer[0]
      ) {
        found.push(next);
        newer.shift();
      }
    };
    const end = afterPrefix(fidKey(KEY.window, fid));
    for (const { key, value } of this.#db.range(fidNumberKey(KEY.window, fid, first), end)) {
      const index = readU64(key, 9);
      takeNewer(index);
      if (found.length === limit) return found;
      if (changes?.has(index)) continue;
      found.push([index, decodeWindow(value, `window ${index} of ${fid}`)]);
    }
    takeNewer(Number.POSITIVE_INFINITY);
    return found;
  }
  /** Files whose data is still to be removed in the background. */
  doomed(): Fid[] {
    return this.#marked(KEY.doomed, this.#tables.doomed);
  }
  #marked(type: typeof KEY.orphan | typeof KEY.doomed, table: Table<Fid, true>): Fid[] {
    const changes = table.changes();
    const found: Fid[] = [];
    const prefix = bareKey(type);
    for (const { key } of this.#db.range(prefix, afterPrefix(prefix))) {
      const fid = readU64(key, 1) as Fid;
      if (!changes.has(fid)) found.push(fid);
    }
    for (const [fid, there] of changes) if (there !== null) found.push(fid);
    return found;
  }

  // ---- Changing. Only while an operation runs.

  #running(): Operation {
    assert(this.#operation !== undefined, 'a change outside an operation');
    return this.#operation;
  }
  #change(bytes: number): void {
    const operation = this.#running();
    if (this.#records === operation.records) operation.beforeChange();
    this.#records++;
    this.#bytes += bytes;
  }

  putInode(inode: Inode): void {
    this.#change(140);
    if (this.inode(inode.fid) === undefined) this.#count(1);
    this.#tables.inodes.set(inode.fid, inode, this.#journal);
  }
  destroyInode(fid: Fid): void {
    this.#change(0);
    if (this.inode(fid) !== undefined) this.#count(-1);
    this.#tables.inodes.set(fid, null, this.#journal);
    if (this.symlinkTarget(fid) !== undefined) this.#tables.symlinks.set(fid, null, this.#journal);
    for (const name of this.xattrNames(fid)) this.#tables.xattrs.set(fid, name, null, this.#journal);
    if (this.hasInlineData(fid)) this.#tables.inline.set(fid, null, this.#journal);
    const windows = this.windowsFrom(fid, 0, DESTROY_AT_ONCE + 1);
    if (windows.length > DESTROY_AT_ONCE) {
      this.#tables.doomed.set(fid, true, this.#journal);
      this.#doomedNow = true;
      return;
    }
    for (const [index, window] of windows) this.removeWindow(fid, index, window);
  }
  putDirent(parent: Fid, name: Name, fid: Fid, type: number): void {
    assert(this.dirent(parent, name) === undefined, 'the name is there already');
    this.#change(2 * (40 + name.length));
    const cookie = this.#counters.nextCookie;
    if (cookie >= this.#counterLimits.nextCookie)
      throw new FsError('EAGAIN', 'too many entries between commits');
    this.#counters = { ...this.#counters, nextCookie: cookie + 1 };
    const dirent: Dirent = { name, fid, type, cookie };
    this.#tables.names.set(parent, name, dirent, this.#journal);
    this.#tables.cookies.set(parent, cookie, dirent, this.#journal);
  }
  removeDirent(parent: Fid, name: Name): void {
    const dirent = this.dirent(parent, name);
    assert(dirent !== undefined, 'the name is not there');
    this.#change(0);
    this.#tables.names.set(parent, name, null, this.#journal);
    this.#tables.cookies.set(parent, dirent.cookie, null, this.#journal);
  }
  putXattr(fid: Fid, name: string, value: Uint8Array): void {
    this.#change(64 + name.length + value.length);
    this.#tables.xattrs.set(fid, name, Buffer.from(value), this.#journal);
  }
  removeXattr(fid: Fid, name: string): void {
    this.#change(0);
    this.#tables.xattrs.set(fid, name, null, this.#journal);
  }
  putSymlinkTarget(fid: Fid, target: Uint8Array): void {
    this.#change(32 + target.length);
    this.#tables.symlinks.set(fid, Buffer.from(target), this.#journal);
  }
  putOrphan(fid: Fid): void {
    this.#change(32);
    this.#tables.orphans.set(fid, true, this.#journal);
  }
  removeOrphan(fid: Fid): void {
    this.#change(0);
    this.#tables.orphans.set(fid, null, this.#journal);
  }
  putClient(record: ClientRecord): void {
    this.#change(120);
    this.#tables.clients.set(record.uuid, record, this.#journal);
  }
  removeClient(uuid: ClientUuid): void {
    this.#change(0);
    this.#tables.clients.set(uuid, null, this.#journal);
  }
  allocateFids(count: number): { readonly start: Fid; readonly end: Fid } {
    this.#change(0);
    const start = this.#counters.nextObject;
    if (start + count > this.#counterLimits.nextObject) {
      throw new FsError('EAGAIN', 'too many FIDs between commits');
    }
    this.#counters = { ...this.#counters, nextObject: start + count };
    return { start: fidOf(this.#targetIndex, start), end: fidOf(this.#targetIndex, start + count) };
  }
  /** @param bytes never changed again. null: the file's content is not (any longer) in the database. */
  setInlineData(fid: Fid, bytes: Buffer | null): void {
    this.#change(bytes === null ? 0 : 64 + bytes.length);
    this.#tables.inline.set(fid, bytes, this.#journal);
  }
  /** @param window never changed again. */
  setWindow(fid: Fid, index: number, window: Window | null): void {
    this.#change(window === null ? 0 : 1100);
    this.#tables.windows.set(fid, index, window, this.#journal);
  }
  /** Removes a window and frees its blocks. @returns how many. */
  removeWindow(fid: Fid, index: number, window: Window): number {
    this.setWindow(fid, index, null);
    let blocks = 0;
    for (const place of window.place) {
      if (place === 0) continue;
      this.freeBlock(Math.abs(place));
      blocks++;
    }
    return blocks;
  }
  removeDoomed(fid: Fid): void {
    this.#change(0);
    this.#tables.doomed.set(fid, null, this.#journal);
  }
  /** Blocks that were reserved and that this operation names. */
  useExtent(extent: Extent): void {
    this.#running().allocated.push(extent);
  }
  freeBlock(block: number): void {
    const { freed } = this.#running();
    const last = freed.at(-1);
    if (last !== undefined && last.start + last.count === block) {
      freed[freed.length - 1] = { start: last.start, count: last.count + 1 };
    } else {
      freed.push({ start: block, count: 1 });
    }
  }
  #count(change: number): void {
    this.#counters = { ...this.#counters, inodes: this.#counters.inodes + change };
  }
}
