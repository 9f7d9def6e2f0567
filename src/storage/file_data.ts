/**
 * File data: FileData of api.ts.
 *
 * A file's content lies in the database while it is at most INLINE_MAX bytes and never had blocks; else in blocks of the
 * data device, found by windows. It moves to blocks when it outgrows the database, and never back, except that a file
 * cut to nothing starts again. Bytes of the last block behind the end of the file are zeros, always: extending a file
 * needs no look at it.
 *
 * A change first writes its content to the device, then executes: the transaction names only what is there. Changes of
 * a file take effect in the order of RangeLocks; reads take no lock, they see one moment's mapping.
 */

import type { Timespec } from '../base/attr.js';
import { FsError } from '../base/errno.js';
import type { Fid } from '../base/ids.js';
import { andThen, isPromise, type MaybePromise } from '../base/maybe_promise.js';
import type { Executed, FileData, Inode, Tx, Within } from './api.js';
import { BlockIo, type BlockIoHost, type BlockRun, nameStored, type Stored } from './block_io.js';
import type { Overlay } from './overlay.js';
import { RangeLocks } from './range_locks.js';
import { BLOCK_BYTES, WINDOW_BLOCKS, WINDOW_BYTES } from './window.js';
import { WindowEdit } from './window_edit.js';

/** With its header and key this still fits one overflow page of lmdb. Below BLOCK_BYTES: block 0 can take it over. */
export const INLINE_MAX = 4032;
/** The largest file: keys and sizes stay safe integers with room to spare. */
export const FILE_MAX_BYTES = 2 ** 52;
/** Windows changed by one transaction of a long operation: a millisecond or so. */
const WINDOWS_PER_STEP = 64;
const COPY_STEP_BYTES = 4 << 20;

/** A source of zeros; nobody writes to what a read returns. */
const ZEROS = Buffer.alloc(WINDOW_BYTES);

export interface FileDataHost extends BlockIoHost {
  execute<R>(run: (tx: Tx) => R, options?: { readonly reserve?: boolean }): Executed<R>;
  /** Lets other events run between the steps of a long operation. */
  breathe(): Promise<void>;
  /** @throws FsError EIO when the target has failed or was closed. */
  check(): void;
}

/** How an operation ends: what becomes of the inode. */
interface Ending {
  readonly time: Timespec;
  readonly within: Within | undefined;
  /** @param size the file's size now, which may have grown meanwhile. */
  size(now: number): number;
}

export class StoredFileData implements FileData {
  readonly #host: FileDataHost;
  readonly #overlay: Overlay;
  readonly #blocks: BlockIo;
  readonly #locks = new RangeLocks();
  /** Operations that wait for the device or for their turn. */
  readonly #underWay = new Set<Promise<unknown>>();

  constructor(host: FileDataHost) {
    this.#host = host;
    this.#overlay = host.overlay;
    this.#blocks = new BlockIo(host);
  }

