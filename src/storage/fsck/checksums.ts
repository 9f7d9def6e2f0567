/**
 * Gives the records of an earlier release's target checksums, and its inodes digests of their content. It writes all
 * records anew, some in each transaction. First the superblock says that there may be such records, and at the end that
 * all records are such. So if this is interrupted, a server can serve the target, and the next call goes on.
 */

import { isRegular } from '../../base/attr.js';
import type { Fid } from '../../base/ids.js';
import type { Checksum } from '../../runtime/ports.js';
import type { Inode } from '../api.js';
import { decodeBlockMap } from '../format/block_map.js';
import { blockMapDigest, inlineDigest } from '../format/content_digest.js';
import { afterPrefix, bareKey, fidKey, KEY, readU64 } from '../format/keys.js';
import { decodeInline, decodeInode, encodedInode } from '../format/records.js';
import {
  encodeSuperblock,
  FEATURE_ALL_CHECKSUMS,
  FEATURE_CHECKSUMS,
  type SuperblockRecord,
} from '../format/superblock.js';
import { LMDB_PAGE_BYTES } from '../meta/meta_probe.js';
import { checkedRecords, hasChecksum } from '../meta/record_checksums.js';
import { storedSuperblock } from '../meta/superblock_layer.js';
import type { MetaDatabase } from '../meta_medium.js';
import { breathe, type FsckRuntime } from './scan.js';

const RECORDS_AT_ONCE = 512;
const RECORDS_AT_LEAST = 8;
/** Pages that a transaction may take besides those of its records: branches, the list of free pages. */
const PAGES_PER_COMMIT = 64;
/** A page that a transaction replaces becomes free two transactions later. */
const COPIES = 3;

export interface AddedChecksums {
  readonly superblock: SuperblockRecord;
  /** Records that were written anew. */
  readonly records: number;
  /** The device has no room for more checksums: the other records stay as they are. */
  readonly full: boolean;
}

/**
 * @param raw the database itself, without the checksum wrapper, of a target in which nothing is wrong. Its superblock is read
 *   now: a repair before this may have changed it.
 */
export async function addChecksums(runtime: FsckRuntime, raw: MetaDatabase): Promise<AddedChecksums> {
  const { checksum } = runtime;
  const before = storedSuperblock(raw, checksum);
  const may = { ...before, featuresIncompat: before.featuresIncompat | FEATURE_CHECKSUMS };
  if (may.featuresIncompat !== before.featuresIncompat) await putSuperblock(raw, may, checksum);
  const db = checkedRecords(raw, checksum, may);
  let records = 0;
  for (let from = bareKey(KEY.counters); ; ) {
    const batch = [...raw.range(from, Buffer.from([0xff]), recordsAtOnce(raw, may))];
    const last = batch.at(-1);
    if (last === undefined) break;
    const plain = batch.filter(({ key, value }) => !hasChecksum(value) || lacksDigest(db, key));
    if (plain.length > 0) {
      if (!hasRoom(raw, may, plain.length)) return { superblock: may, records, full: true };
      const values = plain.map(({ key }) => ({ key, value: renewed(db, checksum, key) }));
      await db.commit((writer) => {
        for (const { key, value } of values) writer.put(key, value);
      });
      records += plain.length;
    }
    from = Buffer.concat([last.key, Buffer.alloc(1)]);
    await breathe(runtime);
  }
  const all = { ...may, featuresIncompat: may.featuresIncompat | FEATURE_ALL_CHECKSUMS };
  if (all.featuresIncompat !== may.featuresIncompat) await putSuperblock(raw, all, checksum);
  return { superblock: all, records, full: false };
}

async function putSuperblock(
  raw: MetaDatabase,
  superblock: SuperblockRecord,
  checksum: Checksum,
): Promise<void> {
  const value = encodeSuperblock(superblock, checksum);
  await raw.commit((writer) => writer.put(bareKey(KEY.superblock), value));
}

function freePages(raw: MetaDatabase, { metaSizeBytes }: SuperblockRecord): number {
  return Math.floor(metaSizeBytes / LMDB_PAGE_BYTES) - raw.use().usedPages;
}
/** Records of a transaction: fewer on a device that is nearly full. */
function recordsAtOnce(raw: MetaDatabase, superblock: SuperblockRecord): number {
  const fit = Math.floor((freePages(raw, superblock) - PAGES_PER_COMMIT) / (4 * COPIES));
  return Math.max(RECORDS_AT_LEAST, Math.min(RECORDS_AT_ONCE, fit));
}
function hasRoom(raw: MetaDatabase, superblock: SuperblockRecord, records: number): boolean {
  return freePages(raw, superblock) > COPIES * records + PAGES_PER_COMMIT;
}

function inodeAt(db: MetaDatabase, key: Buffer): Inode | undefined {
  if (key[0] !== KEY.inode) return undefined;
  const fid = readU64(key, 1) as Fid;
  const value = db.get(key);
  return value === undefined ? undefined : decodeInode(fid, value);
}
function lacksDigest(db: MetaDatabase, key: Buffer): boolean {
  const inode = inodeAt(db, key);
  return inode !== undefined && inode.digest === undefined;
}

/** The record's new value. */
function renewed(db: MetaDatabase, checksum: Checksum, key: Buffer): Buffer {
  const inode = inodeAt(db, key);
  if (inode !== undefined) {
    const digest = isRegular(inode.mode) ? contentDigest(db, checksum, inode.fid) : 0;
    return encodedInode({ ...inode, digest });
  }
  const value = db.get(key) ?? Buffer.alloc(0);
  return Buffer.from(value);
}

function contentDigest(db: MetaDatabase, checksum: Checksum, fid: Fid): number {
  const inline = db.get(fidKey(KEY.inlineData, fid));
  let digest = inline === undefined ? 0 : inlineDigest(checksum, decodeInline(fid, inline).bytes);
  const blockMaps = fidKey(KEY.blockMap, fid);
  for (const { key, value } of db.range(blockMaps, afterPrefix(blockMaps))) {
    const index = readU64(key, 9);
    digest ^= blockMapDigest(checksum, index, decodeBlockMap(value, `block map ${index} of ${fid}`));
  }
  return digest >>> 0;
}
