/**
 * Checks the database's own structure: reads it page by page from the raw device before lmdb maps it.
 *
 * lmdb trusts what it maps: a page number beyond the device or a node beyond its page crashes the process, and the next
 * commit overwrites a page that is both in use and on the free list. So this code checks every page that the two trees
 * reach: its header is right, its nodes lie within it, its keys are in order and within the bounds from the page above,
 * and no page is reached twice. The counts of the meta page must be right, and the free list must not name a page that
 * a tree reaches. Layout: meta_probe.ts, and below; lmdb has no checksums, so this check does not cover content.
 *
 * A page that is neither reached nor free is lost, which is no error: this version of lmdb loses some pages when a list
 * of free pages shrinks.
 */

import { FsError } from '../../base/errno.js';
import { getU64 } from '../format/records.js';
import {
  F_BIGDATA,
  LMDB_PAGE_BYTES,
  type LmdbMeta,
  type LmdbTree,
  NODE_HEADER,
  OVERFLOW_NODE_BYTES,
  P_BRANCH,
  P_LEAF,
  P_OVERFLOW,
  PAGE_HEADER,
  readMeta,
} from '../meta/meta_probe.js';
import type { ReadAt } from '../meta_medium.js';
import {
  type Bounds,
  type Compare,
  checkHeader,
  checkOrder,
  checkPacked,
  compareTransactions,
  DamagedPage,
  keyAt,
  nodeOffsets,
  type Span,
} from './page.js';
import type { Finding } from './report.js';

/** Most neighbouring pages in one read. */
const RUN_PAGES = 64;
const READS_AT_ONCE = 8;
/** The check stops after this many findings: the device is certainly damaged. */
const FINDINGS_MAX = 100;

export interface PagesReport {
  readonly findings: readonly Finding[];
  /** Pages that were read and are part of a tree. */
  readonly pages: number;
}

export interface PagesOptions {
  /** Called with the number of pages checked so far, and the approximate total. */
  readonly progress?: ((done: number, total: number) => void) | undefined;
}

/** @throws FsError EIO if the meta pages themselves are damaged, or cannot be read. */
export async function checkPages(
  read: ReadAt,
  device: string,
  sizeBytes: number,
  options: PagesOptions = {},
): Promise<PagesReport> {
  const { walk, meta } = await pageWalk(read, device, sizeBytes, options);
  await walk.tree(meta.main, 'records');
  await walk.tree(meta.free, 'free pages');
  walk.checkFreeList();
  return { findings: walk.findings, pages: walk.pagesSeen };
}

/**
 * Checks only the list of free pages, which lmdb itself reads when a server commits. It must be a sound tree that lists
 * pages of the device, each once.
 * @throws FsError EIO that says what is wrong.
 */
export async function checkFreePages(read: ReadAt, device: string, sizeBytes: number): Promise<void> {
  const { walk, meta } = await pageWalk(read, device, sizeBytes, {});
  await walk.tree(meta.free, 'free pages');
  walk.checkFreeList();
  const [finding] = walk.findings;
  if (finding === undefined) return;
  throw new FsError('EIO', `the meta device ${device} is damaged: ${finding.text}; holdfast fsck says more`);
}

async function pageWalk(
  read: ReadAt,
  device: string,
  sizeBytes: number,
  options: PagesOptions,
): Promise<{ readonly walk: PageWalk; readonly meta: LmdbMeta }> {
  const meta = await readMeta(read, device, sizeBytes);
  if (meta === undefined) throw new FsError('ENODEV', `${device} holds no database`);
  const readOrSay: ReadAt = async (offset, target) => {
    try {
      await read(offset, target);
    } catch (cause) {
      const text = `${device} cannot be read at ${offset}: ${(cause as Error).message}`;
      throw new FsError('EIO', text, { cause });
    }
  };
  return { walk: new PageWalk(readOrSay, meta, options), meta };
}

/**
 * Checks one of the two snapshots of the database: says what is wrong with its tree of records, and with its free list.
 */
