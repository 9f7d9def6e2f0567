/**
 * Reads the superblock record of a meta device without lmdb, by following the database's pages from their start.
 *
 * lmdb trusts what it maps: a damaged first page makes it format the device anew (raw partitions), and a page number
 * beyond the device is a SIGBUS. So lmdb gets no device before this probe has looked at it. The probe only reads; a
 * standby uses it to look at a target that another server is writing.
 *
 * Layout read here (lmdb 0.9.90 as shipped in lmdb 3.x, data version 2, 64 bit): page header 24 bytes (u64 page, u64
 * transaction, u16 pad, u16 flags, u16 lower, u16 upper, the latter two and the node offsets that follow counted from the
 * header's end); a meta page holds from 24 on: u32 magic, u32 version, u64
 * address, u64 map size, two trees of 48 bytes (u32 page size or 0, u16 flags, u16 depth, u64 branch, leaf and overflow
 * pages, u64 entries, u64 root), u64 last page, u64 transaction.
 */

import { FsError } from '../../base/errno.js';
import type { Checksum } from '../../runtime/ports.js';
import { KEY } from '../format/keys.js';
import { getU64, putU64 } from '../format/records.js';
import { decodeSuperblock, isDataHeader, type SuperblockRecord } from '../format/superblock.js';
import type { ReadAt } from '../meta_medium.js';

export const LMDB_PAGE_BYTES = 4096;
const LMDB_MAGIC = 0xbeef_c0de;
const LMDB_DATA_VERSION = 2;
export const PAGE_HEADER = 24;
export const NODE_HEADER = 8;
export const P_BRANCH = 0x01;
export const P_LEAF = 0x02;
export const P_OVERFLOW = 0x04;
const P_META = 0x08;
const MDB_INTEGERKEY = 0x08;
const MDB_NOSUBDIR = 0x4000;
export const F_BIGDATA = 0x01;
/** Bytes of a leaf's node whose value lies on pages of its own: u64 page, u64 transaction, u64 pages. */
export const OVERFLOW_NODE_BYTES = 24;
const DEPTH_MAX = 32;
/** A device of 16 TiB. A page number above the device's size means "cut short", one above this limit means damage. */
const LAST_PAGE_MAX = 2 ** 32;
/**
 * The transactions of the two meta pages differ by one, or by more if the host lost meta pages with the device's cache.
 * Pages that differ by more than this are damaged.
 */
export const TRANSACTIONS_APART_MAX = 1024;

/**
 * The two meta pages of an empty database. lmdb would write them itself on a raw partition whose first page is not its
 * own, but not in a regular file of full size. mkfs writes them, so that both behave the same.
 */
export function emptyDatabase(mapBytes: number): Buffer {
  const pages = Buffer.alloc(2 * LMDB_PAGE_BYTES);
  for (const number of [0, 1]) {
    const page = pages.subarray(number * LMDB_PAGE_BYTES, (number + 1) * LMDB_PAGE_BYTES);
    putU64(page, number, 0);
    page.writeUInt16LE(P_META, 18);
    page.writeUInt32LE(LMDB_MAGIC, 24);
    page.writeUInt32LE(LMDB_DATA_VERSION, 28);
    putU64(page, mapBytes, 40);
    page.writeUInt32LE(LMDB_PAGE_BYTES, 48);
    page.writeUInt16LE(MDB_NOSUBDIR | MDB_INTEGERKEY, 52);
    page.fill(0xff, 48 + 40, 96);
    page.fill(0xff, 96 + 40, 144);
    putU64(page, 1, 144);
  }
  return pages;
}

export interface LmdbTree {
  readonly flags: number;
  /** undefined: the tree is empty. */
  readonly root: number | undefined;
  /** Levels of the tree, the root's and the leaves' included. */
  readonly depth: number;
  readonly branchPages: number;
  readonly leafPages: number;
  readonly overflowPages: number;
  readonly entries: number;
}

/** A meta page: says where everything else is. */
export interface LmdbMeta {
  readonly transaction: number;
  readonly lastPage: number;
  readonly free: LmdbTree;
  readonly main: LmdbTree;
}

/** @returns undefined if lmdb cannot have written it. lmdb has no checksums, so this can tell no more. */
function decodeTree(page: Buffer, at: number, lastPage: number): LmdbTree | undefined {
  const depth = page.readUInt16LE(at + 6);
  const empty = page.subarray(at + 40, at + 48).every((byte) => byte === 0xff);
  const root = getU64(page, at + 40);
  const branchPages = getU64(page, at + 8);
  const leafPages = getU64(page, at + 16);
  const overflowPages = getU64(page, at + 24);
  const pages = branchPages + leafPages + overflowPages;
  if (depth > DEPTH_MAX || empty !== (depth === 0) || pages > lastPage) return undefined;
  if (!empty && (root < 2 || root > lastPage)) return undefined;
  return {
    flags: page.readUInt16LE(at + 4),
    root: empty ? undefined : root,
    depth,
    branchPages,
    leafPages,
    overflowPages,
    entries: getU64(page, at + 32),
  };
}

