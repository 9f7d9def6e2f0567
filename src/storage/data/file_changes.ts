/**
 * Changes of one file's content: the steps of the operations in file_data.ts. The caller holds the range.
 *
 * A change first writes its content to the device, then executes: its transaction names only content that is there. A
 * long change goes in steps of MAPS_PER_STEP block maps, one transaction each. After every step the file makes sense.
 */

import { compareTime, type Timespec } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import type { Change, Executed, ExecuteOptions, Inode, ReserveOfMeta, Tx } from '../api.js';
import { BLOCK_BYTES, MAP_BLOCKS, MAP_BYTES } from '../format/block_map.js';
import type { Overlay } from '../meta/overlay.js';
import {
  type BlockIo,
  type BlockIoHost,
  type BlockRun,
  type Blocks,
  type Needed,
  NO_BLOCKS,
  nameStored,
  noSpace,
  type Stored,
  slice,
} from './block_io.js';
import { BlockMapEdit } from './block_map_edit.js';

/**
 * With its header and key, content of this length still fits one overflow page of lmdb. Below BLOCK_BYTES, so that
 * block 0 can take over the content.
 */
export const INLINE_MAX = 4032;
/** Most block maps that one transaction of a long operation changes: takes about a millisecond. */
export const MAPS_PER_STEP = 64;
const STEP_BLOCKS = MAPS_PER_STEP * MAP_BLOCKS;

export interface FileChangesHost extends BlockIoHost {
  execute<R>(run: (tx: Tx) => R, options?: ExecuteOptions): Executed<R>;
  /** Lets other events run between the steps of a long operation. */
  breathe(): Promise<void>;
}

/** How an operation ends: how the inode changes. If an operation has several steps, only the last has a transno. */
export interface Ending extends Change {
  /** @param now the file's size now; it may have grown meanwhile. */
  size(now: number): number;
}

export class FileChanges {
  readonly #host: FileChangesHost;
  readonly #overlay: Overlay;
  readonly #blocks: BlockIo;

  constructor(host: FileChangesHost, blocks: BlockIo) {
    this.#host = host;
    this.#overlay = host.overlay;
    this.#blocks = blocks;
  }

  /** @throws FsError ESTALE */
  inode(fid: Fid): Inode {
    const inode = this.#overlay.inode(fid);
    if (inode === undefined) throw new FsError('ESTALE', `fid ${fid} is gone`);
    return inode;
  }

  staysInline(inode: Inode, inline: Buffer | undefined, end: number): boolean {
    return end <= INLINE_MAX && inode.sizeBytes <= INLINE_MAX && (inline !== undefined || inode.blocks === 0);
  }

