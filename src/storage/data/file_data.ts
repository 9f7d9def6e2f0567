/**
 * File data: FileData of api.ts.
 *
 * A file's content lies in the database while it is at most INLINE_MAX bytes and never had blocks; else in blocks of
 * the data device, found by block maps. It moves to blocks when it outgrows the database, and never back, except that a
 * file truncated to zero starts again. The bytes of the last block behind the end of the file are always zeros, so
 * extending a file needs no look at the block.
 *
 * Changes of a file take effect in the order of RangeLocks (file_changes.ts has the steps of one change), but for
 * putWhole(): nobody knows the file yet. Reads take no
 * lock; they see the block maps of one moment.
 */

import { isRegular, type Timespec } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import { checkFileEnd, FILE_MAX_BYTES } from '../../base/limits.js';
import { andThen, isPromise, type MaybePromise } from '../../base/maybe_promise.js';
import type { ByteRange, Change, Executed, FileData, FilePlace, Inode, Tx, Within } from '../api.js';
import { BLOCK_BYTES, MAP_BLOCKS, MAP_BYTES } from '../format/block_map.js';
import type { Overlay } from '../meta/overlay.js';
import { BlockIo } from './block_io.js';
import {
  type Ending,
  FileChanges,
  type FileChangesHost,
  INLINE_MAX,
  MAPS_PER_STEP,
  spilled,
} from './file_changes.js';
import { RangeLocks } from './range_locks.js';

const COPY_STEP_BYTES = 4 << 20;

/** A source of zeros; no caller writes to the chunks that a read returns. */
const ZEROS = Buffer.alloc(MAP_BYTES);

export interface FileDataHost extends FileChangesHost {
  /** @throws FsError EIO if the target has failed or was closed. */
  check(): void;
}

export class StoredFileData implements FileData {
  readonly #host: FileDataHost;
  readonly #overlay: Overlay;
  readonly #blocks: BlockIo;
  readonly #changes: FileChanges;
  readonly #locks = new RangeLocks();
  /** Operations that wait for the device or for their turn. */
  readonly #underWay = new Set<Promise<unknown>>();

  constructor(host: FileDataHost) {
    this.#host = host;
    this.#overlay = host.overlay;
    this.#blocks = new BlockIo(host);
    this.#changes = new FileChanges(host, this.#blocks);
  }

