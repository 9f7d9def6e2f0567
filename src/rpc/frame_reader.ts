/**
 * Turns received bytes into frames. Owns the received part of a frame that is not complete yet.
 *
 * - The reader checks the header, and the limits with it, before it allocates anything for a frame. It allocates memory
 *   for a body or bulk once, at the announced length, when the first byte is there and there is room for it.
 * - A part that lies within one chunk is handed out as a view of it, unless the view would keep much more memory alive
 *   than its own size: bulks stay in page caches for a long time.
 * - The transport may read into space(): the rest of a large bulk arrives in its final place, everything else in
 *   scratch memory. No byte of scratch memory is used twice, because bodies are views of it.
 */

import { FsError } from '../base/errno.js';
import type { SlabPool } from '../base/slab_pool.js';
import { BODY_MAX, BULK_MAX, checkMagic, decodeHeader, HEADER_SIZE, type Header } from '../wire/header.js';
import type { Frame } from './api.js';

const EMPTY = Buffer.alloc(0);
/** A view may keep at most this many times its own size alive. */
const VIEW_WASTE_FACTOR = 2;
/** Parts smaller than this live only while their message is decoded; for them a view never costs more than a copy. */
const VIEW_ALWAYS_BYTES = 1024;
const SCRATCH_BYTES = 64 << 10;
const MAGIC_BYTES = 4;
/** A read into less space than this is not worth a system call. */
const SPACE_MIN_BYTES = 16 << 10;
/** Of a peer that is not known yet: a CONNECT fits. */
const STRANGER_SCRATCH_BYTES = 1 << 10;
const STRANGER_SPACE_MIN_BYTES = 256;

export interface FrameReaderOptions {
  /** Where the memory of large bulks comes from. The receiver of a bulk may give its memory back. */
  readonly slabs?: SlabPool | undefined;
  /**
   * Called once for each frame when its header is there, for body and bulk together.
   * @returns false if there is no room now. The owner calls next() again when there is, and next() does not ask again.
   */
  readonly reserve?: ((bytes: number) => boolean) | undefined;
}

export class FrameReader {
  /** Limits of the frames that come next; at most the limits that header.ts sets. */
  bodyLimitBytes = BODY_MAX;
  bulkLimitBytes = BULK_MAX;
  /** Spares memory: the peer is not known yet. */
  isSmall = false;
  readonly #slabs: SlabPool | undefined;
  readonly #reserve: (bytes: number) => boolean;
  #reserved = false;
  readonly #chunks: Buffer[] = [];
  /** Bytes of the first chunk that are used up. */
  #offset = 0;
  #queuedBytes = 0;
  #header: Header | undefined;
  #body: Buffer | undefined;
  /** A body or bulk that spans chunks, and the number of its bytes that are there. */
  #part: Buffer | undefined;
  #partBytes = 0;
  #scratch = EMPTY;
  /** Bytes of the scratch memory that were filled. */
  #scratchBytes = 0;

  constructor({ slabs, reserve }: FrameReaderOptions = {}) {
    this.#slabs = slabs;
    this.#reserve = reserve ?? (() => true);
  }

