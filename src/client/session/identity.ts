/** Who a client is for its targets. It is made once, and a process that takes the client over goes on with it. */

import type { ClientUuid, Xid } from '../../base/ids.js';
import type { Rng } from '../../runtime/ports.js';

export interface ClientIdentity {
  readonly uuid: ClientUuid;
  /** Shows a target that this is the client whose UUID it names. */
  readonly secret: string;
  /** Connections that were made under this UUID. */
  readonly connCount: number;
  readonly nextXid: Xid;
  /** That the client has an export with; undefined: none. */
  readonly instance: number | undefined;
}

export function newIdentity(rng: Rng): ClientIdentity {
  return {
    uuid: rng.uuid() as ClientUuid,
    secret: rng.uuid(),
    connCount: 0,
    nextXid: 1 as Xid,
    instance: undefined,
  };
}