export async function checkSnapshot(
  read: ReadAt,
  meta: LmdbMeta,
): Promise<{
  readonly records: readonly Finding[];
  readonly free: readonly Finding[];
  /** Runs of pages that the records' tree does not reach. */
  readonly unreached: readonly PageRun[];
}> {
  const walk = new PageWalk(read, meta, {});
  await walk.tree(meta.main, 'records');
  const records = [...walk.findings];
  const unreached = walk.unreached();
  await walk.tree(meta.free, 'free pages');
  walk.checkFreeList();
  return { records, free: walk.findings.slice(records.length), unreached };
}

export interface PageRun {
  readonly start: number;
  readonly count: number;
}

interface Expected extends Bounds {
  readonly number: number;
  /** Levels from this page down to the leaves, this one included. */
  readonly depth: number;
}

interface Counts {
  branch: number;
  leaf: number;
  overflow: number;
  entries: number;
}

type Contents = 'records' | 'free pages';

interface Tree {
  readonly of: Contents;
  readonly counts: Counts;
  readonly compare: Compare;
}

interface FreeRun {
  readonly record: number;
  readonly start: number;
  readonly count: number;
}

class PageWalk {
  readonly findings: Finding[] = [];
  pagesSeen = 0;
  readonly #read: ReadAt;
  readonly #meta: LmdbMeta;
  readonly #options: PagesOptions;
  readonly #total: number;
  /** One bit for each page: set if the page was reached. */
  readonly #used: Uint32Array;
  readonly #free: FreeRun[] = [];

