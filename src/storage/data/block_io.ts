/**
 * Blocks of files on the data device: reads them and verifies their checksums, and stores new content.
 *
 * Copy on write. New content never goes to a place where the last committed transaction has content. An overwritten
 * block gets a new place; the old one becomes free when the transaction that replaced it is durable. So after a crash
 * every block matches its checksum. Allocated, unwritten blocks are the exception: nobody reads them before the
 * transaction that makes them written. So content goes to their own place (and fallocate() keeps its promise of space).
 */

import { LRUCache } from 'lru-cache';
import { assert } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import { notice } from '../../base/notices.js';
import { allEnded, WaitList } from '../../base/wait.js';
import type { BlockDevice, Checksum } from '../../runtime/ports.js';
import { BLOCK_BYTES, type BlockMap, MAP_BLOCKS, MAP_BYTES, runLength } from '../format/block_map.js';
import type { Extent, ExtentAllocator } from '../meta/extent_allocator.js';
import type { Overlay } from '../meta/overlay.js';
import type { BlockMapEdit } from './block_map_edit.js';

const log = logger('storage');

/** If the blocks of one read move this often, there is a bug. */
const READ_ATTEMPTS = 1000;

/**
 * Reads of at least this length bypass the device's cache the first time: a stream that is read once costs one copy
 * less, and does not push often-read blocks out of the cache. If a client reads a range again while the server
 * remembers it, the read goes through the cache and the blocks stay there.
 */
const ONCE_BYTES = 128 << 10;
const REMEMBERED_MAX = 65_536;

/** Block maps of a file that a sequential reader brings into memory together, ahead of its reads. */
const PREFETCH_MAPS = 32;

/** Content for consecutive blocks of a file. Each chunk is whole blocks. */
export interface BlockRun {
  readonly block: number;
  readonly chunks: readonly Uint8Array[];
}

/** Content on the device that no executed operation names yet. */
export interface Stored {
  readonly block: number;
  readonly places: Float64Array;
  readonly crcs: Uint32Array;
}

interface Segment {
  readonly block: number;
  readonly count: number;
  /** As in BlockMap. */
  readonly place: number;
  readonly crcs: Uint32Array;
}

export interface BlockIoHost {
  readonly overlay: Overlay;
  readonly device: BlockDevice;
  readonly checksum: Checksum;
  /** Resolves when every executed operation is durable: the blocks they freed can be handed out. */
  sync(): Promise<void>;
  /** Content was written to the data device that the next commit must make durable. */
  contentWritten(offset: number, chunks: readonly Uint8Array[]): void;
}

/** Blocks [start, end) of a file. */
export interface Blocks {
  readonly start: number;
  readonly end: number;
}

/** The number of blocks that a change takes. */
export interface Needed {
  /** Blocks where the file had none. */
  readonly added: number;
  /** Blocks for content that gets a new place: the old ones, as many, become free when the change is durable. */
  readonly moved: number;
}

export const NO_BLOCKS: Needed = { added: 0, moved: 0 };

export class BlockIo {
  readonly #host: BlockIoHost;
  readonly #space: ExtentAllocator;
  /**
   * Blocks that no change may use to make a file larger: with them content can move, however full the device is. One
   * half is for overwrites, the other for operations that make room: the edge blocks of truncate and punch.
   */
  readonly #reserveBlocks: number;
  readonly #shrinkBlocks: number;
  /** Blocks handed out for content that moves: as many become free when its change is durable. */
  #moving = 0;
  /** Operations that wait until fewer blocks are being moved. */
  readonly #untilMoved = new WaitList();
  /**
   * Operations that wait for blocks take turns: otherwise small changes would take the freed blocks, and a large change
   * would wait for ever.
   */
  #waiting = 0;
  #turn: Promise<unknown> = Promise.resolve();
  /**
   * Device blocks where recent large reads began. Created at the first large read: that takes longer than the rest of
   * an opening.
   */
  #readLately: LRUCache<number, true> | undefined;

  constructor(host: BlockIoHost) {
    this.#host = host;
    this.#space = host.overlay.space;
    this.#reserveBlocks = Math.max(2, Math.min(256, Math.floor(this.#space.totalBlocks / 64)));
    this.#shrinkBlocks = Math.floor(this.#reserveBlocks / 2);
  }

  /** Blocks that writes may still add to files. It includes blocks about to be free: a write waits for them. */
  get availableBlocks(): number {
    return Math.max(0, this.#settledBlocks - this.#reserveBlocks);
  }

  /** Blocks that will be free when all running changes are durable. */
  get #settledBlocks(): number {
    return this.#space.freeBlocks + this.#space.freedNotDurable + this.#moving;
  }