  /** Memory for the next bytes. The next chunk pushed is a view of its beginning, or other memory. */
  space(): Buffer {
    const part = this.#part;
    const leastBytes = this.isSmall ? STRANGER_SPACE_MIN_BYTES : SPACE_MIN_BYTES;
    if (part !== undefined && this.#queuedBytes === 0 && part.length - this.#partBytes >= leastBytes) {
      return part.subarray(this.#partBytes);
    }
    if (this.#scratch.length - this.#scratchBytes < leastBytes) {
      this.#scratch = Buffer.allocUnsafeSlow(this.isSmall ? STRANGER_SCRATCH_BYTES : SCRATCH_BYTES);
      this.#scratchBytes = 0;
    }
    // Not more than this: what arrives behind the header of a large frame has to be copied out again.
    return this.#scratch.subarray(this.#scratchBytes, this.#scratchBytes + SPACE_MIN_BYTES);
  }

  /** @param chunk belongs to the reader from now on. */
  push(chunk: Buffer): void {
    if (chunk.length === 0) return;
    if (this.#part !== undefined && chunk.buffer === this.#part.buffer) {
      this.#partBytes += chunk.length;
      return;
    }
    if (chunk.buffer === this.#scratch.buffer) this.#scratchBytes += chunk.length;
    this.#chunks.push(chunk);
    this.#queuedBytes += chunk.length;
  }

  /** Bytes received of the frame that is not complete. */
  get arrivingBytes(): number {
    return this.#header === undefined
      ? 0
      : (this.#part === undefined ? 0 : this.#partBytes) + this.#queuedBytes;
  }

  /** Whether the reader is in the middle of a frame, or has bytes it has not looked at. */
  get busy(): boolean {
    return this.#header !== undefined || this.#queuedBytes > 0;
  }

  /**
   * The next complete frame, if it is there.
   * @throws FsError EPROTO for bytes that are no frame; the stream is unusable then.
   */
  next(): Frame | undefined {
    if (this.#header === undefined) {
      if (this.#queuedBytes < HEADER_SIZE) {
        this.#checkBeginning();
        return undefined;
      }
      this.#header = this.#readHeader();
      this.#check(this.#header);
      this.#reserved = false;
    }
    const header = this.#header;
    if (!this.#reserved) {
      this.#reserved = true;
      if (!this.#reserve(header.bodyLength + header.bulkLength)) return undefined;
    }
    if (this.#body === undefined) {
      this.#body = this.#readPart(header.bodyLength, false);
      if (this.#body === undefined) return undefined;
    }
    const bulk = this.#readPart(header.bulkLength, true);
    if (bulk === undefined) return undefined;
    const frame: Frame = { header, body: this.#body, bulk };
    this.#header = undefined;
    this.#body = undefined;
    return frame;
  }

  /**
   * A peer of another protocol may send less than a header and wait for us. Its first bytes are enough to recognize
   * that.
   */
  #checkBeginning(): void {
    const first = this.#chunks[0];
    if (first === undefined || this.#queuedBytes < MAGIC_BYTES) return;
    if (first.length - this.#offset >= MAGIC_BYTES) checkMagic(first, this.#offset);
    // Less than a header is queued, so this copies a few bytes.
    else checkMagic(Buffer.concat([first.subarray(this.#offset), ...this.#chunks.slice(1)]), 0);
  }

  #check({ bodyLength, bulkLength }: Header): void {
    if (bodyLength > this.bodyLimitBytes || bulkLength > this.bulkLimitBytes) {
      throw new FsError('EPROTO', `${bodyLength} and ${bulkLength} bytes from a peer that is not known yet`);
    }
  }

  #readHeader(): Header {
    const first = this.#chunks[0] as Buffer;
    if (first.length - this.#offset >= HEADER_SIZE) {
      const header = decodeHeader(first, this.#offset);
      this.#advance(HEADER_SIZE);
      return header;
    }
    const bytes = Buffer.allocUnsafe(HEADER_SIZE);
    this.#fill(bytes, 0);
    return decodeHeader(bytes);
  }

  /** The body or bulk of this length, once all of it is there. */
  #readPart(lengthBytes: number, kept: boolean): Buffer | undefined {
    if (lengthBytes === 0) return EMPTY;
    if (this.#part === undefined) {
      const first = this.#chunks[0];
      if (first === undefined) return undefined;
      const wasteful =
        kept && lengthBytes >= VIEW_ALWAYS_BYTES && first.buffer.byteLength > lengthBytes * VIEW_WASTE_FACTOR;
      if (first.length - this.#offset >= lengthBytes && !wasteful) {
        const view = first.subarray(this.#offset, this.#offset + lengthBytes);
        this.#advance(lengthBytes);
        return view;
      }
      // Not from the pool of small buffers: this part would keep the whole pool alive.
      this.#part = this.#slabs?.take(lengthBytes) ?? Buffer.allocUnsafeSlow(lengthBytes);
      this.#partBytes = 0;
    }
    this.#partBytes = this.#fill(this.#part, this.#partBytes);
    if (this.#partBytes < lengthBytes) return undefined;
    const part = this.#part;
    this.#part = undefined;
    return part;
  }

  /** Moves queued bytes into target from `from` on. @returns the offset up to which target is filled. */
  #fill(target: Buffer, from: number): number {
    let at = from;
    while (at < target.length) {
      const first = this.#chunks[0];
      if (first === undefined) break;
      const copied = first.copy(target, at, this.#offset);
      at += copied;
      this.#advance(copied);
    }
    return at;
  }

  #advance(lengthBytes: number): void {
    this.#offset += lengthBytes;
    this.#queuedBytes -= lengthBytes;
    if (this.#offset < (this.#chunks[0] as Buffer).length) return;
    this.#chunks.shift();
    this.#offset = 0;
  }
}
