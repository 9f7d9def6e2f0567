/**
 * In which directory the client saw each inode last. It only guesses: the name may be elsewhere by now, and an inode may have several. For
 * what pays in one directory and not in another: small_reads.ts, operations/lookup_ahead.ts.
 */

import { LRUCache } from 'lru-cache';
import type { Fid } from '../../base/ids.js';

const INODES_MAX = 4096;

export class LastParents {
  readonly #parents = new LRUCache<Fid, Fid>({ max: INODES_MAX });

  saw(parent: Fid, fid: Fid): void {
    this.#parents.set(fid, parent);
  }

  of(fid: Fid): Fid | undefined {
    return this.#parents.get(fid);
  }
}