  constructor(read: ReadAt, meta: LmdbMeta, options: PagesOptions) {
    this.#read = read;
    this.#meta = meta;
    this.#options = options;
    this.#total = [meta.main, meta.free].reduce(
      (sum, tree) => sum + tree.branchPages + tree.leafPages + tree.overflowPages,
      0,
    );
    this.#used = new Uint32Array(Math.ceil((meta.lastPage + 1) / 32));
    // The two meta pages.
    this.#used[0] = 3;
  }

  /** Runs of pages that the walk has not reached so far. */
  unreached(): PageRun[] {
    const runs: { start: number; count: number }[] = [];
    for (let page = 2; page <= this.#meta.lastPage; page++) {
      if (this.#isUsed(page)) continue;
      const last = runs.at(-1);
      if (last !== undefined && last.start + last.count === page) last.count++;
      else runs.push({ start: page, count: 1 });
    }
    return runs;
  }

  async tree(tree: LmdbTree, of: Contents): Promise<void> {
    const counts: Counts = { branch: 0, leaf: 0, overflow: 0, entries: 0 };
    const before = this.findings.length;
    if (of === 'records' && tree.flags !== 0) {
      // Flags mean another order of keys, or several values to a key: lmdb would read the pages by other rules.
      const text = `the database's tree of records has flags ${tree.flags}, which it never has`;
      this.findings.push({ kind: 'page', text });
    }
    if (tree.root !== undefined) {
      const root = { number: tree.root, depth: tree.depth, from: undefined, below: undefined };
      await this.#level({ of, counts, compare: of === 'records' ? Buffer.compare : compareTransactions }, [
        root,
      ]);
    }
    if (this.findings.length > before) return;
    const { branchPages: branch, leafPages: leaf, overflowPages: overflow, entries } = tree;
    const said: Counts = { branch, leaf, overflow, entries };
    for (const key of ['branch', 'leaf', 'overflow', 'entries'] as const) {
      if (counts[key] === said[key]) continue;
      const noun = key === 'entries' ? key : `${key} pages`;
      this.findings.push({
        kind: 'page',
        text: `the database counts ${said[key]} ${noun} in its tree of ${of}, but there are ${counts[key]}`,
      });
    }
  }

  /** Checks the pages of one level below one page, and then the pages below each of them; reads neighbours together. */
  async #level(tree: Tree, expected: readonly Expected[]): Promise<void> {
    for await (const [one, page] of this.#pages(expected)) {
      if (this.findings.length >= FINDINGS_MAX) return;
      try {
        this.#claim(one.number, 1);
        const branch = one.depth > 1;
        checkHeader(page, one.number, branch ? P_BRANCH : P_LEAF, this.#meta.transaction);
        this.pagesSeen++;
        this.#options.progress?.(this.pagesSeen, this.#total);
        if (branch) {
          tree.counts.branch++;
          await this.#level(tree, children(page, one, tree.compare));
        } else {
          tree.counts.leaf++;
          tree.counts.entries += await this.#leaf(tree, page, one);
        }
      } catch (thrown) {
        if (!(thrown instanceof DamagedPage)) throw thrown;
        const text = `database page ${one.number} (${tree.of}): ${thrown.message}`;
        this.findings.push({ kind: 'page', text });
      }
    }
  }

  async *#pages(expected: readonly Expected[]): AsyncIterable<[Expected, Buffer]> {
    const sorted = expected.filter((one) => this.#exists(one)).sort((a, b) => a.number - b.number);
    for (let at = 0; at < sorted.length; ) {
      const reads: Promise<[Expected, Buffer][]>[] = [];
      while (reads.length < READS_AT_ONCE && at < sorted.length) {
        const run = neighbours(sorted, at);
        at += run.length;
        reads.push(this.#run(run));
      }
      for (const pages of await Promise.all(reads)) yield* pages;
    }
  }

  #exists({ number }: Expected): boolean {
    const { lastPage } = this.#meta;
    if (number >= 2 && number <= lastPage) return true;
    const text = `the database refers to page ${number}, but its last one is ${lastPage}`;
    this.findings.push({ kind: 'page', text });
    return false;
  }

  async #run(run: readonly Expected[]): Promise<[Expected, Buffer][]> {
    const [first] = run;
    if (first === undefined) return [];
    const bytes = Buffer.alloc(run.length * LMDB_PAGE_BYTES);
    await this.#read(first.number * LMDB_PAGE_BYTES, bytes);
    return run.map((one, index) => [
      one,
      bytes.subarray(index * LMDB_PAGE_BYTES, (index + 1) * LMDB_PAGE_BYTES),
    ]);
  }

  /** @throws DamagedPage if one of the pages is out of range or was reached already. */
  #claim(start: number, count: number): void {
    if (start < 2 || count < 1 || start + count - 1 > this.#meta.lastPage) {
      throw new DamagedPage(`refers to pages ${start} to ${start + count - 1}, which are not there`);
    }
    for (let page = start; page < start + count; page++) {
      if (this.#isUsed(page)) throw new DamagedPage(`page ${page} is used twice`);
      this.#used[page >>> 5] = (this.#used[page >>> 5] ?? 0) | (1 << (page & 31));
    }
  }
  #isUsed(page: number): boolean {
    return ((this.#used[page >>> 5] ?? 0) & (1 << (page & 31))) !== 0;
  }

  /** @returns the number of entries in the leaf. */
  async #leaf(tree: Tree, page: Buffer, bounds: Bounds): Promise<number> {
    let previous: Buffer | undefined;
    const nodes = nodeOffsets(page);
    const spans: Span[] = [];
    for (const node of nodes) {
      const length = page.readUInt32LE(node);
      const flags = page.readUInt16LE(node + 4);
      const key = keyAt(page, node);
      if ((flags & ~F_BIGDATA) !== 0) throw new DamagedPage(`a record has unknown flags ${flags}`);
      const valueAt = node + NODE_HEADER + key.length;
      const inPage = flags === F_BIGDATA ? OVERFLOW_NODE_BYTES : length;
      if (valueAt + inPage > LMDB_PAGE_BYTES) throw new DamagedPage('a record reaches beyond the page');
      spans.push({ start: node, end: valueAt + inPage });
      checkOrder(key, previous, bounds, tree.compare);
      previous = key;
      const value =
        flags === F_BIGDATA
          ? await this.#overflow(tree, page, valueAt, length)
          : page.subarray(valueAt, valueAt + length);
      if (tree.of === 'free pages') this.#takeFree(key, value);
    }
    checkPacked(page, spans);
    return nodes.length;
  }

  /**
   * Checks the pages of a large value. It reads all of them: if the device cannot read one, a process that maps it
   * crashes.
   */
  async #overflow(tree: Tree, leaf: Buffer, at: number, length: number): Promise<Buffer> {
    const first = getU64(leaf, at);
    const pages = getU64(leaf, at + 16);
    if (pages !== Math.floor((PAGE_HEADER - 1 + length) / LMDB_PAGE_BYTES) + 1) {
      throw new DamagedPage(`a record of ${length} bytes lies on ${pages} pages`);
    }
    this.#claim(first, pages);
    tree.counts.overflow += pages;
    this.pagesSeen += pages;
    const bytes = Buffer.alloc(pages * LMDB_PAGE_BYTES);
    await this.#read(first * LMDB_PAGE_BYTES, bytes);
    const sound =
      getU64(bytes, 0) === first &&
      bytes.readUInt16LE(18) === P_OVERFLOW &&
      bytes.readUInt32LE(20) === pages &&
      getU64(bytes, 8) <= this.#meta.transaction;
    if (!sound) throw new DamagedPage(`page ${first}, which holds a record of it, is not what it should be`);
    return bytes.subarray(PAGE_HEADER, PAGE_HEADER + length);
  }

  /**
   * A record of the free list: u64 count, then that many i64. An entry is a page, or -n followed by the first of n
   * pages, or 0 for nothing.
   */
  #takeFree(key: Buffer, value: Buffer): void {
    const record = key.length === 8 ? getU64(key, 0) : 0;
    if (record === 0 || record > this.#meta.transaction) {
      throw new DamagedPage('a record of the free list is of no transaction of this database');
    }
    const count = value.length < 8 ? -1 : getU64(value, 0);
    if (count < 0 || 8 + 8 * count > value.length) {
      throw new DamagedPage(`the free list's record ${record} is too short for what it lists`);
    }
    for (let index = 1; index <= count; index++) {
      const entry = Number(value.readBigInt64LE(8 * index));
      if (entry === 0) continue;
      // The first page of the run may lie in the next record: then the length alone means nothing.
      if (entry < 0 && index === count) continue;
      if (entry > 0) this.#free.push({ record, start: entry, count: 1 });
      else this.#free.push({ record, start: getU64(value, 8 * ++index), count: -entry });
    }
  }

  /** Call it after both trees: checks that no page is listed twice, and that no listed page is in use. */
  checkFreeList(): void {
    for (const { record, start, count } of this.#free) {
      if (this.findings.length >= FINDINGS_MAX) return;
      const text = this.#freeRunFault(start, count);
      if (text === undefined) continue;
      this.findings.push({ kind: 'free-list', text: `the database's free list (record ${record}) ${text}` });
    }
  }

  #freeRunFault(start: number, count: number): string | undefined {
    if (start < 2 || start + count - 1 > this.#meta.lastPage) {
      return `names pages ${start} to ${start + count - 1}, which are not there`;
    }
    for (let page = start; page < start + count; page++) {
      if (this.#isUsed(page)) return `names page ${page}, which is in use or named twice`;
      this.#used[page >>> 5] = (this.#used[page >>> 5] ?? 0) | (1 << (page & 31));
    }
    return undefined;
  }
}

