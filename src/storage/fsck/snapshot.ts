/**
 * Saves a database whose pages are damaged. lmdb keeps two snapshots, that of the last transaction and the one before
 * it, each with a meta page. A transaction writes only to pages that neither of them uses. So if the last snapshot lost
 * a page, the one before is usually whole. The list of free pages adds nothing to the tree of records: a page that no
 * record reaches is free.
 *
 * Repairing writes, in this order, the new list of free pages to pages that the snapshot does not reach, then both meta
 * pages. From then on there is one snapshot.
 */

import type { Checksum } from '../../runtime/ports.js';
import { putU64 } from '../format/records.js';
import type { SuperblockRecord } from '../format/superblock.js';
import {
  encodeMeta,
  F_BIGDATA,
  LMDB_PAGE_BYTES,
  type LmdbMeta,
  type LmdbTree,
  NODE_HEADER,
  OVERFLOW_NODE_BYTES,
  P_LEAF,
  P_OVERFLOW,
  PAGE_HEADER,
  readMetas,
  superblockOf,
  TRANSACTIONS_APART_MAX,
} from '../meta/meta_probe.js';
import type { MetaMedium, ReadAt } from '../meta_medium.js';
import { checkSnapshot, type PageRun } from './pages.js';
import type { Finding, Repair } from './report.js';

const KEY_BYTES = 8;
/** Key of the new free list's record: older than any transaction that could still read the listed pages. */
const LIST_TRANSACTION = 1;

export interface Salvage {
  readonly superblock: SuperblockRecord;
  /** The damage, and what --repair does about it: one line each. */
  readonly findings: readonly Finding[];
  /** Pieces to write, in this order, each durable before the next. */
  readonly steps: readonly (readonly { readonly offset: number; readonly bytes: Buffer }[])[];
}

/** @returns undefined if neither snapshot has a whole tree of records with a superblock. */
export async function salvage(
  read: ReadAt,
  device: string,
  sizeBytes: number,
  checksum: Checksum,
): Promise<Salvage | undefined> {
  const metas = await readMetas(read, sizeBytes);
  const newest = Math.max(...metas.map((meta) => meta?.transaction ?? -1));
  const inOrder = metas
    .filter((meta) => meta !== undefined)
    .filter((meta) => newest - meta.transaction <= TRANSACTIONS_APART_MAX)
    .sort((one, other) => other.transaction - one.transaction);
  const damage: Finding[] = [];
  if (inOrder.length < 2) damage.push({ kind: 'page', text: 'one of the two meta pages is damaged' });
  for (const meta of inOrder) {
    const found = await checkSnapshot(read, meta);
    const superblock = await superblockOf(read, meta, device, checksum).catch(() => undefined);
    if (found.records.length > 0 || superblock === undefined || meta.transaction < 2) {
      const [first] = found.records;
      const why = first === undefined ? 'its superblock is damaged' : first.text;
      damage.push({ kind: 'page', text: `transaction ${meta.transaction} is damaged: ${why}` });
      continue;
    }
    return {
      superblock,
      findings: [
        ...damage.map((finding) => ({ ...finding, repair: madeBefore('left behind') })),
        ...verdict(meta, damage, found.free),
      ],
      steps: repairs(meta, found.unreached, sizeBytes),
    };
  }
  return undefined;
}

/** Repairs of pages and of the log are done before fsck checks the records: this one only says that there was one. */
export function madeBefore(done: string): Repair {
  return { stage: 'records', done, apply: () => undefined };
}

function verdict({ transaction }: LmdbMeta, damage: readonly Finding[], free: readonly Finding[]): Finding[] {
  const found: Finding[] = [];
  if (damage.length > 0) {
    const text =
      `the snapshot of transaction ${transaction} is whole; what a later one changed is lost, ` +
      `and content that it replaced may be written over (--checksums says where)`;
    found.push({ kind: 'page', text, repair: madeBefore('gone back to') });
  }
  const [first] = free;
  if (first !== undefined) {
    const text = `${first.text}; what no record reaches is free`;
    found.push({ kind: 'free-list', text, repair: madeBefore('made anew') });
  }
  return found;
}

function repairs(meta: LmdbMeta, unreached: readonly PageRun[], sizeBytes: number): Salvage['steps'] {
  const list = freeList(meta, unreached);
  const whole: LmdbMeta = { ...meta, free: list.tree };
  // The other page gets the same trees and an earlier transaction.
  const pages = [meta.transaction, meta.transaction - 1].map((transaction) => ({
    offset: (transaction % 2) * LMDB_PAGE_BYTES,
    bytes: encodeMeta(whole, transaction, sizeBytes),
  }));
  return [list.pieces, ...pages.map((page) => [page])];
}

