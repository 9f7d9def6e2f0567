/**
 * Changes of one file's content: the steps that the operations of file_data.ts are made of. The caller holds the range.
 *
 * A change first writes its content to the device, then executes: the transaction names only what is there. Long changes
 * go in steps of WINDOWS_PER_STEP windows, a transaction each, each of them leaving a file that makes sense.
 */

import type { Timespec } from '../base/attr.js';
import { FsError } from '../base/errno.js';
import type { Fid, Transno } from '../base/ids.js';
import type { Executed, ExecuteOptions, Inode, Tx, Within } from './api.js';
import { type BlockIo, type BlockIoHost, type BlockRun, nameStored, type Stored } from './block_io.js';
import type { Overlay } from './overlay.js';
import { BLOCK_BYTES, WINDOW_BLOCKS, WINDOW_BYTES } from './window.js';
import { WindowEdit } from './window_edit.js';

/** With its header and key this still fits one overflow page of lmdb. Below BLOCK_BYTES: block 0 can take it over. */
export const INLINE_MAX = 4032;
/** Windows changed by one transaction of a long operation: a millisecond or so. */
export const WINDOWS_PER_STEP = 64;

export interface FileChangesHost extends BlockIoHost {
  execute<R>(run: (tx: Tx) => R, options?: ExecuteOptions): Executed<R>;
  /** Lets other events run between the steps of a long operation. */
  breathe(): Promise<void>;
}

/** How an operation ends: what becomes of the inode. */
export interface Ending {
  readonly time: Timespec;
  readonly within: Within | undefined;
  /** Of a replay. The steps before the last have no transno of their own. */
  readonly transno?: Transno | undefined;
  /** @param size the file's size now, which may have grown meanwhile. */
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

