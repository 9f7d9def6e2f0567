/**
 * Reads and writes protocol structs: little endian (the kernel uses host order, and all our hosts are little endian),
 * fields in order, every read inside the bounds of its request.
 *
 * A 64-bit field is a number below 2^53, or the request fails: silently rounded offsets would corrupt files. Lock
 * ranges may be larger (base/lock_offset.ts). Values that we only echo or compare (unique, lock owners) stay in two
 * halves or in text.
 */

import { type Errno, FsError } from '../base/errno.js';
import { LOCK_OFFSET_MAX, type LockOffset, lockOffset } from '../base/lock_offset.js';

const TWO_32 = 0x1_0000_0000;
/** High words of safe integers are below this. */
const HIGH_LIMIT = 0x20_0000;

/** The method for latin1 names. Buffer has it, but its type declarations do not list it. */
interface Latin1Source {
  latin1Slice(start: number, end: number): string;
}

/**
 * Reads one request's body. One object serves all requests, so nothing may keep it. The bytes it hands out are views
 * that are valid only during the batch.
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

  /** @param tooBig errno for 2^53 and above: the one that the system call gives for an offset beyond the limit. */
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

  /** An offset of an fcntl(2) lock. @throws FsError EOVERFLOW, as fcntl(2) says, above OFFSET_MAX. */
  lockOffset(): LockOffset {
    const value = this.#view.getBigUint64(this.#advance(8), true);
    if (value > LOCK_OFFSET_MAX) throw new FsError('EOVERFLOW', 'lock offset of 2^63 or above');
    return lockOffset(value);
  }

  /** Reads the last byte of a lock range. @returns its exclusive end; undefined: to the end of the file. */
  lockEnd(): LockOffset | undefined {
    const last = this.#view.getBigUint64(this.#advance(8), true);
    return last >= LOCK_OFFSET_MAX ? undefined : lockOffset(last + 1n);
  }

  /** Signed seconds of a file time. No filesystem keeps seconds beyond 2^53, so the nearest safe integer replaces them. */
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

  /** Offset of the NUL that ends the string here. A plain loop, because names are short and a call into C++ costs more. */
  #findNul(): number {
    const bytes = this.#bytes;
    for (let at = this.#at; at < this.#end; at++) {
      if (bytes[at] === 0) return at;
    }
    throw new FsError('EINVAL', 'string without its end');
  }

  /** A NUL-terminated string, one UTF-16 unit for each byte. */
  name(): string {
    const start = this.#at;
    const end = this.#findNul();
    this.#at = end + 1;
    return (this.#bytes as unknown as Latin1Source).latin1Slice(start, end);
  }

  /** A view of the next `size` bytes, valid only during the batch. */
  take(size: number): Buffer {
    const at = this.#advance(size);
    return this.#bytes.subarray(at, at + size);
  }

  /** A view of a NUL-terminated byte string, without the NUL. */
  takeString(): Buffer {
    const start = this.#at;
    const end = this.#findNul();
    this.#at = end + 1;
    return this.#bytes.subarray(start, end);
  }
}

/** Writes little-endian values at given offsets. The caller has checked that there is room. */
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

  /** Writes a safe integer; a negative one in two's complement. */
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