interface FreeList {
  readonly tree: LmdbTree;
  readonly pieces: readonly { readonly offset: number; readonly bytes: Buffer }[];
}

/**
 * A list of free pages as lmdb writes it: one record on a leaf of its own, with its value on pages of its own. The
 * value is u64 count, then that many i64, the highest page first: a page, or -n and the first of n pages. The list lies
 * on the longest run of free pages. If no run is long enough, the list is empty, and the database grows.
 */
function freeList(meta: LmdbMeta, unreached: readonly PageRun[]): FreeList {
  const none: LmdbTree = {
    flags: meta.free.flags,
    root: undefined,
    depth: 0,
    branchPages: 0,
    leafPages: 0,
    overflowPages: 0,
    entries: 0,
  };
  const [longest] = [...unreached].sort((one, other) => other.count - one.count);
  const valuePages = Math.ceil((PAGE_HEADER + 8 * (1 + 2 * unreached.length)) / LMDB_PAGE_BYTES);
  if (longest === undefined || longest.count < 1 + valuePages) return { tree: none, pieces: [] };
  const leafAt = longest.start;
  const left = unreached
    .map(({ start, count }) =>
      start === leafAt ? { start: start + 1 + valuePages, count: count - 1 - valuePages } : { start, count },
    )
    .filter(({ count }) => count > 0)
    .sort((one, other) => other.start - one.start);
  const entries = left.flatMap(({ start, count }) => (count === 1 ? [start] : [-count, start]));
  const bytes = Buffer.alloc((1 + valuePages) * LMDB_PAGE_BYTES);
  const valueBytes = encodeList(bytes.subarray(LMDB_PAGE_BYTES), leafAt + 1, valuePages, meta, entries);
  encodeLeaf(bytes.subarray(0, LMDB_PAGE_BYTES), leafAt, valuePages, valueBytes, meta);
  return {
    tree: { ...none, root: leafAt, depth: 1, leafPages: 1, overflowPages: valuePages, entries: 1 },
    pieces: [{ offset: leafAt * LMDB_PAGE_BYTES, bytes }],
  };
}

/** @returns the length of the value in bytes, which is that for which its pages were counted. */
function encodeList(
  pages: Buffer,
  number: number,
  count: number,
  { transaction }: LmdbMeta,
  entries: readonly number[],
): number {
  putU64(pages, number, 0);
  putU64(pages, transaction, 8);
  pages.writeUInt16LE(P_OVERFLOW, 18);
  pages.writeUInt32LE(count, 20);
  const valueBytes = count * LMDB_PAGE_BYTES - PAGE_HEADER;
  putU64(pages, entries.length, PAGE_HEADER);
  for (const [at, entry] of entries.entries())
    pages.writeBigInt64LE(BigInt(entry), PAGE_HEADER + 8 * (1 + at));
  return valueBytes;
}

function encodeLeaf(
  page: Buffer,
  number: number,
  valuePages: number,
  valueBytes: number,
  { transaction }: LmdbMeta,
): void {
  const node = LMDB_PAGE_BYTES - (NODE_HEADER + KEY_BYTES + OVERFLOW_NODE_BYTES);
  putU64(page, number, 0);
  putU64(page, transaction, 8);
  page.writeUInt16LE(P_LEAF, 18);
  page.writeUInt16LE(2, 20);
  page.writeUInt16LE(node - PAGE_HEADER, 22);
  page.writeUInt16LE(node - PAGE_HEADER, PAGE_HEADER);
  page.writeUInt32LE(valueBytes, node);
  page.writeUInt16LE(F_BIGDATA, node + 4);
  page.writeUInt16LE(KEY_BYTES, node + 6);
  putU64(page, LIST_TRANSACTION, node + NODE_HEADER);
  const value = node + NODE_HEADER + KEY_BYTES;
  putU64(page, number + 1, value);
  putU64(page, transaction, value + 8);
  putU64(page, valuePages, value + 16);
}

/** Writes the steps of salvage(), durably. */
export async function applySalvage(medium: MetaMedium, { steps }: Salvage): Promise<void> {
  for (const pieces of steps) if (pieces.length > 0) await medium.writeRaw(pieces);
}
