/**
 * Space on the data device: which blocks are in use, and runs of free ones.
 *
 * Two bitmaps. `used`: the blocks in use by the executed operations; this bitmap goes to the meta device, one record
 * for each group of 8192 blocks (32 MiB). `busy`: the blocks that may not be handed out. These are used blocks, blocks
 * handed out whose operation has not executed yet, and blocks freed by an operation that is not durable yet (after a
 * crash they are in use again, so their content must stay). Invariant: used implies busy.
 *
 *   free --reserve--> handed out --markUsed--> used --markFreed--> freed, not durable --release--> free
 *                     handed out --release--> free
 *
 * Bitmaps rather than a tree of extents: a group is 1 KiB, loads in a microsecond, costs the same fragmented or not,
 * and a run is found at 32 blocks a step.
 */

import { assert } from '../../base/assert.js';
import { damaged } from '../format/records.js';

export const GROUP_BLOCKS = 8192;
const GROUP_WORDS = GROUP_BLOCKS / 32;
const ALL = 0xffff_ffff;

/** Blocks [start, start + count) of the data device. */
export interface Extent {
  readonly start: number;
  readonly count: number;
}

const VERSION = 1;
const KIND_BITMAP = 0;
const KIND_FULL = 1;

export class ExtentAllocator {
  readonly totalBlocks: number;
  readonly #used: Uint32Array;
  readonly #busy: Uint32Array;
  /** Blocks not busy, by group. */
  readonly #groupFree: Uint16Array;
  readonly #dirtyGroups = new Set<number>();
  #freeBlocks = 0;
  #freedNotDurable = 0;
  /** Where the search for a run without a hint goes on. */
  #rotor: number;

  /** @param firstBlock blocks below it belong to the header and are never handed out. */
  constructor(totalBlocks: number, firstBlock: number) {
    this.totalBlocks = totalBlocks;
    const groups = Math.ceil(totalBlocks / GROUP_BLOCKS);
    this.#used = new Uint32Array(groups * GROUP_WORDS);
    this.#busy = new Uint32Array(groups * GROUP_WORDS);
    this.#groupFree = new Uint16Array(groups).fill(GROUP_BLOCKS);
    this.#freeBlocks = groups * GROUP_BLOCKS;
    this.#rotor = firstBlock;
    for (const [start, end] of [
      [0, firstBlock],
      [totalBlocks, groups * GROUP_BLOCKS],
    ] as const) {
      this.#setBits(this.#used, start, end);
      this.#setBusy(start, end);
    }
  }

