/**
 * Reading and writing of protocol structs: little endian (the kernel uses host order, and the hosts we run on are all
 * little endian), fields in order, every read inside the bounds of its request.
 *
 * A 64-bit field is a number below 2^53 or the request fails: silently rounded offsets would corrupt files. Ranges of locks
 * go further (base/lock_offset.ts). Values that are only echoed or compared (unique, lock owners) stay in two halves or in text.
 */

import { type Errno, FsError } from '../base/errno.js';
import { LOCK_OFFSET_MAX, type LockOffset, lockOffset } from '../base/lock_offset.js';

const TWO_32 = 0x1_0000_0000;
/** High words of safe integers are below this. */
const HIGH_LIMIT = 0x20_0000;

/** What latin1 names need; Buffer has it, its type declarations do not list it. */
interface Latin1Source {
  latin1Slice(start: number, end: number): string;
}

/**
 * Reads one request's body. One object is reused for all requests: nothing keeps it, and what it hands out as bytes
 * is a view that dies with the batch.
 */
export class Cursor {
  #view: DataView = new DataView(new ArrayBuffer(0));
  #bytes: Buffer = Buffer.alloc(0);
  #at = 0;
  #end = 0;

  /** Moves to [at, end) of a slab; `view` shows the same memory as `bytes`. */
  reset(bytes: Buffer, view: DataView, at: number, end: number): void {
    this.#bytes = bytes;
    this.#view = view;
    this.#at = at;
    this.#end = end;
  }

  get remainingBytes(): number {
    return this.#end - this.#at;
  }

  #advance(size: number): number {
    const at = this.#at;
    if (at + size > this.#end) throw new FsError('EINVAL', 'request shorter than its struct');
    this.#at = at + size;
    return at;
  }

  skip(size: number): void {
    this.#advance(size);
  }

  u32(): number {
    return this.#view.getUint32(this.#advance(4), true);
  }

  /** @param tooBig errno for 2^53 and above: what the system call in question says of an offset beyond the limit. */
  u64(tooBig: Errno = 'EINVAL'): number {
    const at = this.#advance(8);
    const high = this.#view.getUint32(at + 4, true);
    if (high >= HIGH_LIMIT) throw new FsError(tooBig, '64-bit field of 2^53 or above');
    return high * TWO_32 + this.#view.getUint32(at, true);
  }

  /** Values of 2^53 and above become 2^53 - 1: for lengths that mean "as much as there is". */
  u64Clamped(): number {
    const at = this.#advance(8);
    const high = this.#view.getUint32(at + 4, true);
    if (high >= HIGH_LIMIT) return Number.MAX_SAFE_INTEGER;
    return high * TWO_32 + this.#view.getUint32(at, true);
  }

  /** A place in fcntl(2)'s sense. @throws FsError EOVERFLOW, fcntl(2)'s word, above OFFSET_MAX. */
  lockOffset(): LockOffset {
    const value = this.#view.getBigUint64(this.#advance(8), true);
    if (value > LOCK_OFFSET_MAX) throw new FsError('EOVERFLOW', 'lock offset of 2^63 or above');
    return lockOffset(value);
  }

  /** The exclusive end of a range whose last byte is here; undefined: to the end of the file. */
  lockEnd(): LockOffset | undefined {
    const last = this.#view.getBigUint64(this.#advance(8), true);
    return last >= LOCK_OFFSET_MAX ? undefined : lockOffset(last + 1n);
  }

  /** Seconds of a file time: signed. No filesystem keeps what is beyond 2^53: the nearest number stands for it. */
  s64(): number {
    const at = this.#advance(8);
    const value = this.#view.getInt32(at + 4, true) * TWO_32 + this.#view.getUint32(at, true);
    return Math.min(Math.max(value, Number.MIN_SAFE_INTEGER), Number.MAX_SAFE_INTEGER);
  }

  /** 16 hex digits: exact, comparable, printable. */
  hex64(): string {
    const at = this.#advance(8);
    const high = this.#view.getUint32(at + 4, true);
    const low = this.#view.getUint32(at, true);
    return high.toString(16).padStart(8, '0') + low.toString(16).padStart(8, '0');
  }

  /** Offset of the NUL that ends the string here. A loop: names are short, and a call into C++ costs more. */
  #findNul(): number {
    const bytes = this.#bytes;
    for (let at = this.#at; at < this.#end; at++) {
      if (bytes[at] === 0) return at;
    }
    throw new FsError('EINVAL', 'string without its end');
  }

  /** A string that ends in NUL, one UTF-16 unit a byte. */
  name(): string {
    const start = this.#at;
    const end = this.#findNul();
    this.#at = end + 1;
    return (this.#bytes as unknown as Latin1Source).latin1Slice(start, end);
  }

  /** View of the next `size` bytes; dies with the batch. */
  take(size: number): Buffer {
    const at = this.#advance(size);
    return this.#bytes.subarray(at, at + size);
  }

  /** View of a NUL-terminated byte string, without the NUL. */
  takeString(): Buffer {
    const start = this.#at;
    const end = this.#findNul();
    this.#at = end + 1;
    return this.#bytes.subarray(start, end);
  }
}

/** Little-endian writing at given offsets. The caller has checked that there is room. */
export class Writer {
  readonly bytes: Buffer;
  readonly view: DataView;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u16(at: number, value: number): void {
    this.view.setUint16(at, value, true);
  }

  u32(at: number, value: number): void {
    this.view.setUint32(at, value, true);
  }

  /** A safe integer, negative ones in two's complement. */
  i64(at: number, value: number): void {
    // `value >>> 0` is value modulo 2^32 for negative numbers too; the rest is an exact multiple of 2^32.
    const low = value >>> 0;
    this.view.setUint32(at, low, true);
    this.view.setInt32(at + 4, (value - low) / TWO_32, true);
  }

  bigI64(at: number, value: bigint): void {
    this.view.setBigInt64(at, value, true);
  }

  zero(at: number, size: number): void {
    this.bytes.fill(0, at, at + size);
  }
}
