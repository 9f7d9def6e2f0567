/**
 * Reads of the database under the two layers of changes: asks the collecting layer first, then the committing one, then
 * the database. Caches decoded inodes and block maps.
 */

import { LRUCache } from 'lru-cache';
import { SECTORS_PER_BLOCK } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { ClientUuid, Fid, Name } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import { notice } from '../../base/notices.js';
import type { Checksum } from '../../runtime/ports.js';
import {
  type AccessRecord,
  type ClientRecord,
  type Dirent,
  EVICTIONS_KEPT,
  type Inode,
  type NumberedEviction,
  type Reader,
  type ReplyRecord,
  type SlotReply,
} from '../api.js';
import { decodeAccess } from '../format/access_record.js';
import { type BlockMap, decodeBlockMap } from '../format/block_map.js';
import { blockMapDigest, inlineDigest } from '../format/content_digest.js';
import {
  accessNameOf,
  afterPrefix,
  bareKey,
  evictionKey,
  fidKey,
  fidNameKey,
  fidNumberKey,
  KEY,
  readU64,
  slotOf,
  uuidKey,
} from '../format/keys.js';
import {
  decodeBytes,
  decodeClient,
  decodeDirentByCookie,
  decodeDirentByName,
  decodeEviction,
  decodeInline,
  decodeInode,
  decodeReply,
  decodeTicketSecret,
  uuidFromBytes,
} from '../format/records.js';
import { crc32c } from '../format/superblock.js';
import type { MetaDatabase } from '../meta_medium.js';
import type { BatchTables } from './batch.js';
import { FidTable, GroupTable, Table } from './tables.js';

const log = logger('storage');

/**
 * A file with more block maps than this is read without a comparison of all of them first. 256 MiB: two milliseconds.
 */
const MAPS_COMPARED_MAX = 256;
const COMPARED_MAX = 100_000;
const INODE_CACHE_MAX = 20_000;
/** Block maps of 3 KiB each; together they cover 2 GiB of file content. */
const MAP_CACHE_MAX = 2048;

export class LayeredReader implements Reader {
  readonly #db: MetaDatabase;
  readonly #checksum: Checksum;
  protected readonly tables: BatchTables = {
    inodes: new Table<Fid, Inode>(),
    names: new FidTable<Name, Dirent>(),
    cookies: new FidTable<number, Dirent>(),
    xattrs: new FidTable<string, Buffer>(),
    symlinks: new Table<Fid, Buffer>(),
    inline: new Table<Fid, Buffer>(),
    blockMaps: new FidTable<number, BlockMap>(),
    orphans: new Table<Fid, true>(),
    doomed: new Table<Fid, true>(),
    clients: new Table<ClientUuid, ClientRecord>(),
    replies: new GroupTable<ClientUuid, number, ReplyRecord>(),
    evictions: new Table<number, NumberedEviction>(),
    access: new Table<string, AccessRecord>(),
    ticketSecret: new Table<'secret', Buffer>(),
  };
  /** Inodes as the database has them; readers ask the layers first. */
  readonly #inodeCache = new LRUCache<Fid, Inode>({ max: INODE_CACHE_MAX });
  /** Decoded block maps: decoding one takes as long as all the rest of a small read. */
  readonly #blockMapCache = new LRUCache<string, BlockMap>({ max: MAP_CACHE_MAX });

  /** Files whose content records agree with the inode: all changes since then went through this object. */
  readonly #compared = new Set<Fid>();

  constructor(db: MetaDatabase, checksum: Checksum) {
    this.#db = db;
    this.#checksum = checksum;
  }

  /** The sealed layer is in the database now. */
  protected keepSealed(): void {
    for (const [fid, inode] of this.tables.inodes.sealed) {
      if (inode === null) this.#inodeCache.delete(fid);
      else this.#inodeCache.set(fid, inode);
    }
    for (const [fid, blockMaps] of this.tables.blockMaps.sealed) {
      for (const [index, blockMap] of blockMaps) {
        if (blockMap === null) this.#blockMapCache.delete(`${fid}/${index}`);
        else this.#blockMapCache.set(`${fid}/${index}`, blockMap);
      }
    }
  }