  get freeBlocks(): number {
    return this.#freeBlocks;
  }
  /** Freed blocks that are still busy, until the operation that freed them is durable. */
  get freedNotDurable(): number {
    return this.#freedNotDurable;
  }
  isUsed(block: number): boolean {
    return ((this.#used[block >>> 5] ?? 0) & (1 << (block & 31))) !== 0;
  }

  /**
   * Hands out `count` blocks, in one run if there is one, beginning at `hint` if that block is free.
   * @param hint the block after the file's previous one; 0: anywhere.
   * @returns undefined, with nothing handed out, if there are fewer free blocks.
   */
  reserve(count: number, hint: number): Extent[] | undefined {
    if (count > this.#freeBlocks) return undefined;
    const extents: Extent[] = [];
    let left = count;
    const take = (start: number, length: number): void => {
      this.#setBusy(start, start + length);
      extents.push({ start, count: length });
      left -= length;
      if (hint === 0 || start !== hint) this.#rotor = start + length;
    };
    if (hint > 0 && hint < this.totalBlocks) {
      const length = this.#freeRun(hint, left);
      if (length > 0) take(hint, length);
    }
    if (left > 0) {
      const start = this.#findRun(left);
      if (start !== undefined) take(start, left);
    }
    // No run is long enough: take free blocks in order, from the place where the search stands.
    let at = this.#rotor;
    while (left > 0) {
      const start = this.#nextFree(at, this.totalBlocks) ?? this.#nextFree(0, this.totalBlocks);
      assert(start !== undefined, 'free blocks are counted wrong');
      const length = this.#freeRun(start, left);
      take(start, length);
      at = start + length;
    }
    return extents;
  }

  /** Gives back blocks that were handed out and never used, or that an operation freed which is durable now. */
  release(extent: Extent, why: 'unused' | 'freed'): void {
    const end = extent.start + extent.count;
    for (let block = extent.start; block < end; block++) {
      const bit = 1 << (block & 31);
      const word = block >>> 5;
      assert(((this.#busy[word] ?? 0) & bit) !== 0, `block ${block} is given back twice`);
      assert(((this.#used[word] ?? 0) & bit) === 0, `block ${block} is given back in use`);
      this.#busy[word] = (this.#busy[word] ?? 0) & ~bit;
      const group = Math.floor(block / GROUP_BLOCKS);
      this.#groupFree[group] = (this.#groupFree[group] ?? 0) + 1;
    }
    this.#freeBlocks += extent.count;
    if (why === 'freed') this.#freedNotDurable -= extent.count;
  }

  /** The operation that names these blocks has executed. */
  markUsed(extent: Extent): void {
    const end = extent.start + extent.count;
    for (let block = extent.start; block < end; block++) {
      assert(!this.isUsed(block), `block ${block} is used twice`);
    }
    this.#setBits(this.#used, extent.start, end);
    this.#touch(extent);
  }

  /** The operation that no longer names these blocks has executed; release() them when it is durable. */
  markFreed(extent: Extent): void {
    const end = extent.start + extent.count;
    for (let block = extent.start; block < end; block++) {
      assert(this.isUsed(block), `block ${block} is freed twice`);
      const word = block >>> 5;
      this.#used[word] = (this.#used[word] ?? 0) & ~(1 << (block & 31));
    }
    this.#freedNotDurable += extent.count;
    this.#touch(extent);
  }

  /**
   * Records of the groups changed since the last call, as they are now; undefined: remove the record (the whole group
   * is free).
   */
  takeDirtyGroups(): { readonly group: number; readonly record: Buffer | undefined }[] {
    const groups = [...this.#dirtyGroups].map((group) => ({ group, record: this.#encodeGroup(group) }));
    this.#dirtyGroups.clear();
    return groups;
  }

  get dirtyGroups(): number {
    return this.#dirtyGroups.size;
  }

  /** Loads a group's record; call it before the first reserve(). @throws FsError EIO if the record is damaged. */
  load(group: number, record: Buffer): void {
    const what = `space group ${group}`;
    if (record.length < 2 || record[0] !== VERSION || group >= this.#groupFree.length) throw damaged(what);
    const base = group * GROUP_WORDS;
    if (record[1] === KIND_FULL) {
      this.#used.fill(ALL, base, base + GROUP_WORDS);
    } else {
      if (record.length !== 4 + GROUP_WORDS * 4) throw damaged(what);
      for (let word = 0; word < GROUP_WORDS; word++) {
        this.#used[base + word] = (this.#used[base + word] ?? 0) | record.readUInt32LE(4 + 4 * word);
      }
    }
    let free = GROUP_BLOCKS;
    for (let word = base; word < base + GROUP_WORDS; word++) {
      const bits = this.#used[word] ?? 0;
      this.#busy[word] = bits;
      if (bits !== 0) free -= popcount(bits);
    }
    this.#freeBlocks += free - (this.#groupFree[group] ?? 0);
    this.#groupFree[group] = free;
  }

  #touch(extent: Extent): void {
    const last = Math.floor((extent.start + extent.count - 1) / GROUP_BLOCKS);
    for (let group = Math.floor(extent.start / GROUP_BLOCKS); group <= last; group++)
      this.#dirtyGroups.add(group);
  }

  #encodeGroup(group: number): Buffer | undefined {
    const base = group * GROUP_WORDS;
    const words = this.#used.subarray(base, base + GROUP_WORDS);
    if (words.every((word) => word === 0)) return undefined;
    if (words.every((word) => word === ALL)) return Buffer.from([VERSION, KIND_FULL]);
    const record = Buffer.alloc(4 + GROUP_WORDS * 4);
    record[0] = VERSION;
    record[1] = KIND_BITMAP;
    words.forEach((word, index) => {
      record.writeUInt32LE(word, 4 + 4 * index);
    });
    return record;
  }

  #setBits(bitmap: Uint32Array, start: number, end: number): void {
    let block = start;
    while (block < end) {
      const word = block >>> 5;
      const from = block & 31;
      const to = Math.min(32, from + end - block);
      const mask = (to === 32 ? ALL : (1 << to) - 1) & ~((1 << from) - 1);
      bitmap[word] = (bitmap[word] ?? 0) | mask;
      block += to - from;
    }
  }

  /** All of these blocks must be free. */
  #setBusy(start: number, end: number): void {
    this.#setBits(this.#busy, start, end);
    this.#freeBlocks -= end - start;
    for (let block = start; block < end; ) {
      const group = Math.floor(block / GROUP_BLOCKS);
      const groupEnd = Math.min(end, (group + 1) * GROUP_BLOCKS);
      this.#groupFree[group] = (this.#groupFree[group] ?? 0) - (groupEnd - block);
      block = groupEnd;
    }
  }

  /** Free blocks from `block` on, at most `max`. */
  #freeRun(block: number, max: number): number {
    let length = 0;
    while (length < max) {
      const at = block + length;
      const word = this.#busy[at >>> 5];
      if (word === undefined) break;
      const rest = word >>> (at & 31);
      if (rest === 0) {
        length += 32 - (at & 31);
        continue;
      }
      length += 31 - Math.clz32(rest & -rest);
      break;
    }
    return Math.min(length, max);
  }

  #nextFree(from: number, end: number): number | undefined {
    let block = from;
    while (block < end) {
      const group = Math.floor(block / GROUP_BLOCKS);
      if (this.#groupFree[group] === 0) {
        block = (group + 1) * GROUP_BLOCKS;
        continue;
      }
      const free = ~(this.#busy[block >>> 5] ?? ALL) >>> (block & 31);
      if (free !== 0) {
        const found = block + 31 - Math.clz32(free & -free);
        return found < end ? found : undefined;
      }
      block = ((block >>> 5) + 1) * 32;
    }
    return undefined;
  }

  /** First run of `count` free blocks at or after the rotor, else before it. */
  #findRun(count: number): number | undefined {
    return (
      this.#findRunBetween(count, this.#rotor, this.totalBlocks) ??
      this.#findRunBetween(count, 0, Math.min(this.#rotor + count, this.totalBlocks))
    );
  }
  #findRunBetween(count: number, from: number, end: number): number | undefined {
    let at = this.#nextFree(from, end);
    while (at !== undefined) {
      const length = this.#freeRun(at, count);
      if (length >= count) return at;
      at = this.#nextFree(at + length + 1, end);
    }
    return undefined;
  }

  checkInvariants(): void {
    let free = 0;
    let unused = 0;
    for (let group = 0; group < this.#groupFree.length; group++) {
      let groupFree = GROUP_BLOCKS;
      const end = (group + 1) * GROUP_WORDS;
      for (let word = group * GROUP_WORDS; word < end; word++) {
        const used = this.#used[word] ?? 0;
        const busy = this.#busy[word] ?? 0;
        if (busy === 0 && used === 0) continue;
        assert((used & ~busy) === 0, `blocks from ${word * 32} on are in use, and may be handed out`);
        groupFree -= popcount(busy);
        if (busy !== used) unused += popcount((busy & ~used) >>> 0);
      }
      const counted = this.#groupFree[group] ?? 0;
      assert(groupFree === counted, `${groupFree} blocks of group ${group} are free, counted ${counted}`);
      free += groupFree;
    }
    assert(free === this.#freeBlocks, `${free} blocks are free, counted ${this.#freeBlocks}`);
    const freed = this.#freedNotDurable;
    assert(
      freed >= 0 && freed <= unused,
      `${freed} blocks are freed and not durable, ${unused} are busy and unused`,
    );
  }
}

function popcount(word: number): number {
  let bits = word - ((word >>> 1) & 0x5555_5555);
  bits = (bits & 0x3333_3333) + ((bits >>> 2) & 0x3333_3333);
  return (((bits + (bits >>> 4)) & 0x0f0f_0f0f) * 0x0101_0101) >>> 24;
}