  get availableBytes(): number {
    return this.#blocks.availableBlocks * BLOCK_BYTES;
  }
  /** Resolves when no operation is running: the device may be closed. */
  async idle(): Promise<void> {
    while (this.#underWay.size > 0) await Promise.allSettled(this.#underWay);
  }

  read(fid: Fid, offset: number, length: number, memory?: Buffer): MaybePromise<readonly Uint8Array[]> {
    this.#host.check();
    const { sizeBytes } = this.#changes.inode(fid);
    const end = Math.min(sizeBytes, offset + length);
    if (offset >= end) return [];
    this.#overlay.compareContent(fid);
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

  smallContent(fid: Fid): Uint8Array | undefined {
    this.#host.check();
    if (!this.#overlay.hasInlineData(fid)) return undefined;
    try {
      this.#overlay.compareContent(fid);
      return this.#overlay.inlineData(fid);
    } catch (error) {
      if (error instanceof FsError && error.code === 'EIO') return undefined;
      throw error;
    }
  }

  memory(lengthBytes: number): Buffer {
    return this.#host.device.memory(lengthBytes);
  }

  write(fid: Fid, offset: number, data: Uint8Array, change: Change): MaybePromise<Executed<Inode>> {
    const end = offset + data.length;
    const ending: Ending = { ...change, size: (now) => Math.max(now, end) };
    if (data.length === 0) return this.#changes.executeOnly(fid, { ...ending, size: (now) => now });
    return this.#locked(fid, offset, end, (inode) => {
      this.#overlay.compareContent(fid);
      const inline = this.#overlay.inlineData(fid);
      if (this.#changes.staysInline(inode, inline, end)) {
        return this.#changes.putInline(fid, inline, Math.max(inode.sizeBytes, end), ending, (content) => {
          content.set(data, offset);
        });
      }
      return this.#changes.writeBlocks(inode, inline, offset, data, ending);
    });
  }

  putWhole(tx: Tx, fid: Fid, content: Uint8Array, time: Timespec): Inode {
    const inode = tx.inode(fid);
    const isEmpty =
      inode !== undefined && isRegular(inode.mode) && inode.sizeBytes === 0 && inode.blocks === 0;
    if (!isEmpty || this.#overlay.hasInlineData(fid)) {
      throw new FsError('EINVAL', `inode ${fid} is no empty regular file`);
    }
    if (content.length > INLINE_MAX) {
      throw new FsError('EINVAL', `${content.length} bytes are too many for the database`);
    }
    return this.#changes.putWhole(tx, fid, Buffer.from(content), time);
  }

  truncate(fid: Fid, sizeBytes: number, change: Change): MaybePromise<Executed<Inode>> {
    const ending: Ending = { ...change, size: () => sizeBytes };
    return this.#locked(fid, 0, FILE_MAX_BYTES, (inode) => {
      checkFileEnd(sizeBytes);
      // Truncation to zero makes even a damaged file a file again.
      if (sizeBytes > 0) this.#overlay.compareContent(fid);
      const inline = this.#overlay.inlineData(fid);
      if (inline !== undefined && sizeBytes <= INLINE_MAX) {
        return this.#changes.putInline(fid, inline, sizeBytes, ending, () => undefined);
      }
      if (inline !== undefined)
        return this.#changes.storeRuns(fid, [spilled(inline)], { ending, clearInline: true });
      // Also if the size stays the same: this gives back the space reserved behind the end.
      if (sizeBytes > inode.sizeBytes || inode.blocks === 0) return this.#changes.executeOnly(fid, ending);
      return this.#changes.shrink(inode, sizeBytes, ending);
    });
  }

  allocate(
    fid: Fid,
    { offset, length }: ByteRange,
    keepSize: boolean,
    change: Change,
  ): MaybePromise<Executed<Inode>> {
    const end = offset + length;
    const ending: Ending = { ...change, size: (now) => (keepSize ? now : Math.max(now, end)) };
    return this.#locked(fid, 0, FILE_MAX_BYTES, async () => {
      checkFileEnd(end);
      this.#overlay.compareContent(fid);
      await this.#changes.spill(fid, change.takes);
      return await this.#changes.fill(
        fid,
        Math.floor(offset / BLOCK_BYTES),
        Math.ceil(end / BLOCK_BYTES),
        ending,
      );
    });
  }

  clear(
    fid: Fid,
    { offset, length }: ByteRange,
    how: 'punch' | 'zero',
    keepSize: boolean,
    change: Change,
  ): MaybePromise<Executed<Inode>> {
    const end = offset + length;
    const grows = how === 'zero' && !keepSize;
    const ending: Ending = { ...change, size: (now) => (grows ? Math.max(now, end) : now) };
    return this.#locked(fid, 0, FILE_MAX_BYTES, async (inode) => {
      checkFileEnd(end);
      this.#overlay.compareContent(fid);
      const inline = this.#overlay.inlineData(fid);
      if (inline !== undefined) {
        const size = ending.size(inode.sizeBytes);
        if (size <= INLINE_MAX) {
          return this.#changes.putInline(fid, inline, size, ending, (content) =>
            content.fill(0, Math.min(offset, size), Math.min(end, size)),
          );
        }
        await this.#changes.spill(fid, change.takes);
      }
      return await this.#changes.clearBlocks(fid, offset, end, how, ending);
    });
  }

  missingBytes(fid: Fid, offset: number, length: number): MaybePromise<number> {
    this.#host.check();
    const end = offset + length;
    const inode = this.#changes.inode(fid);
    const inline = this.#overlay.inlineData(fid);
    if (this.#changes.staysInline(inode, inline, end)) return 0;
    const first = Math.floor(offset / BLOCK_BYTES);
    const last = Math.ceil(end / BLOCK_BYTES);
    // The content in the database moves into a block.
    if (inline !== undefined) return (last - first + (first > 0 ? 1 : 0)) * BLOCK_BYTES;
    return andThen(this.#changes.missingBlocks(fid, first, last), (blocks) => blocks * BLOCK_BYTES);
  }

  seek(fid: Fid, offset: number, what: 'data' | 'hole'): number | undefined {
    this.#host.check();
    const { sizeBytes } = this.#changes.inode(fid);
    if (offset >= sizeBytes) return undefined;
    this.#overlay.compareContent(fid);
    if (this.#overlay.hasInlineData(fid)) return what === 'data' ? offset : sizeBytes;
    let expected = Math.floor(offset / MAP_BYTES);
    for (let from = expected; ; ) {
      const blockMaps = this.#overlay.blockMapsFrom(fid, from, MAPS_PER_STEP);
      for (const [index, blockMap] of blockMaps) {
        // Missing block maps are holes.
        if (what === 'hole' && index > expected) return clamp(expected * MAP_BYTES, offset, sizeBytes);
        expected = index + 1;
        for (let at = 0; at < MAP_BLOCKS; at++) {
          const start = index * MAP_BYTES + at * BLOCK_BYTES;
          if (start + BLOCK_BYTES <= offset) continue;
          const isData = (blockMap.place[at] ?? 0) > 0;
          if (start >= sizeBytes) return what === 'hole' ? sizeBytes : undefined;
          if (isData === (what === 'data')) return Math.max(start, offset);
        }
      }
      if (blockMaps.length < MAPS_PER_STEP) break;
      from = expected;
    }
    return what === 'hole' ? clamp(expected * MAP_BYTES, offset, sizeBytes) : undefined;
  }

  async copy(
    from: FilePlace,
    to: FilePlace,
    length: number,
    change: Change,
  ): Promise<Executed<Inode> & { readonly copied: number }> {
    const { fid: source, offset: fromOffset } = from;
    const { fid: destination, offset: toOffset } = to;
    const { time, within, transno, takes } = change;
    const total = Math.max(0, Math.min(length, this.#changes.inode(source).sizeBytes - fromOffset));
    checkFileEnd(toOffset + total);
    let done = 0;
    let executed: Executed<Inode> | undefined;
    const early: Within | undefined = within && ((tx, inode) => within(tx, inode, false));
    while (done < total) {
      const at = fromOffset + done;
      const data = this.seek(source, at, 'data') ?? fromOffset + total;
      const isHole = data > at;
      const edge = isHole ? data : (this.seek(source, at, 'hole') ?? fromOffset + total);
      const step = Math.min(total - done, edge - at, isHole ? Number.POSITIVE_INFINITY : COPY_STEP_BYTES);
      const isLast = done + step === total;
      const last = isLast ? within : early;
      const lastTransno = isLast ? transno : undefined;
      if (isHole) {
        executed = await this.clear(destination, { offset: toOffset + done, length: step }, 'punch', true, {
          time,
          within: early,
          takes,
        });
        if (this.#changes.inode(destination).sizeBytes < toOffset + done + step || isLast) {
          executed = await this.#grow(destination, toOffset + done + step, {
            time,
            within: last,
            transno: lastTransno,
            takes,
          });
        }
      } else {
        const chunks = await this.read(source, at, step);
        const content = chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks);
        // Somebody truncated the source meanwhile: the rest of it is copied.
        if (content.length === 0) break;
        executed = await this.write(destination, toOffset + done, content, {
          time,
          within: last,
          transno: lastTransno,
          takes,
        });
      }
      done += step;
    }
    executed ??= this.#changes.executeOnly(destination, { ...change, size: (now) => now });
    return { ...executed, copied: done };
  }

  /**
   * Extends the file to at least `end`, by a hole. If the content becomes too long for the database, it moves to
   * blocks.
   */
  #grow(fid: Fid, end: number, ending: Omit<Ending, 'size'>): MaybePromise<Executed<Inode>> {
    const whole: Ending = { ...ending, size: (now) => Math.max(now, end) };
    return this.#locked(fid, 0, FILE_MAX_BYTES, (inode) => {
      const inline = this.#overlay.inlineData(fid);
      const size = whole.size(inode.sizeBytes);
      if (inline === undefined) return this.#changes.executeOnly(fid, whole);
      if (size <= INLINE_MAX) return this.#changes.putInline(fid, inline, size, whole, () => undefined);
      return this.#changes.storeRuns(fid, [spilled(inline)], { ending: whole, clearInline: true });
    });
  }

  /** See FileChanges. */
  destroyStep(fid: Fid): boolean {
    return this.#changes.destroyStep(fid);
  }

  #tracked<R>(operation: Promise<R>): Promise<R> {
    this.#underWay.add(operation);
    const over = (): void => {
      this.#underWay.delete(operation);
    };
    operation.then(over, over);
    return operation;
  }

  /** Lock a small file as a whole: a change may move its content between the database and blocks. */
  #wantsWhole(fid: Fid, end: number): boolean {
    return this.#overlay.hasInlineData(fid) || (end <= INLINE_MAX && this.#changes.inode(fid).blocks === 0);
  }

  #locked<R>(fid: Fid, start: number, end: number, run: (inode: Inode) => MaybePromise<R>): MaybePromise<R> {
    this.#host.check();
    checkFileEnd(end);
    const whole = this.#wantsWhole(fid, end);
    const from = whole ? 0 : Math.floor(start / BLOCK_BYTES);
    const to = whole ? FILE_MAX_BYTES : Math.ceil(end / BLOCK_BYTES);
    return andThen(this.#locks.acquire(fid, from, to), (release) => {
      let result: MaybePromise<R>;
      try {
        this.#host.check();
        if (!whole && this.#wantsWhole(fid, end)) {
          // The file became small while this call waited for the lock.
          release();
          return this.#locked(fid, start, end, run);
        }
        result = run(this.#changes.inode(fid));
      } catch (thrown) {
        release();
        throw thrown;
      }
      if (isPromise(result)) return this.#tracked(result.finally(release));
      release();
      return result;
    });
  }

  checkInvariants(): void {
    this.#locks.checkInvariants();
  }
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
