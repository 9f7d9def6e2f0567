/** Records of a metadata database, read from its pages. Each page is checked before it is used (native/meta_pages.cc). */

import { type MetaPagesHandle, nativeBinding } from '../../native/binding.js';

/** Most values are smaller. */
const VALUE_BYTES = 8192;
const LIMIT_MAX = 0xffff_ffff;
const REMOVED = 0x8000;

/** Says in one line what is wrong with the pages. */
export class PageFault extends Error {}

export interface KeyValue {
  readonly key: Buffer;
  readonly value: Buffer;
}

export class MetaPages {
  readonly #handle: MetaPagesHandle;
  readonly #native = nativeBinding();
  #value = Buffer.allocUnsafeSlow(VALUE_BYTES);
  #keys = Buffer.allocUnsafeSlow(VALUE_BYTES);

  /**
   * @param sizeBytes size of the device.
   * @param checksGaps whether a missing record is an error if the pages beside it are damaged.
   * @throws Error with an errno code.
   */
  constructor(path: string, sizeBytes: number, checksGaps: boolean) {
    this.#handle = this.#native.metaPagesOpen(path, sizeBytes, checksGaps ? 1 : 0);
  }

  /** @returns a view that the next call overwrites. @throws PageFault */
  get(key: Buffer): Buffer | undefined {
    for (;;) {
      const found = this.#native.metaPagesGet(this.#handle, key, this.#value);
      if (typeof found === 'string') throw new PageFault(found);
      if (found === undefined) return undefined;
      if (found <= this.#value.length) return this.#value.subarray(0, found);
      this.#value = Buffer.allocUnsafeSlow(found);
    }
  }

  /** Does what MetaDatabase.range does. Reads one leaf at a time. @throws PageFault */
  *range(start: Buffer, end: Buffer, limit: number): Iterable<KeyValue> {
    let left = limit;
    for (let from = start; left > 0; ) {
      const packed = this.#native.metaPagesLeaf(this.#handle, from, end, Math.min(left, LIMIT_MAX));
      if (typeof packed === 'string') throw new PageFault(packed);
      let at = 2 + packed.readUInt16LE(0);
      const next = packed.subarray(2, at);
      while (at < packed.length) {
        const keyEnd = at + 6 + packed.readUInt16LE(at);
        const valueEnd = keyEnd + packed.readUInt32LE(at + 2);
        left--;
        yield { key: packed.subarray(at + 6, keyEnd), value: packed.subarray(keyEnd, valueEnd) };
        at = valueEnd;
      }
      if (next.length === 0) return;
      from = next;
    }
  }

  /** Checks the pages that lmdb would use to change these records. @throws PageFault if a page is damaged. */
  check(changes: readonly { readonly key: Buffer; readonly value: Buffer | undefined }[]): void {
    let at = 0;
    for (const { key, value } of changes) {
      const end = at + 2 + key.length;
      if (end > this.#keys.length) this.#keys = Buffer.concat([this.#keys, Buffer.allocUnsafe(end)]);
      this.#keys.writeUInt16LE(key.length + (value === undefined ? REMOVED : 0), at);
      this.#keys.set(key, at + 2);
      at = end;
    }
    const fault = this.#native.metaPagesCheck(this.#handle, this.#keys.subarray(0, at));
    if (fault !== undefined) throw new PageFault(fault);
  }

  /** Reads the pages on the paths to these keys into memory. Never rejects: a later read of a key reports what is wrong. */
  async prefetch(keys: readonly Buffer[]): Promise<void> {
    const packed = Buffer.allocUnsafe(keys.reduce((sum, key) => sum + 2 + key.length, 0));
    let at = 0;
    for (const key of keys) {
      at = packed.writeUInt16LE(key.length, at);
      packed.set(key, at);
      at += key.length;
    }
    await this.#native.metaPagesPrefetch(this.#handle, packed).catch(() => undefined);
  }

  close(): void {
    this.#native.metaPagesClose(this.#handle);
  }
}
