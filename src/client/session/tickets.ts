/**
 * The tickets of one target: what this client may do with files by its handles, in a form that proves it to the next instance
 * (REPLAY_TICKETS). Only a target that squashes root gives them.
 *
 * A file's tickets outlive its handles: dirty data, data locks and what is not committed depend on them.
 */

import type { Fid } from '../../base/ids.js';

/** Below this number nobody looks which of them are of no use any more. */
const SWEPT_MIN = 1024;

export interface Ticket {
  readonly fid: Fid;
  /** ACCESS_* bits. */
  readonly access: number;
  readonly ticket: Uint8Array;
}

export class Tickets {
  readonly #files = new Map<Fid, Ticket[]>();
  #sweepAt = SWEPT_MIN;

  /** Files with tickets. */
  get size(): number {
    return this.#files.size;
  }

  add({ fid, access, ticket }: Ticket): void {
    // The message's memory would stay as long as the ticket does.
    const kept = { fid, access, ticket: Uint8Array.from(ticket) };
    const known = this.#files.get(fid);
    if (known === undefined) this.#files.set(fid, [kept]);
    // The secret of the target may be another one by now: the latest counts.
    else this.#files.set(fid, [...known.filter((each) => each.access !== access), kept]);
  }

  all(): Ticket[] {
    return [...this.#files.values()].flat();
  }

  /** Forgets files that nobody uses, when there are many. @param uses called only then. */
  sweep(uses: () => (fid: Fid) => boolean): void {
    if (this.#files.size < this.#sweepAt) return;
    const isUsed = uses();
    for (const fid of this.#files.keys()) if (!isUsed(fid)) this.#files.delete(fid);
    this.#sweepAt = Math.max(SWEPT_MIN, 2 * this.#files.size);
  }

  clear(): void {
    this.#files.clear();
  }
}
