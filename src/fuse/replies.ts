/**
 * Encodes and sends answers. Small answers given during a batch go into the device's reply slab, one behind the other,
 * and are sent together when the batch ends. All others are sent as messages of their own.
 *
 * Invariant: nothing else is encoded between encodeFixed() and sendFixed(). The dispatcher calls both in one turn.
 */

import { SIZE } from './constants.js';
import { Writer } from './cursor.js';
import type { FuseDevice } from './handlers.js';
import { FIXED_REPLY_BYTES } from './operations.js';
import type { Request } from './request.js';

/** Byte answers up to this size go through the slab: a copy is cheaper than a send of their own. */
const COPY_TO_SLAB_BYTES = 8192;
const REPLY_ROOM = SIZE.OUT_HEADER + FIXED_REPLY_BYTES;

export class Replies {
  readonly #device: FuseDevice;
  readonly #slab: Writer;
  /** Memory to encode fixed answers that do not go into the slab; they are copied out at once. */
  readonly #scratch = new Writer(Buffer.alloc(REPLY_ROOM));
  readonly #slabBytes: number;
  #usedBytes = 0;
  /** The channel sends the slab when a batch ends. At other times nobody would send it. */
  inBatch = false;

  constructor(device: FuseDevice) {
    this.#device = device;
    this.#slab = new Writer(device.replySlab);
    this.#slabBytes = device.replySlab.length;
  }

  takeBytes(): number {
    const used = this.#usedBytes;
    this.#usedBytes = 0;
    return used;
  }

  #slabHasRoom(sizeBytes: number): boolean {
    return this.inBatch && this.#usedBytes + sizeBytes <= this.#slabBytes;
  }

  /** Writes a body, with room for the header before it. @returns what `put` returned. */
  encodeFixed(put: (writer: Writer, at: number, result: unknown) => number, result: unknown): number {
    return this.#slabHasRoom(REPLY_ROOM)
      ? put(this.#slab, this.#usedBytes + SIZE.OUT_HEADER, result)
      : put(this.#scratch, SIZE.OUT_HEADER, result);
  }

  /** Sends the body that was just encoded; or no body (bodyBytes 0) for an errno or an empty answer. */
  sendFixed(request: Request, errno: number, bodyBytes: number): void {
    const lenBytes = SIZE.OUT_HEADER + bodyBytes;
    if (this.#slabHasRoom(REPLY_ROOM)) {
      putHeader(this.#slab, this.#usedBytes, request.uniqueHigh, request.uniqueLow, errno, lenBytes);
      this.#usedBytes += (lenBytes + 7) & ~7;
    } else {
      putHeader(this.#scratch, 0, request.uniqueHigh, request.uniqueLow, errno, lenBytes);
      this.#device.send([Buffer.from(this.#scratch.bytes.subarray(0, lenBytes))]);
    }
  }

  sendChunks(request: Request, chunks: readonly Uint8Array[], bodyBytes: number): void {
    const lenBytes = SIZE.OUT_HEADER + bodyBytes;
    if (bodyBytes <= COPY_TO_SLAB_BYTES && this.#slabHasRoom((lenBytes + 7) & ~7)) {
      putHeader(this.#slab, this.#usedBytes, request.uniqueHigh, request.uniqueLow, 0, lenBytes);
      let at = this.#usedBytes + SIZE.OUT_HEADER;
      for (const chunk of chunks) {
        this.#slab.bytes.set(chunk, at);
        at += chunk.length;
      }
      this.#usedBytes += (lenBytes + 7) & ~7;
      return;
    }
    const header = new Writer(Buffer.allocUnsafe(SIZE.OUT_HEADER));
    putHeader(header, 0, request.uniqueHigh, request.uniqueLow, 0, lenBytes);
    this.#device.send([header.bytes, ...chunks]);
  }

  /** Sends an error at once, for a message without a Request. */
  sendError(uniqueHigh: number, uniqueLow: number, errno: number): void {
    const header = new Writer(Buffer.allocUnsafe(SIZE.OUT_HEADER));
    putHeader(header, 0, uniqueHigh, uniqueLow, errno, SIZE.OUT_HEADER);
    this.#device.send([header.bytes]);
  }
}

/** fuse_out_header, 16 bytes: len, error (negative errno), unique. */
function putHeader(
  w: Writer,
  at: number,
  uniqueHigh: number,
  uniqueLow: number,
  errno: number,
  lenBytes: number,
): void {
  w.u32(at, lenBytes);
  w.u32(at + 4, -errno);
  w.u32(at + 8, uniqueLow);
  w.u32(at + 12, uniqueHigh);
}
