/**
 * Changes the block maps of one file within one operation: copies a block map at the first change, frees the replaced
 * blocks, and counts the blocks that the file gains and loses.
 */

import { SECTORS_PER_BLOCK } from '../../base/attr.js';
import type { Fid } from '../../base/ids.js';
import type { ReserveOfMeta } from '../api.js';
import {
  type BlockMap,
  copyBlockMap,
  emptyBlockMap,
  isEmptyBlockMap,
  MAP_BLOCKS,
  recordBytes,
} from '../format/block_map.js';
import type { Overlay } from '../meta/overlay.js';

export class BlockMapEdit {
  readonly #overlay: Overlay;
  readonly #fid: Fid;
  readonly #edited = new Map<number, BlockMap>();
  #blocks = 0;

  constructor(overlay: Overlay, fid: Fid) {
    this.#overlay = overlay;
    this.#fid = fid;
  }

  place(block: number): number {
    const index = Math.floor(block / MAP_BLOCKS);
    const blockMap = this.#edited.get(index) ?? this.#overlay.blockMap(this.#fid, index);
    return blockMap?.place[block % MAP_BLOCKS] ?? 0;
  }

  /** @param place as in BlockMap. Frees the block's old place, unless it is the same device block. */
  set(block: number, place: number, crc: number): void {
    const blockMap = this.#edit(Math.floor(block / MAP_BLOCKS));
    const at = block % MAP_BLOCKS;
    const before = blockMap.place[at] ?? 0;
    if (before !== 0 && Math.abs(before) !== Math.abs(place)) this.#overlay.freeBlock(Math.abs(before));
    if (before !== 0) this.#blocks--;
    if (place !== 0) this.#blocks++;
    blockMap.place[at] = place;
    blockMap.crc[at] = crc;
  }

  /** Makes the blocks [start, end) holes. Does not copy block maps that have none of them. */
  clear(start: number, end: number): void {
    for (let block = start; block < end; ) {
      const index = Math.floor(block / MAP_BLOCKS);
      const blockMapEnd = Math.min(end, (index + 1) * MAP_BLOCKS);
      if (this.#edited.has(index) || this.#overlay.blockMap(this.#fid, index) !== undefined) {
        for (; block < blockMapEnd; block++) if (this.place(block) !== 0) this.set(block, 0, 0);
      }
      block = blockMapEnd;
    }
  }

  /** What the operation may use of the meta device if its records replace existing ones. */
  get reserve(): ReserveOfMeta {
    let isLonger = false;
    for (const [index, blockMap] of this.#edited) {
      const before = this.#overlay.blockMap(this.#fid, index);
      if (before === undefined) return false;
      isLonger ||= recordBytes(blockMap) > recordBytes(before);
    }
    return isLonger ? 'replaces' : true;
  }

  /** Gives the block maps to the operation. @returns the change of st_blocks. */
  finish(): number {
    for (const [index, blockMap] of this.#edited) {
      this.#overlay.setBlockMap(this.#fid, index, isEmptyBlockMap(blockMap) ? null : blockMap);
    }
    return this.#blocks * SECTORS_PER_BLOCK;
  }

  #edit(index: number): BlockMap {
    let blockMap = this.#edited.get(index);
    if (blockMap === undefined) {
      const before = this.#overlay.blockMap(this.#fid, index);
      blockMap = before === undefined ? emptyBlockMap() : copyBlockMap(before);
      this.#edited.set(index, blockMap);
    }
    return blockMap;
  }
}
