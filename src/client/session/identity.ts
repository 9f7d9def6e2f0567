/** The identity of a client towards its targets. It is made once. A process that takes the client over keeps it. */

import type { ClientUuid, Xid } from '../../base/ids.js';
import type { Rng } from '../../runtime/ports.js';
import type { ClientStateMessage } from '../../wire/mount_state.js';

export interface ClientIdentity {
  readonly uuid: ClientUuid;
  /** Proves to a target that this is the client with that UUID. */
  readonly secret: string;
  /** Number of connections that were made under this UUID. */
  readonly connCount: number;
  readonly nextXid: Xid;
  /** The server instance with which the client has an export; undefined: none. */
  readonly instance: number | undefined;
}

/** Of a client that another process was until now. */
export function identityOf(state: ClientStateMessage): ClientIdentity {
  const { uuid, secret, connCount, nextXid, instance } = state;
  return { uuid, secret, connCount, nextXid, instance };
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
