/**
 * Which connections a server takes, and what they may do: the one place that decides it.
 *
 * - Root of this host through a Unix socket (the kernel says who the peer is) may do everything. Other users of this host may not
 *   connect.
 * - Through TCP a peer has to prove by TLS that it has a key or a certificate of the access table.
 * - Without TLS the server takes connections only if its administrator says so (--tls=off), from the networks that he names and
 *   from privileged source ports: root of some host there has made them. Nothing is proved so. Of a connection of this host the
 *   kernel says whose it is, and only root's is taken, from whatever port.
 */

import { type AddressRange, isIn } from '../../base/address_range.js';
import { FsError } from '../../base/errno.js';
import { type Origin, PRIVILEGED_PORTS_END } from '../../runtime/ports.js';
import type { AccessRecord } from '../../storage/api.js';
import type { AccessTable } from './access_table.js';
import { LOCAL, PLAIN, type Rights, rightsOf } from './rights.js';

/** What --tls=off allows. */
export interface PlainAccess {
  readonly from: readonly AddressRange[];
}

/**
 * @param as the entry of the table that a peer of this host wants to count as: one that comes over the network at other times.
 * @param table undefined: this server has no target yet. It tells everybody to wait.
 * @throws FsError EACCES with a line that says what to do.
 */
export function rightsOfPeer(
  origin: Origin,
  as: string | undefined,
  table: AccessTable | undefined,
  plain: PlainAccess | undefined,
): Rights {
  const { proof } = origin;
  switch (proof.kind) {
    case 'local':
      if (!proof.trusted)
        throw refusal(`user ${proof.uid} of this host may not connect; run the command as root`);
      return as === undefined || table === undefined ? LOCAL : rightsOf(entryFor(as, table));
    case 'key': {
      const found = table?.withKey(proof.identity);
      if (found === undefined) throw refusal(`key ${proof.identity} is not valid any more`);
      return from(origin, found.entry, table, proof.identity);
    }
    case 'certificate': {
      const entry = table?.certified(proof.names);
      if (entry === undefined) {
        const names = proof.names.join(', ');
        throw refusal(
          `no entry of the access table has a name of this certificate (${names}): holdfast access add --cert NAME`,
        );
      }
      return from(origin, entry, table);
    }
    case 'none':
      checkPlain(origin, plain);
      // The kernel's word is worth as much as for a Unix socket: a client may come both ways.
      return origin.sameHost ? LOCAL : PLAIN;
  }
}

function refusal(text: string): FsError {
  return new FsError('EACCES', text);
}

function entryFor(name: string, table: AccessTable): AccessRecord {
  const entry = table.named(name);
  if (entry !== undefined) return entry;
  throw refusal(
    `nobody is called ${name} in the access table: the key file is of another filesystem, or its key was removed`,
  );
}

function from(origin: Origin, entry: AccessRecord, table: AccessTable | undefined, keyId?: string): Rights {
  if (entry.from.length > 0 && !isIn(table?.rangesOf(entry) ?? [], origin.address)) {
    throw refusal(
      `${entry.name} may not connect from ${origin.address ?? 'here'} (holdfast access list shows from where)`,
    );
  }
  return rightsOf(entry, keyId);
}

function checkPlain(origin: Origin, plain: PlainAccess | undefined): void {
  if (plain === undefined) {
    throw refusal(
      'this server takes no connection over the network without a key: make one with "holdfast access add NAME" there, ' +
        'and mount with -o key=FILE; a release that knows no keys needs a server with --tls=off',
    );
  }
  if (!isIn(plain.from, origin.address)) {
    throw refusal(`${origin.address} is in no network of --from, and has shown no key`);
  }
  if (origin.sameHost) {
    if (origin.isOwners?.() === true) return;
    throw refusal('only root of this host may connect from it: run the command as root');
  }
  if (origin.port < PRIVILEGED_PORTS_END) return;
  throw refusal(
    `only root may connect (source port ${origin.port} is not below ${PRIVILEGED_PORTS_END}): run the command as root`,
  );
}
