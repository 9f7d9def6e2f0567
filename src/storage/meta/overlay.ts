/**
 * The view that operations run on: the database, under the changes that operations have executed since.
 *
 * Owns the fate of the two layers of changes (tables.ts; layered_reader.ts reads them; superblock_layer.ts has the superblock's
 * part), the counters, and the space bitmaps as the executed operations have them. A running operation writes into the
 * collecting layer; if it throws, the overlay undoes it from a journal. JavaScript runs nothing else meanwhile, so readers
 * see all of an operation or nothing.
 *
 * The overlay writes the counters of numbers that must never be handed out twice (objects, cookies) ahead of use. So
 * after a crash they go on above every number that a client may have been told, committed or not.
 *
 * Invariants, between two operations: none runs, and the journal is empty; the blocks freed in both layers are those
 * that the space knows as freed and not durable; the layers have a name and its cookie together; no counter is past
 * its limit.
 */

import { assert } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import { type ClientUuid, type Fid, fidOf, type Name, type Transno } from '../../base/ids.js';
import type { Checksum } from '../../runtime/ports.js';
import {
  ACCESS_NAME,
  type AccessRecord,
  type ClientRecord,
  type Dirent,
  EVICTIONS_KEPT,
  type EvictionRecord,
  type Inode,
  PRINCIPAL_BYTES_MAX,
  type ReplyRecord,
  type Tx,
} from '../api.js';
import { decodeAccess, encodeAccess } from '../format/access_record.js';
import type { BlockMap } from '../format/block_map.js';
import { blockMapDigest, inlineDigest } from '../format/content_digest.js';
import { type Counters, damaged, decodeTicketSecret, encodeTicketSecret } from '../format/records.js';
import { crc32c, FEATURE_CHECKSUMS } from '../format/superblock.js';
import type { MetaDatabase, Writer } from '../meta_medium.js';
import { Arena, writeBatch } from './batch.js';
import type { Extent, ExtentAllocator } from './extent_allocator.js';
import { LayeredReader } from './layered_reader.js';
import type { SuperblockChange, SuperblockLayer } from './superblock_layer.js';
import { Journal } from './tables.js';

/** How far ahead of use the overlay writes the counters. */
const OBJECTS_AHEAD = 2 ** 22;
const COOKIES_AHEAD = 2 ** 22;
/** A file with more block maps than this is destroyed in the background, so that an unlink stays short. */
export const DESTROY_AT_ONCE = 64;

/** Asks for room on the meta device. If one of them throws, its error ends the operation. */
export interface RoomCheck {
  /** Called once, before the operation's first change. */
  change(): void;
  /** Called for each value that may take several pages. */
  value(bytes: number): void;
}

/** What the running operation did besides its changes of the tables. */
interface RunningTransaction {
  readonly transno: Transno;
  readonly room: RoomCheck;
  readonly counters: Counters;
  readonly bytes: number;
  readonly records: number;
  readonly allocated: Extent[];
  readonly freed: Extent[];
}

export class Overlay extends LayeredReader implements Tx {
  readonly #checksum: Checksum;
  readonly #targetIndex: number;
  /** New inodes have a digest of their content. */
  readonly #digests: boolean;
  readonly space: ExtentAllocator;
  readonly #superblock: SuperblockLayer;
  readonly #journal = new Journal();
  #operation: RunningTransaction | undefined;
  #counters: Counters;
  /** The counters' values on the device: the overlay may hand out nothing at or above them before the next commit. */
  #counterLimits: Pick<Counters, 'nextObject' | 'nextCookie'>;
  #bytes = 0;
  #records = 0;
  #freed: Extent[] = [];
  #doomedNow = false;
  /** Number of the last eviction, once it is known. */
  #lastEviction: number | undefined;
  #sealedFreed: Extent[] = [];
  #sealedBytes = 0;
  #sealedRecords = 0;
  #sealedGroups: { readonly group: number; readonly record: Buffer | undefined }[] = [];
  #sealedCounters: Counters | undefined;
  readonly #arena = new Arena();