  /** Inside an operation: stores the changed inode, then runs the caller's further changes. */
  #end(tx: Tx, fid: Fid, sectors: number, ending: Ending, exactSectors?: number): Inode {
    const before = this.inode(fid);
    const inode: Inode = {
      ...before,
      sizeBytes: ending.size(before.sizeBytes),
      blocks: exactSectors ?? before.blocks + sectors,
      mtime: ending.time,
      // A client sends content behind a change of attributes that its programs have seen. Its time is that of the content.
      ctime: compareTime(before.ctime, ending.time) > 0 ? before.ctime : ending.time,
    };
    tx.putInode(inode);
    ending.within?.(tx, inode, true);
    return inode;
  }

  executeOnly(fid: Fid, ending: Ending): Executed<Inode> {
    return this.#host.execute((tx) => this.#end(tx, fid, 0, ending), {
      reserve: true,
      transno: ending.transno,
    });
  }

  /** Inside an operation that has made the file. @param content the caller never changes it again. */
  putWhole(tx: Tx, fid: Fid, content: Buffer, time: Timespec): Inode {
    const { length } = content;
    if (length > 0) this.#overlay.setInlineData(fid, content);
    return this.#end(tx, fid, 0, { time, size: () => length }, Math.ceil(length / 512));
  }

  putInline(
    fid: Fid,
    before: Buffer | undefined,
    sizeBytes: number,
    ending: Ending,
    change: (content: Buffer) => void,
  ): Executed<Inode> {
    const content = Buffer.alloc(sizeBytes);
    if (before !== undefined) content.set(before.subarray(0, sizeBytes));
    change(content);
    return this.#host.execute(
      (tx) => {
        this.#overlay.setInlineData(fid, sizeBytes === 0 ? null : content);
        return this.#end(tx, fid, 0, ending, Math.ceil(sizeBytes / 512));
      },
      { reserve: before !== undefined && sizeBytes <= before.length, transno: ending.transno },
    );
  }

  async writeBlocks(
    inode: Inode,
    inline: Buffer | undefined,
    offset: number,
    data: Uint8Array,
    ending: Ending,
  ): Promise<Executed<Inode>> {
    const { fid } = inode;
    const end = offset + data.length;
    const first = Math.floor(offset / BLOCK_BYTES);
    const last = Math.ceil(end / BLOCK_BYTES) - 1;
    const headEnd = offset % BLOCK_BYTES === 0 ? offset : (first + 1) * BLOCK_BYTES;
    const chunks: Uint8Array[] = [];
    if (headEnd > offset) {
      const head = await this.#block(fid, first, inline);
      head.set(data.subarray(0, Math.min(data.length, headEnd - offset)), offset % BLOCK_BYTES);
      chunks.push(head);
    }
    const tailStart = end % BLOCK_BYTES === 0 ? end : last * BLOCK_BYTES;
    if (tailStart > headEnd) chunks.push(data.subarray(headEnd - offset, tailStart - offset));
    if (tailStart < end && tailStart >= headEnd) {
      // Behind the end of the file a block holds zeros: no need to read it.
      const tail = end >= inode.sizeBytes ? Buffer.alloc(BLOCK_BYTES) : await this.#block(fid, last, inline);
      tail.set(data.subarray(tailStart - offset));
      chunks.push(tail);
    }
    if (inline !== undefined) {
      const runs: BlockRun[] = [{ block: first, chunks }];
      if (first > 0) runs.unshift(spilled(inline));
      return await this.storeRuns(fid, runs, { ending, clearInline: true });
    }
    const parts = this.#blocks.parts(fid, first, last + 1);
    for (let index = 0; ; index++) {
      const part = parts[index] ?? { start: first, end: last + 1 };
      const isLast = index >= parts.length - 1;
      // Cut the size at `end`: content behind the end of the file would become visible when the file grows.
      const size = (now: number): number => Math.max(now, Math.min(end, part.end * BLOCK_BYTES));
      const content = slice(chunks, (part.start - first) * BLOCK_BYTES, (part.end - first) * BLOCK_BYTES);
      const executed = await this.storeRuns(fid, [{ block: part.start, chunks: content }], {
        ending: isLast ? ending : stepOf(ending, size),
      });
      if (isLast) return executed;
    }
  }

  /** One block's content; the caller may change it. */
  async #block(fid: Fid, block: number, inline: Buffer | undefined): Promise<Buffer> {
    if (inline !== undefined) {
      const content = Buffer.alloc(BLOCK_BYTES);
      if (block === 0) content.set(inline);
      return content;
    }
    return (await this.#blocks.read(fid, block, block + 1)) ?? Buffer.alloc(BLOCK_BYTES);
  }

  async storeRuns(
    fid: Fid,
    runs: readonly BlockRun[],
    options: {
      readonly ending: Ending;
      readonly clearInline?: boolean;
      readonly shrinking?: boolean;
      /** Blocks that `also` takes besides. */
      readonly extra?: Needed;
      /** More changes of the same operation. */
      readonly also?: (edit: BlockMapEdit, free: () => number) => void;
    },
  ): Promise<Executed<Inode>> {
    const { shrinking = false, clearInline = false, ending, also } = options;
    return await this.#blocks.store(
      fid,
      runs,
      { shrinking, extra: options.extra ?? NO_BLOCKS, takes: ending.takes },
      (stored: readonly Stored[], space) => {
        const edit = new BlockMapEdit(this.#overlay, fid);
        const reserve = (): ReserveOfMeta => shrinking || edit.reserve;
        return this.#host.execute(
          (tx) => {
            // The file may be gone by now: then ESTALE, so that it gets no blocks again.
            this.inode(fid);
            also?.(edit, () => space.next());
            nameStored(edit, stored);
            const sectors = edit.finish();
            space.use();
            if (clearInline) this.#overlay.setInlineData(fid, null);
            // st_blocks counted the content in the database; from now on it counts blocks.
            return this.#end(tx, fid, sectors, ending, clearInline ? sectors : undefined);
          },
          { reserve, transno: ending.transno },
        );
      },
    );
  }

  /** Moves a file's content from the database to block 0. */
  async spill(fid: Fid, takes: Change['takes']): Promise<void> {
    const inline = this.#overlay.inlineData(fid);
    if (inline === undefined) return;
    const { mtime } = this.inode(fid);
    const ending: Ending = { time: mtime, within: undefined, takes, size: (now) => now };
    await this.storeRuns(fid, [spilled(inline)], { ending, clearInline: true });
  }

  /** The partial blocks at both ends of [offset, end), with that range zeroed; only blocks that hold content. */
  async #zeroedEdges(fid: Fid, offset: number, end: number): Promise<BlockRun[]> {
    const runs: BlockRun[] = [];
    const blocks = new Set<number>();
    if (offset % BLOCK_BYTES !== 0) blocks.add(Math.floor(offset / BLOCK_BYTES));
    if (end % BLOCK_BYTES !== 0) blocks.add(Math.floor(end / BLOCK_BYTES));
    for (const block of blocks) {
      const content = await this.#blocks.read(fid, block, block + 1);
      if (content === undefined) continue;
      const start = block * BLOCK_BYTES;
      content.fill(0, Math.max(0, offset - start), Math.min(BLOCK_BYTES, end - start));
      runs.push({ block, chunks: [content] });
    }
    return runs;
  }

  /**
   * Truncates a file that has blocks. It removes a long tail from the end, one step for each transaction: after every
   * step the file is whole up to its size.
   */
  async shrink(inode: Inode, sizeBytes: number, ending: Ending): Promise<Executed<Inode>> {
    const { fid } = inode;
    const keptBlocks = Math.ceil(sizeBytes / BLOCK_BYTES);
    const indexes = await this.#blockMapIndexes(
      fid,
      Math.floor(keptBlocks / MAP_BLOCKS),
      Number.POSITIVE_INFINITY,
    );
    while (indexes.length > MAPS_PER_STEP) {
      const step = indexes.splice(-MAPS_PER_STEP);
      const [lowest] = step;
      if (lowest === undefined) break;
      await this.#removeBlockMaps(
        fid,
        step,
        stepOf(ending, (now) => Math.min(now, lowest * MAP_BYTES)),
      );
    }
    const tailEnd = keptBlocks * BLOCK_BYTES;
    const edges = sizeBytes === tailEnd ? [] : await this.#zeroedEdges(fid, sizeBytes, tailEnd);
    return await this.storeRuns(fid, edges, {
      ending,
      shrinking: true,
      also: (edit) => {
        for (const index of indexes) {
          edit.clear(Math.max(keptBlocks, index * MAP_BLOCKS), (index + 1) * MAP_BLOCKS);
        }
      },
    });
  }

  async #removeBlockMaps(fid: Fid, indexes: readonly number[], ending: Ending): Promise<void> {
    this.#host.execute(
      (tx) => {
        const edit = new BlockMapEdit(this.#overlay, fid);
        for (const index of indexes) edit.clear(index * MAP_BLOCKS, (index + 1) * MAP_BLOCKS);
        const sectors = edit.finish();
        this.#end(tx, fid, sectors, ending);
      },
      { reserve: true },
    );
    await this.#host.breathe();
  }

  /** Indexes of the block maps in [first, end) that are not empty. */
  async #blockMapIndexes(fid: Fid, first: number, end: number): Promise<number[]> {
    const indexes: number[] = [];
    for (let from = first; from < end; ) {
      const found = this.#overlay.blockMapsFrom(fid, from, MAPS_PER_STEP);
      for (const [index] of found) if (index < end) indexes.push(index);
      const last = found.at(-1);
      if (last === undefined || found.length < MAPS_PER_STEP) break;
      from = last[0] + 1;
      await this.#host.breathe();
    }
    return indexes;
  }

  /** Number of holes among blocks [first, end); if there is no room for them, some number above the room. */
  async missingBlocks(fid: Fid, first: number, end: number): Promise<number> {
    let missing = 0;
    for (let from = first; from < end && missing <= this.#blocks.availableBlocks; from += STEP_BLOCKS) {
      missing += this.#blocks.needed(fid, from, Math.min(end, from + STEP_BLOCKS)).added;
      if (from + STEP_BLOCKS < end) await this.#host.breathe();
    }
    return missing;
  }

  /** Throws ENOSPC before anything changes, although fill() works in steps. */
  async #needBlocks(fid: Fid, first: number, end: number): Promise<void> {
    if ((await this.missingBlocks(fid, first, end)) > this.#blocks.availableBlocks) throw noSpace();
  }

  /** Allocates the holes of blocks [first, end) as unwritten space. */
  async fill(fid: Fid, first: number, end: number, ending: Ending): Promise<Executed<Inode>> {
    await this.#needBlocks(fid, first, end);
    for (let from = first; ; from += STEP_BLOCKS) {
      const to = Math.min(end, from + STEP_BLOCKS);
      const isLast = to === end;
      const segments = this.#blocks.segments(fid, from, to).filter((segment) => segment.place === 0);
      const executed = await this.storeRuns(fid, [], {
        ending: isLast ? ending : stepOf(ending),
        extra: { added: segments.reduce((sum, { count }) => sum + count, 0), moved: 0 },
        also: (edit, free) => {
          for (const { block, count } of segments) {
            for (let index = 0; index < count; index++) edit.set(block + index, -free(), 0);
          }
        },
      });
      if (isLast) return executed;
      await this.#host.breathe();
    }
  }

  /**
   * Makes holes of the whole blocks in [offset, end) and zeros the edges; for 'zero' the blocks stay allocated,
   * unwritten. Short ranges are one transaction.
   */
  async clearBlocks(
    fid: Fid,
    offset: number,
    end: number,
    how: 'punch' | 'zero',
    ending: Ending,
  ): Promise<Executed<Inode>> {
    const first = Math.ceil(offset / BLOCK_BYTES);
    // Behind the end of the file there are zeros anyway, so the whole last block may go.
    const last =
      end >= this.inode(fid).sizeBytes ? Math.ceil(end / BLOCK_BYTES) : Math.floor(end / BLOCK_BYTES);
    const edges = await this.#zeroedEdges(fid, offset, Math.max(last * BLOCK_BYTES, end));
    const range = { start: Math.floor(offset / BLOCK_BYTES), end: Math.ceil(end / BLOCK_BYTES) };
    if (how === 'zero') await this.#needBlocks(fid, range.start, range.end);
    const steps = how === 'zero' ? stepsOf(range) : await this.#stepsOfContent(fid, range);
    for (let index = 0; ; index++) {
      const step = steps[index] ?? { start: first, end: first };
      const parts = how === 'zero' ? this.#blocks.parts(fid, step.start, step.end) : [step];
      for (const part of parts) {
        const isLast = index >= steps.length - 1 && part === parts.at(-1);
        const runs = edges.filter(({ block }) => block >= part.start && block < part.end);
        const executed = await this.storeRuns(fid, runs, {
          ending: isLast ? ending : stepOf(ending),
          shrinking: how === 'punch',
          ...(how === 'zero'
            ? this.#unwritten(fid, part, runs)
            : { also: (edit) => edit.clear(Math.max(first, part.start), Math.min(last, part.end)) }),
        });
        if (isLast) return executed;
        await this.#host.breathe();
      }
    }
  }

  /**
   * Makes all blocks but `runs` unwritten. Blocks that are already unwritten stay in place, so that this works on a
   * full device too.
   */
  #unwritten(
    fid: Fid,
    { start, end }: Blocks,
    runs: readonly BlockRun[],
  ): { readonly extra: Needed; readonly also: (edit: BlockMapEdit, free: () => number) => void } {
    const { added, moved } = this.#blocks.needed(fid, start, end);
    return {
      // Edge blocks have content; store() counts them with their runs.
      extra: { added, moved: moved - runs.length },
      also: (edit, free) => {
        for (let block = start; block < end; block++) {
          const isEdge = runs.some((run) => run.block === block);
          if (!isEdge && edit.place(block) >= 0) edit.set(block, -free(), 0);
        }
      },
    };
  }

  /** Ranges of blocks, one for each transaction that clears; only ranges that hold something. */
  async #stepsOfContent(fid: Fid, { start, end }: Blocks): Promise<Blocks[]> {
    const indexes = await this.#blockMapIndexes(
      fid,
      Math.floor(start / MAP_BLOCKS),
      Math.ceil(end / MAP_BLOCKS),
    );
    const steps: Blocks[] = [];
    while (indexes.length > 0) {
      const step = indexes.splice(0, MAPS_PER_STEP);
      steps.push({
        start: Math.max(start, (step[0] ?? 0) * MAP_BLOCKS),
        end: Math.min(end, ((step.at(-1) ?? 0) + 1) * MAP_BLOCKS),
      });
    }
    return steps;
  }

  /** Removes the next part of a destroyed file. @returns whether it was the last part. */
  destroyStep(fid: Fid): boolean {
    const blockMaps = this.#overlay.blockMapsFrom(fid, 0, MAPS_PER_STEP);
    const last = blockMaps.length < MAPS_PER_STEP;
    this.#host.execute(
      () => {
        for (const [index, blockMap] of blockMaps) this.#overlay.removeBlockMap(fid, index, blockMap);
        if (last) this.#overlay.removeDoomed(fid);
      },
      { reserve: 'own' },
    );
    return last;
  }
}

/** Inline content as block 0. */
export function spilled(inline: Buffer): BlockRun {
  const block = Buffer.alloc(BLOCK_BYTES);
  block.set(inline);
  return { block: 0, chunks: [block] };
}

/** The whole range, in steps of whole block maps. */
function stepsOf({ start, end }: Blocks): Blocks[] {
  const steps: Blocks[] = [];
  for (let from = start; from < end; ) {
    const to = Math.min(end, (Math.floor(from / MAP_BLOCKS) + MAPS_PER_STEP) * MAP_BLOCKS);
    steps.push({ start: from, end: to });
    from = to;
  }
  return steps;
}

/** The ending of a step that is not the last of its operation. */
function stepOf({ time, within, takes }: Ending, size: Ending['size'] = (now) => now): Ending {
  return { time, size, takes, within: within && ((tx, inode) => within(tx, inode, false)) };
}
