/** The identity of a client towards its targets. It is made once. A process that takes the client over keeps it. */

import type { ClientUuid, Xid } from '../../base/ids.js';
import type { Rng } from '../../runtime/ports.js';
import type { Predecessor } from '../api.js';

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

/** More connections than a client tries to make between two that succeed. */
const TRIED_MAX = 10_000_000;

/** Of a client that another process was until now. */
export function identityAfter(predecessor: Predecessor): ClientIdentity {
  if (predecessor.kind === 'handed over') {
    const { uuid, secret, connCount, nextXid, instance } = predecessor.state;
    return { uuid, secret, connCount, nextXid, instance };
  }
  // The server ends the session of a client that says it has none, and begins a new one.
  const { uuid, secret, connCount } = predecessor.client;
  return { uuid, secret, connCount: connCount + TRIED_MAX, nextXid: 1 as Xid, instance: undefined };
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
