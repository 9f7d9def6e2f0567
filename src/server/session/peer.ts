/**
 * Which connections a server trusts. There are no keys yet, so the server can only go by the source port: a port below
 * 1024 says that root of some host (or a process with CAP_NET_BIND_SERVICE) has made the connection, as for NFS.
 */

import { FsError } from '../../base/errno.js';
import { type Origin, PRIVILEGED_PORTS_END } from '../../runtime/ports.js';
import { shortUuid } from '../export/export.js';

function isPrivileged({ proof, port }: Origin): boolean {
  return proof.kind === 'local' ? proof.trusted : port < PRIVILEGED_PORTS_END;
}

/** @throws FsError EACCES, unless the connection comes from a privileged port or any port is allowed. */
export function checkOrigin(origin: Origin, anyPort: boolean): void {
  if (anyPort || isPrivileged(origin)) return;
  throw new FsError(
    'EACCES',
    `only root may connect (source port ${origin.port} is not below ${PRIVILEGED_PORTS_END}): ` +
      'run the command as root, or start the server with --any-port',
  );
}

/** Whether the peer is root of the server's own host. */
export function isLocalRoot(origin: Origin): boolean {
  return origin.sameHost && isPrivileged(origin);
}

/** A client's UUID as the server shows it to the peer at `origin`: the whole UUID only to root of this host. */
export function shownUuid(origin: Origin, uuid: string): string {
  return isLocalRoot(origin) ? uuid : shortUuid(uuid);
}

/** Compares in a time that does not depend on where two texts of one length differ. */
export function isSameSecret(held: string, said: string | undefined): boolean {
  if (said === undefined || said.length !== held.length) return false;
  let difference = 0;
  for (let at = 0; at < held.length; at++) difference |= held.charCodeAt(at) ^ said.charCodeAt(at);
  return difference === 0;
}