  /** Where the blocks [start, end) of a file lie now. */
  segments(fid: Fid, start: number, end: number): Segment[] {
    const segments: Segment[] = [];
    for (let block = start; block < end; ) {
      const index = Math.floor(block / MAP_BLOCKS);
      const blockMapEnd = Math.min(end, (index + 1) * MAP_BLOCKS);
      const blockMap: BlockMap | undefined = this.#host.overlay.blockMap(fid, index);
      if (blockMap === undefined) {
        segments.push({ block, count: blockMapEnd - block, place: 0, crcs: new Uint32Array() });
        block = blockMapEnd;
        continue;
      }
      while (block < blockMapEnd) {
        const at = block - index * MAP_BLOCKS;
        const count = runLength(blockMap, at, blockMapEnd - index * MAP_BLOCKS);
        const crcs = blockMap.crc.subarray(at, at + count);
        segments.push({ block, count, place: blockMap.place[at] ?? 0, crcs });
        block += count;
      }
    }
    return segments;
  }

  /**
   * Reads blocks [start, end) of a file; undefined if all of them are zeros.
   * @param memory to read into, if it is large enough.
   * @throws FsError EIO if a checksum is wrong, or the device fails.
   */
  async read(fid: Fid, start: number, end: number, memory?: Buffer): Promise<Buffer | undefined> {
    const lengthBytes = (end - start) * BLOCK_BYTES;
    this.#prefetch(fid, start);
    for (let attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
      const segments = this.segments(fid, start, end);
      if (segments.every((segment) => segment.place <= 0)) return undefined;
      const target =
        memory !== undefined && memory.length >= lengthBytes
          ? memory.subarray(0, lengthBytes)
          : Buffer.allocUnsafeSlow(lengthBytes);
      const reads = segments.map((segment) => {
        const from = (segment.block - start) * BLOCK_BYTES;
        const part = target.subarray(from, from + segment.count * BLOCK_BYTES);
        if (segment.place <= 0) {
          part.fill(0);
          return undefined;
        }
        return this.#readBlocks(segment.place, part);
      });
      await Promise.all(reads);
      const bad = this.#mismatch(segments, start, target);
      if (bad === undefined) return target;
      // If the file changed during the read, the device block holds other content by now: read again.
      const [now] = this.segments(fid, bad.block, bad.block + 1);
      if (now?.place !== bad.place || now.crcs[0] !== bad.crc) continue;
      const text = `checksum wrong: fid ${fid}, block ${bad.block}, device offset ${bad.place * BLOCK_BYTES}`;
      log('%s (%s)', text, this.#host.device.path);
      notice('checksum-wrong', `${text} of ${this.#host.device.path}`);
      throw new FsError('EIO', text);
    }
    throw new FsError('EIO', `fid ${fid} changes faster than it can be read`);
  }

  /**
   * Prefetches the block maps half by half: a read at the start of one half prefetches the next half. The first read of
   * a file prefetches both.
   */
  #prefetch(fid: Fid, block: number): void {
    const half = (PREFETCH_MAPS / 2) * MAP_BLOCKS;
    if (block % half !== 0) return;
    const blockMap = block / MAP_BLOCKS;
    const end = Math.ceil(this.#host.overlay.inode(fid)?.sizeBytes ?? 0) / MAP_BYTES;
    const first = block === 0 ? 1 : blockMap + PREFETCH_MAPS / 2;
    const stop = Math.min(end, blockMap + PREFETCH_MAPS);
    if (first < stop) this.#host.overlay.prefetchBlockMaps(fid, first, stop);
  }

  #readBlocks(place: number, part: Uint8Array): Promise<void> {
    const { device } = this.#host;
    if (part.length < ONCE_BYTES) return device.read(place * BLOCK_BYTES, part);
    this.#readLately ??= new LRUCache({ max: REMEMBERED_MAX });
    if (this.#readLately.get(place) === true) return device.read(place * BLOCK_BYTES, part);
    this.#readLately.set(place, true);
    return device.readOnce(place * BLOCK_BYTES, part);
  }

  #mismatch(
    segments: readonly Segment[],
    start: number,
    target: Buffer,
  ): { readonly block: number; readonly place: number; readonly crc: number } | undefined {
    for (const { block, count, place, crcs } of segments) {
      if (place <= 0) continue;
      const from = (block - start) * BLOCK_BYTES;
      const found = this.#host.checksum.crc32cBlocks(
        target.subarray(from, from + count * BLOCK_BYTES),
        BLOCK_BYTES,
      );
      for (let index = 0; index < count; index++) {
        const crc = crcs[index] ?? 0;
        if (found[index] !== crc) return { block: block + index, place: place + index, crc };
      }
    }
    return undefined;
  }

  /**
   * The blocks that content for [start, end) of a file needs. Unwritten blocks need none: content goes to their own
   * place.
   */
  needed(fid: Fid, start: number, end: number): Needed {
    return neededOf(this.segments(fid, start, end));
  }

  /**
   * Cuts the change of [start, end) into parts whose blocks can be had: on a full device there are few blocks to move
   * content to. @throws FsError ENOSPC if there are not enough blocks to add.
   */
  parts(fid: Fid, start: number, end: number): Blocks[] {
    // The usual case: there is room for all blocks, whatever the file has.
    const isPlenty = this.#space.freeBlocks - this.#reserveBlocks >= end - start;
    if (isPlenty && this.#waiting === 0) return [{ start, end }];
    const { added, moved } = this.needed(fid, start, end);
    if (added > this.availableBlocks) throw noSpace();
    const most = this.#reserveBlocks - this.#shrinkBlocks;
    const isAtOnce = this.#waiting === 0 && this.#space.freeBlocks - this.#shrinkBlocks >= added + moved;
    if (moved <= most || isAtOnce) return [{ start, end }];
    const parts: Blocks[] = [];
    for (let from = start; from < end; from += most)
      parts.push({ start: from, end: Math.min(end, from + most) });
    return parts;
  }

  /**
   * Hands out blocks; waits if some are about to be free. Blocks for content that moves count as about to be free until
   * #moved() takes them back.
   * @param shrinking the operation makes room: it may use the blocks kept back for that.
   * @throws FsError ENOSPC
   */
  async #reserve(needed: Needed, hint: number, shrinking: boolean): Promise<Extent[]> {
    const extents = this.#waiting === 0 ? this.#take(needed, hint, shrinking) : undefined;
    if (extents !== undefined) return extents;
    this.#waiting += 1;
    const turn = this.#turn.then(() => this.#wait(needed, hint, shrinking));
    this.#turn = turn.then(
      () => undefined,
      () => undefined,
    );
    try {
      return await turn;
    } finally {
      this.#waiting -= 1;
    }
  }

  async #wait(needed: Needed, hint: number, shrinking: boolean): Promise<Extent[]> {
    for (;;) {
      const extents = this.#take(needed, hint, shrinking);
      if (extents !== undefined) return extents;
      if (this.#space.freedNotDurable > 0) {
        await this.#host.sync();
        continue;
      }
      assert(this.#moving > 0, 'blocks are counted wrong');
      await this.#untilMoved.wait();
    }
  }

  /**
   * @returns undefined: there are too few free blocks now. @throws FsError ENOSPC: there will be too few even when all
   *   running changes are durable.
   */
  #take({ added, moved }: Needed, hint: number, shrinking: boolean): Extent[] | undefined {
    const count = added + moved;
    const kept = shrinking ? 0 : this.#shrinkBlocks;
    if (this.#settledBlocks - kept < count) throw noSpace();
    if (!shrinking && added > 0 && this.#settledBlocks - this.#reserveBlocks < added) throw noSpace();
    if (this.#space.freeBlocks - kept < count) return undefined;
    const extents = this.#space.reserve(count, hint);
    if (extents !== undefined) this.#moving += moved;
    return extents;
  }

  /** Call it when the change is executed, or has failed. */
  #moved(blocks: number): void {
    if (blocks === 0) return;
    this.#moving -= blocks;
    this.#untilMoved.wake();
  }

  #unreserve(extents: readonly Extent[]): void {
    for (const extent of extents) this.#space.release(extent, 'unused');
  }

  /**
   * Writes runs to new places (unwritten blocks: to their own place) and calls `execute` with the places and checksums
   * to name. If `execute` or a step before it fails, the new places are free again.
   * @param execute takes the blocks of `options.extra` from `space`; the blocks that it used are in use when it
   *   returns.
   */
  async store<R>(
    fid: Fid,
    runs: readonly BlockRun[],
    options: {
      readonly shrinking: boolean;
      readonly extra: Needed;
      readonly takes: ((bytes: number) => void) | undefined;
    },
    execute: (stored: readonly Stored[], space: ReservedSpace) => R,
  ): Promise<R> {
    const plans = runs.map((run) => this.#plan(fid, run));
    const needed = plans.reduce(
      (sum, plan) => ({ added: sum.added + plan.needed.added, moved: sum.moved + plan.needed.moved }),
      options.extra,
    );
    const first = runs[0];
    const hint = first === undefined ? 0 : this.#hint(fid, first.block);
    const isNone = needed.added + needed.moved === 0;
    const extents = isNone ? [] : await this.#reserve(needed, hint, options.shrinking);
    options.takes?.(needed.added * BLOCK_BYTES);
    const space = new ReservedSpace(this.#host.overlay, extents);
    try {
      for (const { places } of plans) {
        for (let index = 0; index < places.length; index++) {
          places[index] = places[index] === 0 ? space.next() : Math.abs(places[index] ?? 0);
        }
      }
      // If one write fails, the others still write into the blocks that are given back then.
      const stored = await allEnded(plans.map((plan) => this.#write(plan.run, plan.places)));
      const result = execute(stored, space);
      this.#unreserve(space.rest());
      return result;
    } catch (thrown) {
      this.#unreserve(extents);
      throw thrown;
    } finally {
      this.#moved(needed.moved);
    }
  }

  /** The device block behind the file's previous block. */
  #hint(fid: Fid, block: number): number {
    if (block === 0) return 0;
    const place = this.segments(fid, block - 1, block)[0]?.place ?? 0;
    return place === 0 ? 0 : Math.abs(place) + 1;
  }

  #plan(
    fid: Fid,
    run: BlockRun,
  ): { readonly run: BlockRun; readonly places: Float64Array; readonly needed: Needed } {
    const count = run.chunks.reduce((sum, chunk) => sum + chunk.length, 0) / BLOCK_BYTES;
    const places = new Float64Array(count);
    const segments = this.segments(fid, run.block, run.block + count);
    for (const segment of segments) {
      if (segment.place >= 0) continue;
      for (let index = 0; index < segment.count; index++) {
        places[segment.block - run.block + index] = segment.place - index;
      }
    }
    return { run, places, needed: neededOf(segments) };
  }

  async #write(run: BlockRun, places: Float64Array): Promise<Stored> {
    const crcs = new Uint32Array(places.length);
    let at = 0;
    for (const chunk of run.chunks) {
      crcs.set(this.#host.checksum.crc32cBlocks(chunk, BLOCK_BYTES), at);
      at += chunk.length / BLOCK_BYTES;
    }
    const parts: { readonly offset: number; readonly chunks: readonly Uint8Array[] }[] = [];
    for (let start = 0; start < places.length; ) {
      const place = places[start] ?? 0;
      let count = 1;
      while (start + count < places.length && places[start + count] === place + count) count++;
      const chunks = slice(run.chunks, start * BLOCK_BYTES, (start + count) * BLOCK_BYTES);
      parts.push({ offset: place * BLOCK_BYTES, chunks });
      start += count;
    }
    await allEnded(parts.map(({ offset, chunks }) => this.#host.device.write(offset, chunks)));
    for (const { offset, chunks } of parts) this.#host.contentWritten(offset, chunks);
    return { block: run.block, places, crcs };
  }
}

/** Names stored content in a file's block maps. */
export function nameStored(edit: BlockMapEdit, stored: readonly Stored[]): void {
  for (const { block, places, crcs } of stored) {
    for (let index = 0; index < places.length; index++) {
      edit.set(block + index, places[index] ?? 0, crcs[index] ?? 0);
    }
  }
}

/** Blocks handed out for one operation, which takes them one by one. */
export class ReservedSpace {
  readonly #overlay: Overlay;
  readonly #extents: readonly Extent[];
  #index = 0;
  #at = 0;

  constructor(overlay: Overlay, extents: readonly Extent[]) {
    this.#overlay = overlay;
    this.#extents = extents;
  }
  next(): number {
    const extent = this.#extents[this.#index];
    assert(extent !== undefined, 'more blocks are used than were reserved');
    const block = extent.start + this.#at;
    this.#at++;
    if (this.#at === extent.count) {
      this.#index++;
      this.#at = 0;
    }
    return block;
  }
  /** Call it inside the operation: the operation now uses the blocks that were taken. */
  use(): void {
    this.#extents.slice(0, this.#index).forEach((extent) => {
      this.#overlay.useExtent(extent);
    });
    const partly = this.#extents[this.#index];
    if (partly !== undefined && this.#at > 0)
      this.#overlay.useExtent({ start: partly.start, count: this.#at });
  }
  rest(): Extent[] {
    const [partly, ...others] = this.#extents.slice(this.#index);
    if (partly === undefined) return [];
    return [{ start: partly.start + this.#at, count: partly.count - this.#at }, ...others];
  }
}

function neededOf(segments: readonly Segment[]): Needed {
  let added = 0;
  let moved = 0;
  for (const { place, count } of segments) {
    if (place === 0) added += count;
    else if (place > 0) moved += count;
  }
  return { added, moved };
}

/** @returns ENOSPC of the data device. */
export function noSpace(): FsError {
  return new FsError('ENOSPC', 'no space left on the data device');
}

/** Bytes [start, end) of the concatenated chunks. */
export function slice(chunks: readonly Uint8Array[], start: number, end: number): Uint8Array[] {
  const parts: Uint8Array[] = [];
  let at = 0;
  for (const chunk of chunks) {
    const from = Math.max(start - at, 0);
    const to = Math.min(end - at, chunk.length);
    if (from < to) parts.push(chunk.subarray(from, to));
    at += chunk.length;
  }
  return parts;
}
