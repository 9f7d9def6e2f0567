/**
 * Entries for a client's requests, by xid, kept until the client says that their replies arrived (ackXid in each of its
 * requests).
 *
 * The owner bounds the window against a peer that never says so: then it drops the oldest entries. For requests up to
 * the dropped ones nobody knows any more whether they took effect.
 *
 * Invariant: no entry has an xid below the acknowledged ones.
 */

import { assert } from '../../base/assert.js';
import type { Xid } from '../../base/ids.js';

export class AckWindow<T> {
  readonly #entries = new Map<Xid, T>();
  readonly #removed: (entry: T, xid: Xid) => void;
  #ackedBelow = 0;
  #lostUpTo = 0;

  /** @param removed called for each entry that is removed, for whatever reason. */
  constructor(removed: (entry: T, xid: Xid) => void) {
    this.#removed = removed;
  }

  get size(): number {
    return this.#entries.size;
  }

  entries(): Iterable<T> {
    return this.#entries.values();
  }

  get(xid: Xid): T | undefined {
    return this.#entries.get(xid);
  }

  isAcknowledged(xid: Xid): boolean {
    return xid < this.#ackedBelow;
  }

  /** Replaces the entry of that xid. */
  set(xid: Xid, entry: T): void {
    assert(!this.isAcknowledged(xid), `the reply to xid ${xid} has arrived: nothing is kept for it`);
    this.delete(xid);
    this.#entries.set(xid, entry);
  }

  delete(xid: Xid): void {
    const entry = this.#entries.get(xid);
    if (entry === undefined) return;
    this.#entries.delete(xid);
    this.#removed(entry, xid);
  }

  /** Drops the entry that was set first, for lack of room. There must be one. */
  dropOldest(): void {
    const oldest = this.#entries.keys().next();
    assert(oldest.done !== true, 'nothing to drop');
    const xid = oldest.value as Xid;
    this.delete(xid);
    this.lost(xid);
  }

  /** Says that entries are missing for requests up to this one. */
  lost(upTo: number): void {
    this.#lostUpTo = Math.max(this.#lostUpTo, upTo);
  }

  /**
   * Whether an entry for this xid may have been dropped for lack of room: then nobody knows whether the request took
   * effect.
   */
  mayHaveLost(xid: Xid): boolean {
    return xid <= this.#lostUpTo;
  }

  /** Every reply to an xid below this has arrived at the client. */
  acknowledge(below: number): void {
    if (below <= this.#ackedBelow) return;
    // xids are consecutive, so walking the numbers costs one step for each request; a peer that jumps pays one full
    // pass.
    if (below - this.#ackedBelow <= 2 * this.#entries.size) {
      for (let xid = this.#ackedBelow; xid < below; xid += 1) this.delete(xid as Xid);
    } else {
      for (const xid of this.#entries.keys()) if (xid < below) this.delete(xid);
    }
    this.#ackedBelow = below;
  }

  checkInvariants(): void {
    for (const xid of this.#entries.keys()) {
      assert(xid >= this.#ackedBelow, `xid ${xid} is kept, and acknowledged (below ${this.#ackedBelow})`);
    }
  }
}
