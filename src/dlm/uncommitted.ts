/**
 * Commit on sharing: the changes that operations have made and no commit has made durable yet, by resource and client.
 *
 * If a client reads or changes what another client has changed, the server must not answer it before that change is
 * durable. Otherwise a crash in which the other client is lost too (nobody replays its operations) would undo what this
 * client has built on. So a change stays on its resource as if its client still held a lock there. A lock of another
 * client that meets the change asks for a commit and waits (resource.ts). Locks of the same client ignore it: what is
 * not shared costs nothing.
 *
 * Invariant: the set holds exactly the resources that have a change.
 */

import { assert } from '../base/assert.js';
import type { ClientUuid, Transno } from '../base/ids.js';
import { NOBODY, type Resource } from './resource.js';

export class UncommittedChanges {
  readonly #changed = new Set<Resource>();

  /** Resources with uncommitted changes. */
  get size(): number {
    return this.#changed.size;
  }

  /** Notes that an operation of the client has changed what these bits of the resource cover. */
  add(resource: Resource, client: ClientUuid, bits: number, transno: Transno, nowMs: number): void {
    const { change } = resource;
    if (change === undefined) {
      resource.change = {
        client,
        bits,
        transno,
        asked: false,
        several: false,
        sinceMs: nowMs,
        lastMs: nowMs,
      };
      this.#changed.add(resource);
      return;
    }
    // Changes of two clients meet only in recovery: replays wait for no commit, the server executes them as it did the
    // first time.
    if (change.client !== client) change.client = NOBODY;
    change.bits |= bits;
    if (transno !== change.transno) change.several = true;
    change.transno = transno;
    change.asked = false;
    change.lastMs = nowMs;
  }

  /** All changes up to this transno are durable. @returns the resources without a change now; the caller settles them. */
  committed(transno: Transno): readonly Resource[] {
    const settled: Resource[] = [];
    for (const resource of this.#changed) {
      if (resource.change !== undefined && resource.change.transno > transno) continue;
      resource.change = undefined;
      this.#changed.delete(resource);
      settled.push(resource);
    }
    return settled;
  }

  /** The client is gone. A later client of the same name is a different one, and may not build on these changes either. */
  disown(client: ClientUuid): void {
    for (const { change } of this.#changed) if (change?.client === client) change.client = NOBODY;
  }

  /** Whether another client has made a change that is uncommitted. */
  ofOthers(client: ClientUuid): boolean {
    for (const { change } of this.#changed) if (change?.client !== client) return true;
    return false;
  }

  checkInvariants(): void {
    for (const { change, type, fid } of this.#changed) {
      assert(change !== undefined, `${type} ${fid} is said to be changed, and is not`);
    }
  }
}