/** @param index 0 or 1: transactions alternate between the two pages. */
function decodeMeta(page: Buffer, index: number): LmdbMeta | undefined {
  if ((page.readUInt16LE(18) & P_META) === 0) return undefined;
  if (page.readUInt32LE(24) !== LMDB_MAGIC) return undefined;
  if ((page.readUInt32LE(28) & 0xffff) !== LMDB_DATA_VERSION) return undefined;
  if (page.readUInt32LE(48) !== LMDB_PAGE_BYTES) return undefined;
  const transaction = getU64(page, 152);
  if (transaction !== 0 && transaction % 2 !== index) return undefined;
  const lastPage = getU64(page, 144);
  if (lastPage > LAST_PAGE_MAX) return undefined;
  const free = decodeTree(page, 48, lastPage);
  const main = decodeTree(page, 96, lastPage);
  return free === undefined || main === undefined ? undefined : { transaction, lastPage, free, main };
}

/** Both pages are of one database, and one follows the other. The flags of a database never change. */
function agree(one: LmdbMeta, other: LmdbMeta): boolean {
  return (
    Math.abs(one.transaction - other.transaction) <= TRANSACTIONS_APART_MAX &&
    one.free.flags === other.free.flags &&
    one.main.flags === other.main.flags
  );
}

/**
 * @returns the current meta page; undefined if the device holds nothing of Holdfast.
 * @throws FsError EIO with one line if the database is damaged or cut short; ENODEV if this is a data device.
 */
export async function readMeta(
  read: ReadAt,
  device: string,
  sizeBytes: number,
): Promise<LmdbMeta | undefined> {
  if (sizeBytes < 2 * LMDB_PAGE_BYTES) return undefined;
  const first = Buffer.alloc(LMDB_PAGE_BYTES);
  const second = Buffer.alloc(LMDB_PAGE_BYTES);
  await read(0, first);
  await read(LMDB_PAGE_BYTES, second);
  if (isDataHeader(first)) {
    throw new FsError('ENODEV', `${device} is a Holdfast data device; it was given as the meta device`);
  }
  if (![first, second].some((page) => page.readUInt32LE(24) === LMDB_MAGIC)) return undefined;
  const meta0 = decodeMeta(first, 0);
  const meta1 = decodeMeta(second, 1);
  if (meta0 === undefined || meta1 === undefined || !agree(meta0, meta1)) {
    throw new FsError('EIO', `the start of the meta device ${device} is damaged`);
  }
  const meta = meta0.transaction >= meta1.transaction ? meta0 : meta1;
  if ((meta.lastPage + 1) * LMDB_PAGE_BYTES > sizeBytes) {
    throw new FsError(
      'EIO',
      `the meta device ${device} is cut short: ${sizeBytes} bytes, but it uses ${(meta.lastPage + 1) * LMDB_PAGE_BYTES}`,
    );
  }
  return meta;
}

/**
 * @returns the superblock, checked; undefined if the device holds nothing of Holdfast (no database and no trace of
 *   one).
 * @throws FsError EIO with one line if the database is damaged or cut short; ENODEV if the database is not Holdfast's.
 */
export async function probeSuperblock(
  read: ReadAt,
  device: string,
  sizeBytes: number,
  checksum: Checksum,
): Promise<SuperblockRecord | undefined> {
  const meta = await readMeta(read, device, sizeBytes);
  if (meta === undefined) return undefined;
  const pages = new PageReader(read, meta.lastPage, device);
  if (meta.free.root !== undefined) await pages.page(meta.free.root, P_BRANCH | P_LEAF);
  const value = meta.main.root === undefined ? undefined : await pages.firstValue(meta.main.root);
  if (value === undefined)
    throw new FsError('ENODEV', `${device} holds an lmdb database that is not Holdfast's`);
  const superblock = decodeSuperblock(value, checksum, device);
  if (superblock.metaSizeBytes > sizeBytes) {
    throw new FsError(
      'EIO',
      `the meta device ${device} is cut short: ${sizeBytes} bytes, made with ${superblock.metaSizeBytes}`,
    );
  }
  return superblock;
}

/**
 * Both meta pages in their places, each undefined if lmdb cannot have written it; for checks of a damaged database.
 * Does not notice if the two pages are of different databases.
 */
