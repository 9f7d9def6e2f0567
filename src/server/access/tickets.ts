/**
 * Tickets: what a session may do with a file by a handle, in a form that the client can show to the next instance. A server forgets
 * its handles when it ends, and a client says what it had (REPLAY_OPENS, REPLAY_LOCKS, replays of WRITEs). It is believed of a client
 * whose users the server does not check. A squashed client gets a ticket with each handle, and shows it first (REPLAY_TICKETS).
 *
 * A ticket is a MAC with a secret of the target, so both servers of a pair know it. It stands for the client, its entry of the access
 * table, the inode and the access. FIDs are never used twice. A client that keeps a ticket after it has closed the file gains what
 * it would have had by keeping the file open. A new entry, also one of an old name, makes its clients' old tickets void.
 */

import { assert } from '../../base/assert.js';
import type { ClientUuid, Fid } from '../../base/ids.js';
import type { Mac } from '../../runtime/ports.js';
import { TICKET_BYTES } from '../../wire/session.js';

/** Whose ticket it is. */
export interface TicketHolder {
  readonly uuid: ClientUuid;
  readonly rights: { readonly principal: string; readonly sinceMs?: number | undefined };
}

/** @param secret of the target. @param access ACCESS_* bits. */
export function ticketFor(
  mac: Mac,
  secret: Uint8Array,
  { uuid, rights }: TicketHolder,
  fid: Fid,
  access: number,
): Buffer {
  const { principal, sinceMs = 0 } = rights;
  // The lengths of its parts are fixed but for the last: no two tickets are over the same bytes.
  const said = Buffer.alloc(LABEL.length + 16 + 8 + 8 + 1 + principal.length);
  let at = said.write(LABEL, 0, 'latin1');
  at += said.write(uuid.replaceAll('-', ''), at, 16, 'hex');
  at = said.writeBigUInt64LE(BigInt(sinceMs), at);
  at = said.writeBigUInt64LE(BigInt(fid), at);
  at = said.writeUInt8(access, at);
  at += said.write(principal, at, 'latin1');
  assert(at === said.length, 'a ticket has all its parts');
  return Buffer.from(mac.hmacSha256(secret, said).subarray(0, TICKET_BYTES));
}

const LABEL = 'holdfast ticket 1';

/** Takes as long whatever they are. */
export function isSameTicket(one: Uint8Array, other: Uint8Array): boolean {
  if (one.length !== other.length) return false;
  let difference = 0;
  for (let at = 0; at < one.length; at++) difference |= (one[at] ?? 0) ^ (other[at] ?? 0);
  return difference === 0;
}
