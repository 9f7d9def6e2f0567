/**
 * CASTs that the client may not have got. A CAST is a notice and is not answered, but the connection keeps its order: a
 * reply that left after it and was acknowledged proves that it arrived. Those without proof are sent again through the
 * next connection; a process that waits for a lock would wait for ever if its CAST were lost.
 */

import type { LockHandle, Xid } from '../../base/ids.js';

export interface CastNotice {
  readonly handle: LockHandle;
  readonly errno?: number | undefined;
}

interface Unconfirmed extends CastNotice {
  /** The first reply that left after it through this connection. */
  proof: number | undefined;
}

export class UnconfirmedCasts {
  #casts: Unconfirmed[] = [];

  add(cast: CastNotice): void {
    this.#casts.push({ ...cast, proof: undefined });
  }

  /** A reply leaves. */
  replied(xid: Xid): void {
    for (const cast of this.#casts) cast.proof ??= xid;
  }

  /** Every reply to an xid below this has arrived. */
  acknowledge(below: number): void {
    if (this.#casts.length === 0) return;
    this.#casts = this.#casts.filter((cast) => cast.proof === undefined || cast.proof >= below);
  }

  /** A new connection: all that must be said again. */
  again(): readonly CastNotice[] {
    for (const cast of this.#casts) cast.proof = undefined;
    return this.#casts;
  }
}