  constructor(
    db: MetaDatabase,
    checksum: Checksum,
    superblock: SuperblockLayer,
    counters: Counters,
    space: ExtentAllocator,
  ) {
    super(db, checksum);
    this.#checksum = checksum;
    this.#superblock = superblock;
    this.#targetIndex = superblock.durable.targetIndex;
    this.#digests = (superblock.durable.featuresIncompat & FEATURE_CHECKSUMS) !== 0;
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
  /** Whether an operation left a file to be destroyed in the background since the last call. */
  takeDoomed(): boolean {
    const doomed = this.#doomedNow;
    this.#doomedNow = false;
    return doomed;
  }
  /**
   * Records that changed and are not sealed yet; and (pendingBytes) a rough size of all changes that are not durable,
   * for the fill level of the device.
   */
  get collectedRecords(): number {
    return this.#records;
  }
  /** Records of the batch that is being committed. */
  get sealedRecords(): number {
    return this.#sealedRecords;
  }
  get pendingBytes(): number {
    return this.#bytes + this.#sealedBytes;
  }

  begin(transno: Transno, room: RoomCheck): void {
    assert(this.#operation === undefined, 'operations do not nest');
    this.#operation = {
      transno,
      room,
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
  /** @returns whether the operation changed anything. */
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

  /** Operations executed from now on come after this transno; the next commit records it. */
  advance(transno: Transno): void {
    assert(this.#operation === undefined, 'an operation is running');
    assert(transno >= this.#counters.lastTransno, 'transnos never go back');
    this.#counters = { ...this.#counters, lastTransno: transno };
  }

  /** Goes with the collecting layer, which is to be committed now. @throws FsError EINVAL if the version is too long. */
  changeSuperblock(change: SuperblockChange): void {
    this.#superblock.change(change);
  }
  /** What the sealed layer has must be in the tree: a damaged redo log must not let anybody back in. */
  get isForTree(): boolean {
    return this.tables.access.sealed.size > 0;
  }

  /** Closes the collecting layer: the next write() writes it. The layer before it must have settled. */
  seal(final: boolean): void {
    for (const table of Object.values(this.tables)) table.seal();
    this.#superblock.seal();
    this.#sealedFreed = this.#freed;
    this.#freed = [];
    this.#sealedBytes = this.#bytes;
    this.#sealedRecords = this.#records;
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
  /** Writes the sealed layer as records. */
  write(writer: Writer): void {
    assert(this.#sealedCounters !== undefined, 'nothing is sealed');
    const crc = (bytes: Uint8Array): number => crc32c(this.#checksum, bytes);
    writeBatch(writer, this.tables, this.#sealedGroups, this.#sealedCounters, crc, this.#arena);
    this.#superblock.write(writer, this.tables.access.sealed);
  }
  /** The sealed layer is durable: the overlay drops it, and lets the allocator hand out the blocks it freed. */
  settle(): void {
    this.keepSealed();
    for (const table of Object.values(this.tables)) table.settle();
    this.#superblock.settle();
    for (const extent of this.#sealedFreed) this.space.release(extent, 'freed');
    this.#sealedFreed = [];
    this.#sealedBytes = 0;
    this.#sealedRecords = 0;
    this.#sealedGroups = [];
    if (this.#sealedCounters !== undefined) this.#counterLimits = this.#sealedCounters;
    this.#sealedCounters = undefined;
  }

  // ---- Changing. Only while an operation runs.

  #running(): RunningTransaction {
    assert(this.#operation !== undefined, 'a change outside an operation');
    return this.#operation;
  }
  #change(bytes: number): void {
    const operation = this.#running();
    if (this.#records === operation.records) operation.room.change();
    this.#records++;
    this.#bytes += bytes;
  }

  putInode(inode: Inode): void {
    this.#change(140);
    const before = this.inode(inode.fid);
    if (before === undefined) {
      this.#count(1);
      this.knowContent(inode.fid);
    }
    const isEmpty = before === undefined || (inode.sizeBytes === 0 && inode.blocks === 0);
    const digest = isEmpty && this.#digests ? 0 : before?.digest;
    const kept = inode.digest === digest ? inode : { ...inode, digest };
    this.tables.inodes.set(inode.fid, kept, this.#journal);
  }
  /** @param change of the digest of an inode's content, to be combined by exclusive or. */
  #shiftDigest(fid: Fid, change: number): void {
    const inode = this.inode(fid);
    if (change === 0 || inode?.digest === undefined) return;
    this.tables.inodes.set(fid, { ...inode, digest: (inode.digest ^ change) >>> 0 }, this.#journal);
  }
  destroyInode(fid: Fid): void {
    this.#change(0);
    if (this.inode(fid) !== undefined) this.#count(-1);
    this.tables.inodes.set(fid, null, this.#journal);
    if (this.symlinkTarget(fid) !== undefined) this.tables.symlinks.set(fid, null, this.#journal);
    for (const name of this.xattrNames(fid)) this.tables.xattrs.set(fid, name, null, this.#journal);
    if (this.hasInlineData(fid)) this.tables.inline.set(fid, null, this.#journal);
    const blockMaps = this.blockMapsFrom(fid, 0, DESTROY_AT_ONCE + 1);
    if (blockMaps.length > DESTROY_AT_ONCE) {
      this.tables.doomed.set(fid, true, this.#journal);
      this.#doomedNow = true;
      return;
    }
    for (const [index, blockMap] of blockMaps) this.removeBlockMap(fid, index, blockMap);
  }
  putDirent(parent: Fid, name: Name, fid: Fid, type: number, position?: number): number {
    assert(this.dirent(parent, name) === undefined, 'the name is there already');
    this.#change(2 * (40 + name.length));
    const isOld = position !== undefined && this.#canTakeAgain(parent, position);
    const cookie = isOld ? position : this.#takeCookie();
    const dirent: Dirent = { name, fid, type, cookie };
    this.tables.names.set(parent, name, dirent, this.#journal);
    this.tables.cookies.set(parent, cookie, dirent, this.#journal);
    return cookie;
  }
  #takeCookie(): number {
    const cookie = this.#counters.nextCookie;
    if (cookie >= this.#counterLimits.nextCookie)
      throw new FsError('EAGAIN', 'too many entries between commits');
    this.#counters = { ...this.#counters, nextCookie: cookie + 1 };
    return cookie;
  }
  /** An earlier instance handed it out, and a listing of the directory stays in the order of cookies. */
  #canTakeAgain(parent: Fid, position: number): boolean {
    if (position < 1 || position >= this.#counters.nextCookie) return false;
    return this.dirents(parent, position - 1, 1).length === 0;
  }
  removeDirent(parent: Fid, name: Name): void {
    const dirent = this.dirent(parent, name);
    assert(dirent !== undefined, 'the name is not there');
    this.#change(0);
    this.tables.names.set(parent, name, null, this.#journal);
    this.tables.cookies.set(parent, dirent.cookie, null, this.#journal);
  }
  putXattr(fid: Fid, name: string, value: Uint8Array): void {
    this.#change(64 + name.length + value.length);
    this.#running().room.value(value.length);
    this.tables.xattrs.set(fid, name, Buffer.from(value), this.#journal);
  }
  removeXattr(fid: Fid, name: string): void {
    this.#change(0);
    this.tables.xattrs.set(fid, name, null, this.#journal);
  }
  putSymlinkTarget(fid: Fid, target: Uint8Array): void {
    this.#change(32 + target.length);
    this.#running().room.value(target.length);
    this.tables.symlinks.set(fid, Buffer.from(target), this.#journal);
  }
  putOrphan(fid: Fid): void {
    this.#change(32);
    this.tables.orphans.set(fid, true, this.#journal);
  }
  removeOrphan(fid: Fid): void {
    this.#change(0);
    this.tables.orphans.set(fid, null, this.#journal);
  }
  putClient(record: ClientRecord): void {
    assert((record.principal ?? '').length <= PRINCIPAL_BYTES_MAX, 'a principal that no record holds');
    this.#change(120);
    this.tables.clients.set(record.uuid, record, this.#journal);
  }
  removeClient(uuid: ClientUuid): void {
    this.#change(0);
    this.tables.clients.set(uuid, null, this.#journal);
    for (const { slot } of this.replies(uuid)) this.tables.replies.set(uuid, slot, null, this.#journal);
  }
  putReply(uuid: ClientUuid, slot: number, reply: ReplyRecord): void {
    this.#change(100);
    this.tables.replies.set(uuid, slot, reply, this.#journal);
  }
  putEviction(record: EvictionRecord): void {
    this.#change(64 + record.name.length + record.reason.length);
    // An operation that is rolled back leaves a gap in the numbers, which harms nobody.
    const number = (this.#lastEviction ?? this.evictions().at(-1)?.number ?? 0) + 1;
    this.#lastEviction = number;
    this.tables.evictions.set(number % EVICTIONS_KEPT, { ...record, number }, this.#journal);
  }
  putAccess(record: AccessRecord): void {
    const value = encodeAccess(record);
    this.#change(64 + value.length);
    // The caller may change its keys; and readers get what the database will have.
    this.tables.access.set(record.name, decodeAccess(record.name, value), this.#journal);
  }
  removeAccess(name: string): void {
    if (!ACCESS_NAME.test(name)) return;
    this.#change(0);
    this.tables.access.set(name, null, this.#journal);
  }
  putTicketSecret(secret: Uint8Array | undefined): void {
    const value = secret === undefined ? null : decodeTicketSecret(encodeTicketSecret(secret));
    this.#change(value === null ? 0 : 64);
    this.tables.ticketSecret.set('secret', value, this.#journal);
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
  /**
   * @param bytes the caller never changes them again. null: the file's content is not, or no longer, in the database.
   */
  setInlineData(fid: Fid, bytes: Buffer | null): void {
    this.#change(bytes === null ? 0 : 64 + bytes.length);
    if (this.inode(fid)?.digest !== undefined) {
      const before = inlineDigest(this.#checksum, this.inlineData(fid));
      this.#shiftDigest(fid, before ^ inlineDigest(this.#checksum, bytes));
    }
    this.tables.inline.set(fid, bytes, this.#journal);
  }
  /** @param blockMap the caller never changes it again. */
  setBlockMap(fid: Fid, index: number, blockMap: BlockMap | null): void {
    this.#change(blockMap === null ? 0 : 1100);
    if (this.inode(fid)?.digest !== undefined) {
      const before = blockMapDigest(this.#checksum, index, this.blockMap(fid, index));
      this.#shiftDigest(fid, before ^ blockMapDigest(this.#checksum, index, blockMap));
    }
    this.tables.blockMaps.set(fid, index, blockMap, this.#journal);
  }
  /** Removes a block map and frees its blocks. @returns the number of blocks. */
  removeBlockMap(fid: Fid, index: number, blockMap: BlockMap): number {
    this.setBlockMap(fid, index, null);
    let blocks = 0;
    for (const place of blockMap.place) {
      if (place === 0) continue;
      this.freeBlock(Math.abs(place));
      blocks++;
    }
    return blocks;
  }
  removeDoomed(fid: Fid): void {
    this.#change(0);
    this.tables.doomed.set(fid, null, this.#journal);
  }
  /** Blocks that were reserved and that this operation names. */
  useExtent(extent: Extent): void {
    this.#running().allocated.push(extent);
  }
  /** @throws FsError EIO if the space records, damaged or older than the block maps, say that the block is free. */
  freeBlock(block: number): void {
    if (!this.space.isUsed(block)) throw damaged(`space, block ${block} is in use and marked as free`);
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

  /** Call it between two operations. */
  checkInvariants(): void {
    assert(this.#operation === undefined && this.#journal.empty, 'an operation runs between two operations');
    this.space.checkInvariants();
    let freed = 0;
    for (const { count } of [...this.#freed, ...this.#sealedFreed]) freed += count;
    const { freedNotDurable } = this.space;
    assert(
      freed === freedNotDurable,
      `${freed} freed blocks wait for a commit, the space has ${freedNotDurable}`,
    );
    const { nextObject, nextCookie } = this.#counters;
    const limits = this.#counterLimits;
    assert(
      nextObject <= limits.nextObject,
      `object ${nextObject} comes next, the limit is ${limits.nextObject}`,
    );
    assert(
      nextCookie <= limits.nextCookie,
      `cookie ${nextCookie} comes next, the limit is ${limits.nextCookie}`,
    );
    assert(
      this.#bytes >= 0 && this.#records >= 0,
      `${this.#records} records of ${this.#bytes} bytes changed`,
    );
    assert(
      this.#sealedCounters !== undefined || this.#sealedRecords === 0,
      `${this.#sealedRecords} records are sealed, and no layer is`,
    );
    this.#checkNames();
  }

  #checkNames(): void {
    const { names, cookies } = this.tables;
    for (const [parent, changed] of names.collected()) {
      for (const [name, dirent] of changed) {
        if (dirent === null) continue;
        const known = cookies.get(parent, dirent.cookie);
        assert(
          known === dirent,
          `${name} of ${parent} is known by its name, and not as cookie ${dirent.cookie}`,
        );
      }
    }
    for (const [parent, changed] of cookies.collected()) {
      for (const [cookie, dirent] of changed) {
        if (dirent === null) continue;
        const known = names.get(parent, dirent.name);
        assert(known === dirent, `cookie ${cookie} of ${parent} is known, and not as ${dirent.name}`);
      }
    }
  }
}
