/**
 * In which directories programs read the small files that they look up: there it pays to ask for contents together with names
 * (operations/lookup_ahead.ts). It only guesses: a wrong guess costs some bytes.
 */

import { LRUCache } from 'lru-cache';
import type { Fid } from '../../base/ids.js';
import { CONTENT_MAX } from '../../wire/meta.js';
import type { LastParents } from './last_parents.js';

/** Small files read in a directory, before the contents of others are worth asking for. */
const ENOUGH = 2;
const DIRECTORIES_MAX = 256;

export class SmallReads {
  readonly #parents: LastParents;
  readonly #counts = new LRUCache<Fid, number>({ max: DIRECTORIES_MAX });

  constructor(parents: LastParents) {
    this.#parents = parents;
  }

  /** A part of the file had to be read from the target. */
  read(fid: Fid, sizeBytes: number): void {
    if (sizeBytes > CONTENT_MAX) return;
    const parent = this.#parents.of(fid);
    if (parent !== undefined) this.#counts.set(parent, (this.#counts.get(parent) ?? 0) + 1);
  }

  areUsual(parent: Fid): boolean {
    return (this.#counts.get(parent) ?? 0) >= ENOUGH;
  }
}
