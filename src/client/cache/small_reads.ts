/**
 * In which directories programs read the small files that they look up: there it pays to ask for contents together with names
 * (operations/lookup_ahead.ts). It only guesses: a wrong guess costs some bytes.
 */

import { LRUCache } from 'lru-cache';
import type { Fid } from '../../base/ids.js';
import { CONTENT_MAX } from '../../wire/meta.js';

/** Small files read in a directory, before the contents of others are worth asking for. */
const ENOUGH = 2;
const DIRECTORIES_MAX = 256;
const FILES_MAX = 1024;

export class SmallReads {
  /** The directories in which these files were looked up last. */
  readonly #parents = new LRUCache<Fid, Fid>({ max: FILES_MAX });
  readonly #counts = new LRUCache<Fid, number>({ max: DIRECTORIES_MAX });

  lookedUp(parent: Fid, fid: Fid): void {
    this.#parents.set(fid, parent);
  }

  /** A part of the file had to be read from the target. */
  read(fid: Fid, sizeBytes: number): void {
    if (sizeBytes > CONTENT_MAX) return;
    const parent = this.#parents.get(fid);
    if (parent !== undefined) this.#counts.set(parent, (this.#counts.get(parent) ?? 0) + 1);
  }

  areUsual(parent: Fid): boolean {
    return (this.#counts.get(parent) ?? 0) >= ENOUGH;
  }
}
