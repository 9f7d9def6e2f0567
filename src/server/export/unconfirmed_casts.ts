/**
 * CASTs that the client may not have got. A CAST is a notice, so the client does not answer it. But the connection
 * keeps the order: if the client acknowledges a reply that left after the CAST, the CAST arrived. The server sends
 * CASTs without such a proof again through the next connection; if a CAST were lost, a process that waits for the lock
 * would wait for ever.
 */

import type { LockHandle, Xid } from '../../base/ids.js';

export interface CastNotice {
  readonly handle: LockHandle;
  readonly errno?: number | undefined;
}

interface Unconfirmed extends CastNotice {
  /** The first reply that left after the CAST through this connection. */
  proof: number | undefined;
}

export class UnconfirmedCasts {
  #casts: Unconfirmed[] = [];

  add(cast: CastNotice): void {
    this.#casts.push({ ...cast, proof: undefined });
  }

  /** Call it when a reply leaves. */
  replied(xid: Xid): void {
    for (const cast of this.#casts) cast.proof ??= xid;
  }

  /** Every reply to an xid below this has arrived. */
  acknowledge(below: number): void {
    if (this.#casts.length === 0) return;
    this.#casts = this.#casts.filter((cast) => cast.proof === undefined || cast.proof >= below);
  }

  /** A new connection: the CASTs that the server must send again. */
  again(): readonly CastNotice[] {
    for (const cast of this.#casts) cast.proof = undefined;
    return this.#casts;
  }
}
