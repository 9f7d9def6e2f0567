/**
 * Fills a READDIR or READDIRPLUS answer: fuse_dirent (24 bytes) or fuse_direntplus (fuse_entry_out before it, 152
 * bytes), the name, zeros up to a multiple of 8 (FUSE_DIRENT_ALIGN).
 */

import { SIZE } from './constants.js';
import { Writer } from './cursor.js';
import type { DirEntryOut, DirSink } from './handlers.js';
import { direntType, putEntry } from './structs_out.js';

export class DirFill {
  readonly #writer: Writer;
  readonly #plus: boolean;
  #usedBytes = 0;

  /** @param sizeBytes the kernel's room for the answer. */
  constructor(sizeBytes: number, plus: boolean) {
    this.#writer = new Writer(Buffer.allocUnsafe(sizeBytes));
    this.#plus = plus;
  }

  readonly push: DirSink = (entry: DirEntryOut): boolean => {
    const headBytes = this.#plus ? SIZE.DIRENTPLUS : SIZE.DIRENT;
    const at = this.#usedBytes;
    const end = at + headBytes + entry.name.length;
    const alignedEnd = (end + 7) & ~7;
    const w = this.#writer;
    if (alignedEnd > w.bytes.length) return false;
    let dirent = at;
    if (this.#plus) {
      this.#putLookup(at, entry);
      dirent += SIZE.ENTRY_OUT;
    }
    w.i64(dirent, entry.ino);
    w.i64(dirent + 8, entry.cookie);
    w.u32(dirent + 16, entry.name.length);
    w.u32(dirent + 20, direntType(entry.type));
    w.bytes.write(entry.name, dirent + SIZE.DIRENT, 'latin1');
    for (let pad = end; pad < alignedEnd; pad++) w.bytes[pad] = 0;
    this.#usedBytes = alignedEnd;
    return true;
  };

  #putLookup(at: number, entry: DirEntryOut): void {
    // nodeid 0 means "not looked up". The kernel takes no reference for '.' and '..', so we must not count one.
    if (entry.entry === undefined || entry.name === '.' || entry.name === '..') {
      this.#writer.zero(at, SIZE.ENTRY_OUT);
    } else {
      putEntry(this.#writer, at, entry.entry);
    }
  }

  chunks(): readonly Uint8Array[] {
    return [this.#writer.bytes.subarray(0, this.#usedBytes)];
  }
}
