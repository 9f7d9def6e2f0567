/**
 * One emptying of the kernel's page cache of a file, with READs arriving meanwhile.
 *
 * The kernel's invalidation waits for every folio that is locked by an unanswered READ, so READs of what is being
 * invalidated must be answered; and what they deliver behind the invalidation's back must be dropped again. To come to
 * an end against a reader that never stops:
 *   round 1 invalidates the whole file; READs pass, and their ranges are noted;
 *   each further round invalidates only what was delivered during the one before. READs of just those ranges pass (they
 *   may hold folios of the round), all others wait for the end. A range is noted again only if it was asked for again
 *   in the microseconds of its own round, so rounds shrink to nothing.
 * Every READ that passed is answered under the lock that is being given back: it is held until the last round is over.
 */

import type { Fid } from '../base/ids.js';
import { IntervalSet } from '../base/interval_set.js';
import type { KernelNotifier } from '../fuse/handlers.js';

const PAGE_BYTES = 4096;

export class PageDrop {
  readonly #fid: Fid;
  readonly #notifier: KernelNotifier;
  /** What the present round invalidates; undefined: the whole file. */
  #round: IntervalSet | undefined;
  /** What READs of the present round may have delivered. */
  #delivered = new IntervalSet();
  readonly #ended: Promise<void>;
  #end: () => void = () => undefined;

  constructor(fid: Fid, notifier: KernelNotifier) {
    this.#fid = fid;
    this.#notifier = notifier;
    this.#ended = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  /**
   * The caller has flushed the replies of READs before the drop.
   * @param over called in the turn in which the last page is gone, before any READ that waits goes on.
   * @throws what the notifier throws; the READs that wait go on all the same.
   */
  async run(over: () => void): Promise<void> {
    try {
      await this.#notifier.invalidateData(this.#fid, 0, 0);
      while (!this.#delivered.isEmpty) {
        const round = this.#delivered;
        this.#round = round;
        this.#delivered = new IntervalSet();
        this.#notifier.flushReplies();
        await Promise.all(
          [...round].map(({ start, end }) => this.#notifier.invalidateData(this.#fid, start, end - start)),
        );
      }
    } finally {
      over();
      this.#end();
    }
  }

  /** @returns undefined when the READ may pass, else the end of the drop. */
  admit(offset: number, lengthBytes: number): Promise<void> | undefined {
    const start = offset - (offset % PAGE_BYTES);
    const end = Math.ceil((offset + Math.max(lengthBytes, 1)) / PAGE_BYTES) * PAGE_BYTES;
    if (this.#round !== undefined && !this.#round.overlaps(start, end)) return this.#ended;
    this.#delivered.add(start, end);
    return undefined;
  }
}
