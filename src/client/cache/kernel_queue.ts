/**
 * What the kernel must forget, gathered over one turn: a hundred locks called back together cost one epoch bump and
 * one list of inodes, not a hundred.
 *
 * If the kernel fails to drop something, the operation does not fail: the client logs the failure and gives the lock back
 * anyway, because keeping it would stop another client for ever.
 */

import type { Fid } from '../../base/ids.js';
import type { Range } from '../../base/interval_set.js';
import { logger } from '../../base/log.js';
import type { MaybePromise } from '../../base/maybe_promise.js';
import type { KernelCache } from '../api.js';

const log = logger('client:kernel');

export class KernelQueue {
  readonly #kernel: KernelCache;
  #attrs = new Set<Fid>();
  #names = false;
  #pending: Promise<void> | undefined;

  constructor(kernel: KernelCache) {
    this.#kernel = kernel;
  }

  /** The kernel may have something of the inode that it would have to drop. */
  keeps(fid: Fid): boolean {
    return this.#kernel.hasPages(fid) || this.#kernel.hasAttrs(fid);
  }

  refersTo(fid: Fid): boolean {
    return this.#kernel.refersTo(fid);
  }

  /** Resolves when the kernel has dropped the inode's attributes; undefined when it has none. */
  dropAttrs(fid: Fid): MaybePromise<void> {
    if (!this.#kernel.hasAttrs(fid)) {
      this.#kernel.overtakeAttrs();
      return undefined;
    }
    this.#attrs.add(fid);
    return this.#schedule();
  }

  /** Resolves when the kernel looks every name up again. */
  dropNames(): Promise<void> {
    this.#names = true;
    return this.#schedule();
  }

  /** Resolves when the kernel has no pages in these ranges (without ranges: no pages at all); undefined if it has none now. */
  dropPages(fid: Fid, ranges?: readonly Range[]): MaybePromise<void> {
    return this.#kernel.hasPages(fid) ? this.#dropPages(fid, ranges) : undefined;
  }

  async #dropPages(fid: Fid, ranges: readonly Range[] | undefined): Promise<void> {
    try {
      await this.#kernel.dropPages(fid, ranges);
    } catch (error) {
      log('pages of %d: %O', fid, error);
    }
  }

  #schedule(): Promise<void> {
    this.#pending ??= this.#run();
    return this.#pending;
  }

  async #run(): Promise<void> {
    // The rest of this turn may add to the list.
    await Promise.resolve();
    const attrs = [...this.#attrs];
    const names = this.#names;
    this.#attrs = new Set();
    this.#names = false;
    this.#pending = undefined;
    try {
      await Promise.all([
        attrs.length > 0 ? this.#kernel.dropAttrs(attrs) : undefined,
        names ? this.#kernel.dropNames() : undefined,
      ]);
    } catch (error) {
      log('%O', error);
    }
  }
}
