/**
 * Commit on sharing: what operations have changed and no commit has made durable yet, by resource and client.
 *
 * Whoever reads or changes what another client has changed must not be answered before that change is durable: else the
 * loss of that client in a crash (nobody replays its operations) would take away what others have built on. So a change
 * stays on its resource as if its client still held it, and a lock of another client that meets it asks for a commit and
 * waits (resource.ts). Locks of the same client pass over it: nothing is paid while nothing is shared.
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

  /** An operation of the client has changed what these bits of the resource cover. */
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
    // Of two clients only in recovery: replays wait for no commit, they are executed as they were the first time.
    if (change.client !== client) change.client = NOBODY;
    change.bits |= bits;
    if (transno !== change.transno) change.several = true;
    change.transno = transno;
    change.asked = false;
    change.lastMs = nowMs;
  }

  /** All up to this transno is durable. @returns the resources without a change now; the caller settles them. */
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

  /** A client of the same name that comes later is another one: it may not build on these changes either. */
  disown(client: ClientUuid): void {
    for (const { change } of this.#changed) if (change?.client === client) change.client = NOBODY;
  }

  /** Something uncommitted was changed by another client. */
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
