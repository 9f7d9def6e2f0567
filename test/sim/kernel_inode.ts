/**
 * An inode as the kernel has it: attributes with their validity and version, pages, and the locks that system calls take.
 *
 * A page is locked while a READ that fills it or a WRITE of it is unanswered; whoever wants to drop it waits for that.
 */

import type { Attr } from '../../src/base/attr.js';
import { RwLock } from './kernel_locks.js';

export const PAGE_BYTES = 4096;

export interface Page {
  content: Buffer | undefined;
  isDirty: boolean;
  /** Resolves when it is unlocked. */
  locked: Promise<void> | undefined;
}

export class KernelInode {
  readonly nodeid: number;
  /** What we owe the client in FORGET. */
  lookups = 0;
  attr: Attr | undefined;
  attrValidUntilMs = 0;
  attrVersion = 0;
  /** Open files, and system calls that use it now. */
  uses = 0;
  /** This kernel took its last name away: it is forgotten after its last use. */
  isRemoved = false;
  readonly pages = new Map<number, Page>();
  /** Pages that could not be written back: each open file is told once. */
  writeErrors = 0;
  /** i_rwsem. Taken shared by lookups, exclusive by what changes the directory or writes the file. */
  readonly lock = new RwLock();
  /** A truncate is under way: no page is written back meanwhile (FUSE_NOWRITE). */
  truncating: Promise<void> | undefined;

  constructor(nodeid: number) {
    this.nodeid = nodeid;
  }

  get sizeBytes(): number {
    return this.attr?.sizeBytes ?? 0;
  }
  set sizeBytes(sizeBytes: number) {
    if (this.attr !== undefined) this.attr = { ...this.attr, sizeBytes };
  }

  /** Indexes of the pages that exist in [start, end), in order. */
  pagesIn(start: number, end: number): number[] {
    return [...this.pages.keys()]
      .filter((index) => index * PAGE_BYTES < end && (index + 1) * PAGE_BYTES > start)
      .sort((a, b) => a - b);
  }

  /** The size became smaller: pages behind the end go, the rest of the last one is zeros. */
  cutPages(sizeBytes: number): void {
    for (const [index, page] of this.pages) {
      const start = index * PAGE_BYTES;
      if (start >= sizeBytes) this.pages.delete(index);
      else if (start + PAGE_BYTES > sizeBytes) page.content?.fill(0, sizeBytes - start);
    }
  }
}