  /** Inside an operation: the inode as it becomes, and what the caller does with it. */
  #end(tx: Tx, fid: Fid, sectors: number, ending: Ending, exactSectors?: number): Inode {
    const before = this.inode(fid);
    const inode: Inode = {
      ...before,
      sizeBytes: ending.size(before.sizeBytes),
      blocks: exactSectors ?? before.blocks + sectors,
      mtime: ending.time,
      ctime: ending.time,
    };
    tx.putInode(inode);
    ending.within?.(tx, inode);
    return inode;
  }

  executeOnly(fid: Fid, ending: Ending): Executed<Inode> {
    return this.#host.execute((tx) => this.#end(tx, fid, 0, ending), {
      reserve: true,
      transno: ending.transno,
    });
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
      // Behind the end of the file a block holds zeros: nothing to read there.
      const tail = end >= inode.sizeBytes ? Buffer.alloc(BLOCK_BYTES) : await this.#block(fid, last, inline);
      tail.set(data.subarray(tailStart - offset));
      chunks.push(tail);
    }
    const runs: BlockRun[] = [{ block: first, chunks }];
    if (inline !== undefined && first > 0) runs.unshift(spilled(inline));
    return await this.storeRuns(fid, runs, { ending, clearInline: inline !== undefined });
  }

  /** One block's content, ours to change. */
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
      /** Blocks that `also` may take beside: at most this many. */
      readonly fillBlocks?: number;
      /** More changes of the same operation. */
      readonly also?: (edit: WindowEdit, free: () => number) => void;
    },
  ): Promise<Executed<Inode>> {
    const { shrinking = false, clearInline = false, ending, also } = options;
    return await this.#blocks.store(
      fid,
      runs,
      { shrinking, extraBlocks: options.fillBlocks ?? 0 },
      (stored: readonly Stored[], space) =>
        this.#host.execute(
          (tx) => {
            // The file may be gone: then its blocks must not come to life again.
            this.inode(fid);
            const edit = new WindowEdit(this.#overlay, fid);
            also?.(edit, () => space.next());
            nameStored(edit, stored);
            const sectors = edit.finish();
            space.use();
            if (clearInline) this.#overlay.setInlineData(fid, null);
            // What lay in the database was counted too; from now on blocks are.
            return this.#end(tx, fid, sectors, ending, clearInline ? sectors : undefined);
          },
          { reserve: shrinking, transno: ending.transno },
        ),
    );
  }

  /** Moves a file out of the database. */
  async spill(fid: Fid): Promise<void> {
    const inline = this.#overlay.inlineData(fid);
    if (inline === undefined) return;
    const { mtime } = this.inode(fid);
    const ending: Ending = { time: mtime, within: undefined, size: (now) => now };
    await this.storeRuns(fid, [spilled(inline)], { ending, clearInline: true });
  }

  /** Partial blocks at both ends of [offset, end) with that range zeroed: only those that hold content. */
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
   * Cuts a file of blocks. Long tails go from the end, a step a transaction: each of them leaves a file that is whole
   * up to its size.
   */
  async shrink(inode: Inode, sizeBytes: number, ending: Ending): Promise<Executed<Inode>> {
    const { fid } = inode;
    const keptBlocks = Math.ceil(sizeBytes / BLOCK_BYTES);
    const indexes = await this.#windowIndexes(
      fid,
      Math.floor(keptBlocks / WINDOW_BLOCKS),
      Number.POSITIVE_INFINITY,
    );
    while (indexes.length > WINDOWS_PER_STEP) {
      const step = indexes.splice(-WINDOWS_PER_STEP);
      const [lowest] = step;
      if (lowest === undefined) break;
      await this.#removeWindows(fid, step, ending.time, (now) => Math.min(now, lowest * WINDOW_BYTES));
    }
    const tailEnd = keptBlocks * BLOCK_BYTES;
    const edges = sizeBytes === tailEnd ? [] : await this.#zeroedEdges(fid, sizeBytes, tailEnd);
    return await this.storeRuns(fid, edges, {
      ending,
      shrinking: true,
      also: (edit) => {
        for (const index of indexes) {
          edit.clear(Math.max(keptBlocks, index * WINDOW_BLOCKS), (index + 1) * WINDOW_BLOCKS);
        }
      },
    });
  }

  async #removeWindows(
    fid: Fid,
    indexes: readonly number[],
    time: Timespec,
    size: (now: number) => number,
  ): Promise<void> {
    this.#host.execute(
      (tx) => {
        const edit = new WindowEdit(this.#overlay, fid);
        for (const index of indexes) edit.clear(index * WINDOW_BLOCKS, (index + 1) * WINDOW_BLOCKS);
        const sectors = edit.finish();
        this.#end(tx, fid, sectors, { time, within: undefined, size });
      },
      { reserve: true },
    );
    await this.#host.breathe();
  }

  /** Indexes of the windows in [first, end) that are not empty. */
  async #windowIndexes(fid: Fid, first: number, end: number): Promise<number[]> {
    const indexes: number[] = [];
    for (let from = first; from < end; ) {
      const found = this.#overlay.windowsFrom(fid, from, WINDOWS_PER_STEP);
      for (const [index] of found) if (index < end) indexes.push(index);
      const last = found.at(-1);
      if (last === undefined || found.length < WINDOWS_PER_STEP) break;
      from = last[0] + 1;
      await this.#host.breathe();
    }
    return indexes;
  }

  /** Allocates the holes of blocks [first, end) as unwritten space. */
  async fill(fid: Fid, first: number, end: number, ending: Ending): Promise<Executed<Inode>> {
    const step = WINDOWS_PER_STEP * WINDOW_BLOCKS;
    // ENOSPC before anything is changed, though the range is filled in steps.
    let missing = 0;
    for (let from = first; from < end; from += step) {
      missing += holes(this.#blocks.segments(fid, from, Math.min(end, from + step)));
      if (missing > this.#blocks.availableBlocks)
        throw new FsError('ENOSPC', 'no space left on the data device');
      if (from + step < end) await this.#host.breathe();
    }
    for (let from = first; ; from += step) {
      const to = Math.min(end, from + step);
      const isLast = to === end;
      const now: Ending = isLast ? ending : { time: ending.time, within: undefined, size: (size) => size };
      const segments = this.#blocks.segments(fid, from, to).filter((segment) => segment.place === 0);
      const executed = await this.storeRuns(fid, [], {
        ending: now,
        fillBlocks: holes(segments),
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
   * Makes holes of the whole blocks in [offset, end) and zeros the edges; for 'zero' what is then a hole is allocated
   * again, unwritten. Short ranges are one transaction.
   */
  async clearBlocks(
    fid: Fid,
    offset: number,
    end: number,
    how: 'punch' | 'zero',
    ending: Ending,
  ): Promise<Executed<Inode>> {
    const first = Math.ceil(offset / BLOCK_BYTES);
    // Behind the end of the file there are zeros anyway, so its last block may go as a whole.
    const last =
      end >= this.inode(fid).sizeBytes ? Math.ceil(end / BLOCK_BYTES) : Math.floor(end / BLOCK_BYTES);
    const edges = await this.#zeroedEdges(fid, offset, Math.max(last * BLOCK_BYTES, end));
    const steps = await this.#clearSteps(
      fid,
      Math.floor(offset / BLOCK_BYTES),
      Math.ceil(end / BLOCK_BYTES),
      how,
    );
    const quiet: Ending = { time: ending.time, within: undefined, size: (now) => now };
    for (let index = 0; ; index++) {
      const step = steps[index];
      const isLast = index >= steps.length - 1;
      const runs = edges.filter(({ block }) => step !== undefined && block >= step.start && block < step.end);
      const fill = how === 'zero' && step !== undefined ? step.end - step.start : 0;
      const executed = await this.storeRuns(fid, runs, {
        ending: isLast ? ending : quiet,
        shrinking: how === 'punch',
        fillBlocks: fill,
        also: (edit, free) => {
          if (step === undefined) return;
          edit.clear(Math.max(first, step.start), Math.min(last, step.end));
          for (let block = step.start; fill > 0 && block < step.end; block++) {
            const isEdge = runs.some((run) => run.block === block);
            if (!isEdge && edit.place(block) === 0) edit.set(block, -free(), 0);
          }
        },
      });
      if (isLast) return executed;
      await this.#host.breathe();
    }
  }

  /** The ranges of blocks that one transaction each clears; for 'punch' only where there is something. */
  async #clearSteps(
    fid: Fid,
    start: number,
    end: number,
    how: 'punch' | 'zero',
  ): Promise<{ readonly start: number; readonly end: number }[]> {
    const windowStart = Math.floor(start / WINDOW_BLOCKS);
    const windowEnd = Math.ceil(end / WINDOW_BLOCKS);
    const clip = (first: number, last: number): { readonly start: number; readonly end: number } => ({
      start: Math.max(start, first * WINDOW_BLOCKS),
      end: Math.min(end, (last + 1) * WINDOW_BLOCKS),
    });
    const steps: { readonly start: number; readonly end: number }[] = [];
    if (how === 'zero') {
      for (let index = windowStart; index < windowEnd; index += WINDOWS_PER_STEP) {
        steps.push(clip(index, index + WINDOWS_PER_STEP - 1));
      }
      return steps;
    }
    const indexes = await this.#windowIndexes(fid, windowStart, windowEnd);
    while (indexes.length > 0) {
      const step = indexes.splice(0, WINDOWS_PER_STEP);
      steps.push(clip(step[0] ?? 0, step.at(-1) ?? 0));
    }
    return steps;
  }

  /** Removes a part of what is left of a destroyed file. @returns whether that was all. */
  destroyStep(fid: Fid): boolean {
    const windows = this.#overlay.windowsFrom(fid, 0, WINDOWS_PER_STEP);
    const last = windows.length < WINDOWS_PER_STEP;
    this.#host.execute(
      () => {
        for (const [index, window] of windows) this.#overlay.removeWindow(fid, index, window);
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

function holes(segments: readonly { readonly count: number; readonly place: number }[]): number {
  return segments.reduce((sum, { count, place }) => sum + (place === 0 ? count : 0), 0);
}