export async function readMetas(
  read: ReadAt,
  sizeBytes: number,
): Promise<readonly [LmdbMeta | undefined, LmdbMeta | undefined]> {
  if (sizeBytes < 2 * LMDB_PAGE_BYTES) return [undefined, undefined];
  const pages = [Buffer.alloc(LMDB_PAGE_BYTES), Buffer.alloc(LMDB_PAGE_BYTES)] as const;
  await read(0, pages[0]);
  await read(LMDB_PAGE_BYTES, pages[1]);
  const fits = (meta: LmdbMeta | undefined): LmdbMeta | undefined =>
    meta !== undefined && (meta.lastPage + 1) * LMDB_PAGE_BYTES <= sizeBytes ? meta : undefined;
  return [fits(decodeMeta(pages[0], 0)), fits(decodeMeta(pages[1], 1))];
}

/** The superblock of one snapshot. @throws FsError EIO, EPROTO. */
export async function superblockOf(
  read: ReadAt,
  meta: LmdbMeta,
  device: string,
  checksum: Checksum,
): Promise<SuperblockRecord> {
  const pages = new PageReader(read, meta.lastPage, device);
  const value = meta.main.root === undefined ? undefined : await pages.firstValue(meta.main.root);
  if (value === undefined) throw new FsError('EIO', `${device} has no superblock`);
  return decodeSuperblock(value, checksum, device);
}

/** Encodes a meta page; lmdb uses the one with the later transaction. @param mapBytes size of the device. */
export function encodeMeta(meta: LmdbMeta, transaction: number, mapBytes: number): Buffer {
  const number = transaction % 2;
  const page = emptyDatabase(mapBytes).subarray(number * LMDB_PAGE_BYTES, (number + 1) * LMDB_PAGE_BYTES);
  encodeTree(page, 48, meta.free);
  encodeTree(page, 96, meta.main);
  putU64(page, meta.lastPage, 144);
  putU64(page, transaction, 152);
  return page;
}

function encodeTree(page: Buffer, at: number, tree: LmdbTree): void {
  page.writeUInt16LE(tree.flags, at + 4);
  page.writeUInt16LE(tree.depth, at + 6);
  putU64(page, tree.branchPages, at + 8);
  putU64(page, tree.leafPages, at + 16);
  putU64(page, tree.overflowPages, at + 24);
  putU64(page, tree.entries, at + 32);
  if (tree.root === undefined) page.fill(0xff, at + 40, at + 48);
  else putU64(page, tree.root, at + 40);
}

class PageReader {
  readonly #read: ReadAt;
  readonly #lastPage: number;
  readonly #device: string;
  constructor(read: ReadAt, lastPage: number, device: string) {
    this.#read = read;
    this.#lastPage = lastPage;
    this.#device = device;
  }

  #damaged(number: number): FsError {
    return new FsError(
      'EIO',
      `the meta device ${this.#device} is damaged: database page ${number} is not what it should be`,
    );
  }

  async page(number: number, kinds: number): Promise<Buffer> {
    if (number < 2 || number > this.#lastPage) throw this.#damaged(number);
    const page = Buffer.alloc(LMDB_PAGE_BYTES);
    await this.#read(number * LMDB_PAGE_BYTES, page);
    const lower = page.readUInt16LE(20);
    const upper = page.readUInt16LE(22);
    const sound =
      getU64(page, 0) === number &&
      (page.readUInt16LE(18) & kinds) !== 0 &&
      lower <= upper &&
      PAGE_HEADER + upper <= LMDB_PAGE_BYTES;
    if (!sound) throw this.#damaged(number);
    return page;
  }

  /** Value of the tree's first key if this key is the superblock's. */
  async firstValue(root: number): Promise<Buffer | undefined> {
    let number = root;
    for (let depth = 0; depth < DEPTH_MAX; depth++) {
      const page = await this.page(number, P_BRANCH | P_LEAF);
      const node = PAGE_HEADER + page.readUInt16LE(PAGE_HEADER);
      const empty = page.readUInt16LE(20) === 0;
      if (empty || node + NODE_HEADER > LMDB_PAGE_BYTES) {
        throw this.#damaged(number);
      }
      const low = page.readUInt32LE(node);
      const flags = page.readUInt16LE(node + 4);
      const keyBytes = page.readUInt16LE(node + 6);
      if ((page.readUInt16LE(18) & P_BRANCH) !== 0) {
        number = low + flags * 2 ** 32;
        continue;
      }
      const valueAt = node + NODE_HEADER + keyBytes;
      if ((flags & F_BIGDATA) !== 0 || valueAt + low > LMDB_PAGE_BYTES) throw this.#damaged(number);
      if (keyBytes !== 1 || page[node + NODE_HEADER] !== KEY.superblock) return undefined;
      return page.subarray(valueAt, valueAt + low);
    }
    throw this.#damaged(number);
  }
}
