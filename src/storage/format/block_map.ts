/**
 * A block map says where 256 consecutive blocks (1 MiB) of a file lie on the data device, and their checksums. Each
 * block map is one record, found by (FID, block / 256) without a scan. So a read of 1 MiB needs at most two look-ups,
 * and an overwrite of one block rewrites one record, however fragmented the file is.
 *
 * In memory a block map is two flat arrays; on disk it is a list of runs and the checksums of the written blocks. The
 * overlay's block maps never change in place: an operation copies one first.
 */

import { damaged, getU64, putU64 } from './records.js';

export const BLOCK_BYTES = 4096;
export const MAP_BLOCKS = 256;
export const MAP_BYTES = BLOCK_BYTES * MAP_BLOCKS;

export interface BlockMap {
  /**
   * By block: 0 is a hole, +n is written at device block n, -n is allocated at device block n but unwritten (zeros).
   */
  readonly place: Float64Array;
  /** CRC-32C of each written block; 0 for the others. */
  readonly crc: Uint32Array;
  /** The memory of `place` and `crc`, one behind the other. */
  readonly bytes: Uint8Array;
  /** CRC-32C of `bytes`, once a caller asked for it: the block map does not change after that. */
  crcOfAll: number | undefined;
}

const PLACE_BYTES = 8 * MAP_BLOCKS;
const ARRAYS_BYTES = PLACE_BYTES + 4 * MAP_BLOCKS;

export function emptyBlockMap(): BlockMap {
  const memory = new ArrayBuffer(ARRAYS_BYTES);
  return {
    place: new Float64Array(memory, 0, MAP_BLOCKS),
    crc: new Uint32Array(memory, PLACE_BYTES, MAP_BLOCKS),
    bytes: new Uint8Array(memory),
    crcOfAll: undefined,
  };
}
export function copyBlockMap(blockMap: BlockMap): BlockMap {
  const copy = emptyBlockMap();
  copy.bytes.set(blockMap.bytes);
  return copy;
}
export function isEmptyBlockMap(blockMap: BlockMap): boolean {
  return blockMap.place.every((place) => place === 0);
}

const VERSION = 1;
const HEADER = 4;
const RUN_BYTES = 12;

/**
 * Length of the run that begins at `index`: blocks of one kind, consecutive on the device. Consecutive holes are one
 * run too.
 */
export function runLength(blockMap: BlockMap, index: number, end: number = MAP_BLOCKS): number {
  const { place } = blockMap;
  const first = place[index] ?? 0;
  const step = Math.sign(first);
  let length = 1;
  while (index + length < end && place[index + length] === first + step * length) length++;
  return length;
}

/** Length of the block map's record in bytes. */
export function recordBytes(blockMap: BlockMap): number {
  let bytes = HEADER;
  for (let at = 0; at < MAP_BLOCKS; ) {
    const place = blockMap.place[at] ?? 0;
    const length = runLength(blockMap, at);
    if (place !== 0) bytes += RUN_BYTES;
    if (place > 0) bytes += 4 * length;
    at += length;
  }
  return bytes;
}

/**
 * block map: 0 u8 version, 2 u16 number of runs, 4 runs of 12 bytes each: 0 u8 first block, 1 u8 length - 1, 2 u8 flags
 * (1: unwritten), 3 u8 0, 4 u64 device block; then u32 checksums of the blocks of written runs, in order.
 */
export function encodeBlockMap(blockMap: BlockMap): Buffer {
  const target = Buffer.allocUnsafe(HEADER + MAP_BLOCKS * (RUN_BYTES + 4));
  let runs = 0;
  for (let at = 0; at < MAP_BLOCKS; ) {
    const place = blockMap.place[at] ?? 0;
    const length = runLength(blockMap, at);
    if (place !== 0) {
      const run = HEADER + runs * RUN_BYTES;
      target[run] = at;
      target[run + 1] = length - 1;
      target[run + 2] = place < 0 ? 1 : 0;
      target[run + 3] = 0;
      putU64(target, Math.abs(place), run + 4);
      runs++;
    }
    at += length;
  }
  target.writeUInt16LE(VERSION, 0);
  target.writeUInt16LE(runs, 2);
  let end = HEADER + runs * RUN_BYTES;
  for (let at = 0; at < MAP_BLOCKS; at++) {
    if ((blockMap.place[at] ?? 0) > 0) end = target.writeUInt32LE(blockMap.crc[at] ?? 0, end);
  }
  return target.subarray(0, end);
}

/** @param what names the file and the block map in the error if the record is damaged. */
export function decodeBlockMap(value: Buffer, what: string): BlockMap {
  if (value.length < HEADER || value[0] !== VERSION) throw damaged(what);
  const blockMap = emptyBlockMap();
  const runs = value.readUInt16LE(2);
  let crcAt = HEADER + runs * RUN_BYTES;
  if (value.length < crcAt) throw damaged(what);
  for (let run = HEADER; run < HEADER + runs * RUN_BYTES; run += RUN_BYTES) {
    const first = value[run] ?? 0;
    const length = (value[run + 1] ?? 0) + 1;
    const unwritten = value[run + 2] === 1;
    const device = getU64(value, run + 4);
    if (first + length > MAP_BLOCKS || device === 0) throw damaged(what);
    if (!unwritten && value.length < crcAt + 4 * length) throw damaged(what);
    for (let index = 0; index < length; index++) {
      blockMap.place[first + index] = unwritten ? -(device + index) : device + index;
      if (unwritten) continue;
      blockMap.crc[first + index] = value.readUInt32LE(crcAt);
      crcAt += 4;
    }
  }
  return blockMap;
}