  inode(fid: Fid): Inode | undefined {
    const changed = this.tables.inodes.get(fid);
    if (changed !== undefined) return changed ?? undefined;
    const cached = this.#inodeCache.get(fid);
    if (cached !== undefined) return cached;
    const value = this.#db.get(fidKey(KEY.inode, fid));
    if (value === undefined) return undefined;
    const inode = decodeInode(fid, value);
    this.#inodeCache.set(fid, inode);
    return inode;
  }
  hasInode(fid: Fid): boolean {
    const changed = this.tables.inodes.get(fid);
    if (changed !== undefined) return changed !== null;
    return this.#inodeCache.has(fid) || this.#db.get(fidKey(KEY.inode, fid)) !== undefined;
  }
  dirent(parent: Fid, name: Name): Dirent | undefined {
    const changed = this.tables.names.get(parent, name);
    if (changed !== undefined) return changed ?? undefined;
    const value = this.#db.get(fidNameKey(KEY.direntByName, parent, name));
    return value === undefined ? undefined : decodeDirentByName(name, value);
  }
  dirents(parent: Fid, after: number, limit: number): Dirent[] {
    const changes = this.tables.cookies.changes(parent);
    const found: Dirent[] = [];
    if (limit <= 0) return found;
    const start = fidNumberKey(KEY.direntByCookie, parent, after + 1);
    const end = afterPrefix(fidKey(KEY.direntByCookie, parent));
    for (const { key, value } of this.#db.range(start, end)) {
      const cookie = readU64(key, 9);
      // Changed entries come below: the database may have a batch already that is not settled yet.
      if (changes?.has(cookie)) continue;
      found.push(decodeDirentByCookie(cookie, value));
      if (found.length === limit) return found;
    }
    // In a directory cookies only grow, so entries of the layers come after those of the database, in the order they were made.
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
    const changed = this.tables.xattrs.get(fid, name);
    if (changed !== undefined) return changed ?? undefined;
    const value = this.#db.get(fidNameKey(KEY.xattr, fid, name));
    return value === undefined ? undefined : decodeBytes(value, `xattr of ${fid}`);
  }
  xattrNames(fid: Fid): string[] {
    const changes = this.tables.xattrs.changes(fid);
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
    const changed = this.tables.symlinks.get(fid);
    if (changed !== undefined) return changed ?? undefined;
    const value = this.#db.get(fidKey(KEY.symlink, fid));
    return value === undefined ? undefined : decodeBytes(value, `symlink ${fid}`);
  }
  orphans(): Fid[] {
    return this.#marked(KEY.orphan, this.tables.orphans);
  }
  clients(): ClientRecord[] {
    const changes = this.tables.clients.changes();
    const found: ClientRecord[] = [];
    const prefix = bareKey(KEY.client);
    for (const { key, value } of this.#db.range(prefix, afterPrefix(prefix))) {
      const uuid = uuidFromBytes(key.subarray(1, 17)) as ClientUuid;
      if (!changes.has(uuid)) found.push(decodeClient(uuid, value));
    }
    for (const record of changes.values()) if (record !== null) found.push(record);
    return found;
  }
  replies(uuid: ClientUuid): SlotReply[] {
    const changes = this.tables.replies.changes(uuid);
    const found: SlotReply[] = [];
    const prefix = uuidKey(KEY.reply, uuid);
    for (const { key, value } of this.#db.range(prefix, afterPrefix(prefix))) {
      const slot = slotOf(key);
      if (!changes?.has(slot)) found.push({ slot, ...decodeReply(`reply ${slot} of ${uuid}`, value) });
    }
    for (const [slot, reply] of changes ?? []) if (reply !== null) found.push({ slot, ...reply });
    return found;
  }
  evictions(): NumberedEviction[] {
    const found: NumberedEviction[] = [];
    for (let slot = 0; slot < EVICTIONS_KEPT; slot++) {
      const record = this.tables.evictions.get(slot) ?? this.#storedEviction(slot);
      if (record !== undefined) found.push(record);
    }
    return found.sort((a, b) => a.number - b.number);
  }
  /** A damaged record of an eviction does not keep the target from being served: nothing depends on it. */
  #storedEviction(slot: number): NumberedEviction | undefined {
    try {
      const value = this.#db.get(evictionKey(slot));
      return value === undefined ? undefined : decodeEviction(`eviction ${slot}`, value);
    } catch (thrown) {
      if (!(thrown instanceof FsError)) throw thrown;
      log('eviction %d is left out: %s', slot, thrown.message);
      return undefined;
    }
  }
  access(): AccessRecord[] {
    const changes = this.tables.access.changes();
    const found = [...changes.values()].filter((record) => record !== null);
    const prefix = bareKey(KEY.access);
    for (const { key, value } of this.#db.range(prefix, afterPrefix(prefix))) {
      const name = accessNameOf(key);
      if (!changes.has(name)) found.push(decodeAccess(name, value));
    }
    return found.sort((one, other) => (one.name < other.name ? -1 : 1));
  }
  ticketSecret(): Buffer | undefined {
    const changed = this.tables.ticketSecret.get('secret');
    if (changed !== undefined) return changed ?? undefined;
    const value = this.#db.get(bareKey(KEY.ticketSecret));
    return value === undefined ? undefined : decodeTicketSecret(value);
  }
  /** Content of a file that is kept in the database. @throws FsError EIO if its checksum is wrong. */
  inlineData(fid: Fid): Buffer | undefined {
    const changed = this.tables.inline.get(fid);
    if (changed !== undefined) return changed ?? undefined;
    const value = this.#db.get(fidKey(KEY.inlineData, fid));
    if (value === undefined) return undefined;
    const { bytes, crc } = decodeInline(fid, value);
    if (crc32c(this.#checksum, bytes) !== crc) {
      log('checksum wrong: inline data of fid %d', fid);
      notice('checksum-wrong', `checksum wrong: inline data of fid ${fid} on the meta device`);
      throw new FsError('EIO', `checksum wrong: inline data of ${fid}`);
    }
    return bytes;
  }
  /** Whether the file's content is kept in the database; does not decode it. */
  hasInlineData(fid: Fid): boolean {
    const changed = this.tables.inline.get(fid);
    return changed === undefined ? this.#db.get(fidKey(KEY.inlineData, fid)) !== undefined : changed !== null;
  }
  blockMap(fid: Fid, index: number): BlockMap | undefined {
    const changed = this.tables.blockMaps.get(fid, index);
    if (changed !== undefined) return changed ?? undefined;
    const name = `${fid}/${index}`;
    const cached = this.#blockMapCache.get(name);
    if (cached !== undefined) return cached;
    const value = this.#db.get(fidNumberKey(KEY.blockMap, fid, index));
    if (value === undefined) return undefined;
    const blockMap = decodeBlockMap(value, `block map ${index} of ${fid}`);
    this.#blockMapCache.set(name, blockMap);
    return blockMap;
  }
  /** The file's content agrees with its inode: the reader has compared them, or the content was just made. */
  protected knowContent(fid: Fid): void {
    if (this.#compared.size >= COMPARED_MAX) this.#compared.clear();
    this.#compared.add(fid);
  }
  /**
   * Compares a file's content records with its inode when the file is first used. Without this, a missing record would
   * read as a hole, and a record older than the inode would name content that the file does not have any more.
   * @throws FsError EIO
   */
  compareContent(fid: Fid): void {
    if (this.#compared.has(fid)) return;
    const inode = this.inode(fid);
    if (inode === undefined) return;
    const inline = this.inlineData(fid);
    const blockMaps = this.blockMapsFrom(fid, 0, MAPS_COMPARED_MAX + 1);
    if (blockMaps.length <= MAPS_COMPARED_MAX) {
      let digest = inlineDigest(this.#checksum, inline);
      let blocks = 0;
      for (const [index, blockMap] of blockMaps) {
        digest ^= blockMapDigest(this.#checksum, index, blockMap);
        for (const place of blockMap.place) if (place !== 0) blocks++;
      }
      const isCounted = inline !== undefined || blocks * SECTORS_PER_BLOCK === inode.blocks;
      const isDigest = inode.digest === undefined || digest >>> 0 === inode.digest;
      if (!isCounted || !isDigest) {
        const what = isCounted
          ? 'are not those'
          : `say ${blocks * SECTORS_PER_BLOCK} blocks, not the ${inode.blocks}`;
        const text = `damaged content of fid ${fid} on the meta device: its records ${what} of its inode`;
        log('%s', text);
        notice('checksum-wrong', text);
        throw new FsError('EIO', text);
      }
    }
    this.knowContent(fid);
  }
  /** Block maps [first, end) will be needed soon. */
  prefetchBlockMaps(fid: Fid, first: number, end: number): void {
    const keys: Buffer[] = [];
    for (let index = first; index < end; index++) keys.push(fidNumberKey(KEY.blockMap, fid, index));
    this.#db.prefetch(keys);
  }
  /** Block maps that are not empty, from index `first` on, in order, at most limit. */
  blockMapsFrom(fid: Fid, first: number, limit: number): [index: number, blockMap: BlockMap][] {
    const changes = this.tables.blockMaps.changes(fid);
    const newer = [...(changes ?? [])]
      .filter((entry): entry is [number, BlockMap] => entry[1] !== null && entry[0] >= first)
      .sort((a, b) => a[0] - b[0]);
    const found: [number, BlockMap][] = [];
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
    const end = afterPrefix(fidKey(KEY.blockMap, fid));
    for (const { key, value } of this.#db.range(fidNumberKey(KEY.blockMap, fid, first), end)) {
      const index = readU64(key, 9);
      takeNewer(index);
      if (found.length === limit) return found;
      if (changes?.has(index)) continue;
      found.push([index, decodeBlockMap(value, `block map ${index} of ${fid}`)]);
    }
    takeNewer(Number.POSITIVE_INFINITY);
    return found;
  }
  /** Files whose data the server has still to remove in the background. */
  doomed(): Fid[] {
    return this.#marked(KEY.doomed, this.tables.doomed);
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
}