  get availableBytes(): number {
    return this.#blocks.availableBlocks * BLOCK_BYTES;
  }
  /** Resolves when no operation is under way: the device may be closed. */
  async idle(): Promise<void> {
    while (this.#underWay.size > 0) await Promise.allSettled(this.#underWay);
  }

  read(fid: Fid, offset: number, length: number, memory?: Buffer): MaybePromise<readonly Uint8Array[]> {
    this.#host.check();
    const { sizeBytes } = this.#inode(fid);
    const end = Math.min(sizeBytes, offset + length);
    if (offset >= end) return [];
    const inline = this.#overlay.inlineData(fid);
    if (inline !== undefined) return [inline.subarray(offset, end)];
    const first = Math.floor(offset / BLOCK_BYTES);
    return this.#tracked(
      this.#blocks.read(fid, first, Math.ceil(end / BLOCK_BYTES), memory).then((content) => {
        if (content === undefined) return zeros(end - offset);
        return [content.subarray(offset - first * BLOCK_BYTES, end - first * BLOCK_BYTES)];
      }),
    );
  }

  write(
    fid: Fid,
    offset: number,
    data: Uint8Array,
    mtime: Timespec,
    within?: Within,
  ): MaybePromise<Executed<Inode>> {
    const end = offset + data.length;
    const ending: Ending = { time: mtime, within, size: (now) => Math.max(now, end) };
    if (data.length === 0) return this.#executeOnly(fid, { ...ending, size: (now) => now });
    return this.#locked(fid, offset, end, (inode) => {
      const inline = this.#overlay.inlineData(fid);
      if (this.#staysInline(inode, inline, end)) {
        return this.#putInline(fid, inline, Math.max(inode.sizeBytes, end), ending, (content) => {
          content.set(data, offset);
        });
      }
      return this.#writeBlocks(inode, inline, offset, data, ending);
    });
  }

  truncate(fid: Fid, sizeBytes: number, time: Timespec, within?: Within): MaybePromise<Executed<Inode>> {
    const ending: Ending = { time, within, size: () => sizeBytes };
    return this.#locked(fid, 0, FILE_MAX_BYTES, (inode) => {
      if (sizeBytes > FILE_MAX_BYTES) throw new FsError('EFBIG');
      const inline = this.#overlay.inlineData(fid);
      if (inline !== undefined && sizeBytes <= INLINE_MAX) {
        return this.#putInline(fid, inline, sizeBytes, ending, () => undefined);
      }
      if (inline !== undefined) return this.#storeRuns(fid, [spilled(inline)], { ending, clearInline: true });
      if (sizeBytes >= inode.sizeBytes || inode.blocks === 0) return this.#executeOnly(fid, ending);
      return this.#shrink(inode, sizeBytes, ending);
    });
  }

  allocate(
    fid: Fid,
    offset: number,
    length: number,
    keepSize: boolean,
    time: Timespec,
    within?: Within,
  ): MaybePromise<Executed<Inode>> {
    const end = offset + length;
    const ending: Ending = { time, within, size: (now) => (keepSize ? now : Math.max(now, end)) };
    return this.#locked(fid, 0, FILE_MAX_BYTES, async () => {
      if (end > FILE_MAX_BYTES) throw new FsError('EFBIG');
      await this.#spill(fid);
      return await this.#fill(fid, Math.floor(offset / BLOCK_BYTES), Math.ceil(end / BLOCK_BYTES), ending);
    });
  }

  clear(
    fid: Fid,
    offset: number,
    length: number,
    how: 'punch' | 'zero',
    keepSize: boolean,
    time: Timespec,
    within?: Within,
  ): MaybePromise<Executed<Inode>> {
    const end = offset + length;
    const grows = how === 'zero' && !keepSize;
    const ending: Ending = { time, within, size: (now) => (grows ? Math.max(now, end) : now) };
    return this.#locked(fid, 0, FILE_MAX_BYTES, async (inode) => {
      if (end > FILE_MAX_BYTES) throw new FsError('EFBIG');
      const inline = this.#overlay.inlineData(fid);
      if (inline !== undefined) {
        const size = ending.size(inode.sizeBytes);
        if (size <= INLINE_MAX) {
          return this.#putInline(fid, inline, size, ending, (content) =>
            content.fill(0, Math.min(offset, size), Math.min(end, size)),
          );
        }
        await this.#spill(fid);
      }
      return await this.#clearBlocks(fid, offset, end, how, ending);
    });
  }

  seek(fid: Fid, offset: number, what: 'data' | 'hole'): number | undefined {
    this.#host.check();
    const { sizeBytes } = this.#inode(fid);
    if (offset >= sizeBytes) return undefined;
    if (this.#overlay.hasInlineData(fid)) return what === 'data' ? offset : sizeBytes;
    let expected = Math.floor(offset / WINDOW_BYTES);
    for (let from = expected; ; ) {
      const windows = this.#overlay.windowsFrom(fid, from, WINDOWS_PER_STEP);
      for (const [index, window] of windows) {
        // Windows that are not there are holes.
        if (what === 'hole' && index > expected) return clamp(expected * WINDOW_BYTES, offset, sizeBytes);
        expected = index + 1;
        for (let at = 0; at < WINDOW_BLOCKS; at++) {
          const start = index * WINDOW_BYTES + at * BLOCK_BYTES;
          if (start + BLOCK_BYTES <= offset) continue;
          const isData = (window.place[at] ?? 0) > 0;
          if (start >= sizeBytes) return what === 'hole' ? sizeBytes : undefined;
          if (isData === (what === 'data')) return Math.max(start, offset);
        }
      }
      if (windows.length < WINDOWS_PER_STEP) break;
      from = expected;
    }
    return what === 'hole' ? clamp(expected * WINDOW_BYTES, offset, sizeBytes) : undefined;
  }

  async copy(
    from: Fid,
    fromOffset: number,
    to: Fid,
    toOffset: number,
    length: number,
    time: Timespec,
    within?: Within,
  ): Promise<Executed<Inode> & { readonly copied: number }> {
    const total = Math.max(0, Math.min(length, this.#inode(from).sizeBytes - fromOffset));
    if (toOffset + total > FILE_MAX_BYTES) throw new FsError('EFBIG');
    let done = 0;
    let executed: Executed<Inode> | undefined;
    while (done < total) {
      const at = fromOffset + done;
      const data = this.seek(from, at, 'data') ?? fromOffset + total;
      const isHole = data > at;
      const edge = isHole ? data : (this.seek(from, at, 'hole') ?? fromOffset + total);
      const step = Math.min(total - done, edge - at, isHole ? Number.POSITIVE_INFINITY : COPY_STEP_BYTES);
      const last = done + step === total ? within : undefined;
      if (isHole) {
        executed = await this.clear(to, toOffset + done, step, 'punch', true, time);
        if (this.#inode(to).sizeBytes < toOffset + done + step || last !== undefined) {
          const end = toOffset + done + step;
          executed = this.#executeOnly(to, { time, within: last, size: (now) => Math.max(now, end) });
        }
      } else {
        const chunks = await this.read(from, at, step);
        const content = chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks);
        // The source was cut meanwhile: what is left of it was copied.
        if (content.length === 0) break;
        executed = await this.write(to, toOffset + done, content, time, last);
      }
      done += step;
    }
    executed ??= this.#executeOnly(to, { time, within, size: (now) => now });
    return { ...executed, copied: done };
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
      { reserve: true },
    );
    return last;
  }

  // ---- Shared steps.

  #inode(fid: Fid): Inode {
    const inode = this.#overlay.inode(fid);
    if (inode === undefined) throw new FsError('ESTALE', `fid ${fid} is gone`);
    return inode;
  }

  #tracked<R>(operation: Promise<R>): Promise<R> {
    this.#underWay.add(operation);
    const over = (): void => {
      this.#underWay.delete(operation);
    };
    operation.then(over, over);
    return operation;
  }

  /** Small files are locked as a whole: a change may move them between the database and blocks. */
  #wantsWhole(fid: Fid, end: number): boolean {
    return this.#overlay.hasInlineData(fid) || (end <= INLINE_MAX && this.#inode(fid).blocks === 0);
  }

  #locked<R>(fid: Fid, start: number, end: number, run: (inode: Inode) => MaybePromise<R>): MaybePromise<R> {
    this.#host.check();
    if (end > FILE_MAX_BYTES) throw new FsError('EFBIG');
    const whole = this.#wantsWhole(fid, end);
    const from = whole ? 0 : Math.floor(start / BLOCK_BYTES);
    const to = whole ? FILE_MAX_BYTES : Math.ceil(end / BLOCK_BYTES);
    return andThen(this.#locks.acquire(fid, from, to), (release) => {
      let result: MaybePromise<R>;
      try {
        this.#host.check();
        if (!whole && this.#wantsWhole(fid, end)) {
          // It became a small file while this waited.
          release();
          return this.#locked(fid, start, end, run);
        }
        result = run(this.#inode(fid));
      } catch (thrown) {
        release();
        throw thrown;
      }
      if (isPromise(result)) return this.#tracked(result.finally(release));
      release();
      return result;
    });
  }

  #staysInline(inode: Inode, inline: Buffer | undefined, end: number): boolean {
    return end <= INLINE_MAX && inode.sizeBytes <= INLINE_MAX && (inline !== undefined || inode.blocks === 0);
  }

  /** Inside an operation: the inode as it becomes, and what the caller does with it. */
  #end(tx: Tx, fid: Fid, sectors: number, ending: Ending, exactSectors?: number): Inode {
    const before = this.#inode(fid);
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

  #executeOnly(fid: Fid, ending: Ending): Executed<Inode> {
    return this.#host.execute((tx) => this.#end(tx, fid, 0, ending), { reserve: true });
  }

  #putInline(
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
      { reserve: before !== undefined && sizeBytes <= before.length },
    );
  }

  async #writeBlocks(
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
    return await this.#storeRuns(fid, runs, { ending, clearInline: inline !== undefined });
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

  async #storeRuns(
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
            this.#inode(fid);
            const edit = new WindowEdit(this.#overlay, fid);
            also?.(edit, () => space.next());
            nameStored(edit, stored);
            const sectors = edit.finish();
            space.use();
            if (clearInline) this.#overlay.setInlineData(fid, null);
            // What lay in the database was counted too; from now on blocks are.
            return this.#end(tx, fid, sectors, ending, clearInline ? sectors : undefined);
          },
          { reserve: shrinking },
        ),
    );
  }

  /** Moves a file out of the database. */
  async #spill(fid: Fid): Promise<void> {
    const inline = this.#overlay.inlineData(fid);
    if (inline === undefined) return;
    const { mtime } = this.#inode(fid);
    const ending: Ending = { time: mtime, within: undefined, size: (now) => now };
    await this.#storeRuns(fid, [spilled(inline)], { ending, clearInline: true });
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
  async #shrink(inode: Inode, sizeBytes: number, ending: Ending): Promise<Executed<Inode>> {
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
    return await this.#storeRuns(fid, edges, {
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
  async #fill(fid: Fid, first: number, end: number, ending: Ending): Promise<Executed<Inode>> {
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
      const executed = await this.#storeRuns(fid, [], {
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
  async #clearBlocks(
    fid: Fid,
    offset: number,
    end: number,
    how: 'punch' | 'zero',
    ending: Ending,
  ): Promise<Executed<Inode>> {
    const first = Math.ceil(offset / BLOCK_BYTES);
    // Behind the end of the file there are zeros anyway, so its last block may go as a whole.
    const last =
      end >= this.#inode(fid).sizeBytes ? Math.ceil(end / BLOCK_BYTES) : Math.floor(end / BLOCK_BYTES);
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
      const executed = await this.#storeRuns(fid, runs, {
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
}

/** Inline content as block 0. */
function spilled(inline: Buffer): BlockRun {
  const block = Buffer.alloc(BLOCK_BYTES);
  block.set(inline);
  return { block: 0, chunks: [block] };
}

function zeros(length: number): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  for (let left = length; left > 0; left -= ZEROS.length)
    chunks.push(ZEROS.subarray(0, Math.min(left, ZEROS.length)));
  return chunks;
}

function clamp(value: number, min: number, max: number): number {
  return Math.min(Math.max(value, min), max);
}

function holes(segments: readonly { readonly count: number; readonly place: number }[]): number {
  return segments.reduce((sum, { count, place }) => sum + (place === 0 ? count : 0), 0);
}