/** The pages from `at` on that are neighbours. */
function neighbours(sorted: readonly Expected[], at: number): Expected[] {
  const run: Expected[] = [];
  for (let index = at; run.length < RUN_PAGES; index++) {
    const one = sorted[index];
    const last = run.at(-1);
    if (one === undefined || (last !== undefined && one.number !== last.number + 1)) break;
    run.push(one);
  }
  return run;
}

/**
 * The numbers and bounds that a branch page gives for its children. Its first key is not used: no bound comes from it.
 */
function children(page: Buffer, above: Expected, compare: Compare): Expected[] {
  const nodes = nodeOffsets(page);
  const keys = nodes.map((node) => keyAt(page, node));
  checkPacked(
    page,
    nodes.map((start, index) => ({ start, end: start + NODE_HEADER + (keys[index]?.length ?? 0) })),
  );
  return nodes.map((node, index) => {
    const key = index === 0 ? undefined : keys[index];
    if (key !== undefined) checkOrder(key, index === 1 ? undefined : keys[index - 1], above, compare);
    return {
      number: page.readUInt32LE(node) + page.readUInt16LE(node + 4) * 2 ** 32,
      depth: above.depth - 1,
      from: key ?? above.from,
      below: keys[index + 1] ?? above.below,
    };
  });
}
