/**
 * Orders the changes of one file. Changes of overlapping ranges run one after the other, in the order in which they
 * arrived. Other changes run side by side, so that several large writes of one file keep the device busy.
 *
 * Lock order: an operation holds at most one range at a time (copy locks its destination only).
 *
 * Invariant: an entry waits exactly while it overlaps one that came before it.
 */

import { assert } from '../../base/assert.js';
import type { Fid } from '../../base/ids.js';
import type { MaybePromise } from '../../base/maybe_promise.js';

interface Entry {
  readonly start: number;
  readonly end: number;
  /** Set while the entry waits. */
  grant: (() => void) | undefined;
}

export class RangeLocks {
  /** By file: the entries that hold or wait, in order of arrival. */
  readonly #files = new Map<Fid, Entry[]>();

  /** @returns the release; the caller calls it exactly once. */
  acquire(fid: Fid, start: number, end: number): MaybePromise<() => void> {
    let entries = this.#files.get(fid);
    if (entries === undefined) {
      entries = [];
      this.#files.set(fid, entries);
    }
    const entry: Entry = { start, end, grant: undefined };
    const free = !entries.some((earlier) => earlier.start < end && start < earlier.end);
    entries.push(entry);
    const release = (): void => this.#release(fid, entry);
    if (free) return release;
    return new Promise((resolve) => {
      entry.grant = () => resolve(release);
    });
  }

  #release(fid: Fid, entry: Entry): void {
    const entries = (this.#files.get(fid) ?? []).filter((other) => other !== entry);
    if (entries.length === 0) {
      this.#files.delete(fid);
      return;
    }
    this.#files.set(fid, entries);
    entries.forEach((waiting, index) => {
      if (waiting.grant === undefined) return;
      const blocked = entries
        .slice(0, index)
        .some((earlier) => earlier.start < waiting.end && waiting.start < earlier.end);
      if (blocked) return;
      const { grant } = waiting;
      waiting.grant = undefined;
      grant();
    });
  }

  checkInvariants(): void {
    for (const [fid, entries] of this.#files) {
      assert(entries.length > 0, `file ${fid} is known, and nothing of it is locked`);
      entries.forEach(({ start, end, grant }, index) => {
        const isBlocked = entries.slice(0, index).some((other) => other.start < end && start < other.end);
        assert(isBlocked === (grant !== undefined), `[${start}, ${end}) of ${fid} waits: ${!isBlocked}`);
      });
    }
  }
}
