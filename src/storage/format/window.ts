/**
 * A window: where 256 consecutive blocks (1 MiB) of a file lie on the data device, and their checksums. One record a
 * window, found by (FID, block / 256) without a scan, so a read of 1 MiB needs two look-ups at most and an overwrite of
 * one block rewrites one record whatever the file's fragmentation.
 *
 * In memory a window is two flat arrays; on disk it is a list of runs and the checksums of the written blocks.
 * Windows in the overlay are never changed in place: an operation copies first.
 */

import { damaged, getU64, putU64 } from './records.js';

export const BLOCK_BYTES = 4096;
export const WINDOW_BLOCKS = 256;
export const WINDOW_BYTES = BLOCK_BYTES * WINDOW_BLOCKS;

export interface Window {
  /** By block: 0 is a hole, +n written at device block n, -n allocated at device block n but unwritten (zeros). */
  readonly place: Float64Array;
  /** CRC-32C of each written block; else 0. */
  readonly crc: Uint32Array;
  /** Both, one behind the other. */
  readonly bytes: Uint8Array;
  /** CRC-32C of them, once somebody asked: the window does not change any more then. */
  crcOfAll: number | undefined;
}

const PLACE_BYTES = 8 * WINDOW_BLOCKS;
const ARRAYS_BYTES = PLACE_BYTES + 4 * WINDOW_BLOCKS;

export function emptyWindow(): Window {
  const memory = new ArrayBuffer(ARRAYS_BYTES);
  return {
    place: new Float64Array(memory, 0, WINDOW_BLOCKS),
    crc: new Uint32Array(memory, PLACE_BYTES, WINDOW_BLOCKS),
    bytes: new Uint8Array(memory),
    crcOfAll: undefined,
  };
}
export function copyWindow(window: Window): Window {
  const copy = emptyWindow();
  copy.bytes.set(window.bytes);
  return copy;
}
export function isEmptyWindow(window: Window): boolean {
  return window.place.every((place) => place === 0);
}

const VERSION = 1;
const HEADER = 4;
const RUN_BYTES = 12;

/** Length of the run that begins at `index`: same kind, consecutive on the device. Holes run together too. */
export function runLength(window: Window, index: number, end: number = WINDOW_BLOCKS): number {
  const { place } = window;
  const first = place[index] ?? 0;
  const step = Math.sign(first);
  let length = 1;
  while (index + length < end && place[index + length] === first + step * length) length++;
  return length;
}

/** Length of the window's record. */
export function recordBytes(window: Window): number {
  let bytes = HEADER;
  for (let at = 0; at < WINDOW_BLOCKS; ) {
    const place = window.place[at] ?? 0;
    const length = runLength(window, at);
    if (place !== 0) bytes += RUN_BYTES;
    if (place > 0) bytes += 4 * length;
    at += length;
  }
  return bytes;
}

/**
 * window: 0 u8 version, 2 u16 number of runs, 4 runs of 12 bytes each: 0 u8 first block, 1 u8 length - 1, 2 u8 flags
 * (1: unwritten), 3 u8 0, 4 u64 device block; then u32 checksums of the blocks of written runs, in order.
 */
export function encodeWindow(window: Window): Buffer {
  const target = Buffer.allocUnsafe(HEADER + WINDOW_BLOCKS * (RUN_BYTES + 4));
  let runs = 0;
  for (let at = 0; at < WINDOW_BLOCKS; ) {
    const place = window.place[at] ?? 0;
    const length = runLength(window, at);
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
  for (let at = 0; at < WINDOW_BLOCKS; at++) {
    if ((window.place[at] ?? 0) > 0) end = target.writeUInt32LE(window.crc[at] ?? 0, end);
  }
  return target.subarray(0, end);
}

/** @param what names the file and window when the record is damaged. */
export function decodeWindow(value: Buffer, what: string): Window {
  if (value.length < HEADER || value[0] !== VERSION) throw damaged(what);
  const window = emptyWindow();
  const runs = value.readUInt16LE(2);
  let crcAt = HEADER + runs * RUN_BYTES;
  if (value.length < crcAt) throw damaged(what);
  for (let run = HEADER; run < HEADER + runs * RUN_BYTES; run += RUN_BYTES) {
    const first = value[run] ?? 0;
    const length = (value[run + 1] ?? 0) + 1;
    const unwritten = value[run + 2] === 1;
    const device = getU64(value, run + 4);
    if (first + length > WINDOW_BLOCKS || device === 0) throw damaged(what);
    if (!unwritten && value.length < crcAt + 4 * length) throw damaged(what);
    for (let index = 0; index < length; index++) {
      window.place[first + index] = unwritten ? -(device + index) : device + index;
      if (unwritten) continue;
      window.crc[first + index] = value.readUInt32LE(crcAt);
      crcAt += 4;
    }
  }
  return window;
}
