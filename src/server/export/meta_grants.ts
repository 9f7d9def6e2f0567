/**
 * Room on the meta device that the server has promised to clients: a client executes operations on names by itself and
 * sends them later (BATCH), and the server must find room for each of them then.
 *
 * Units are bytes as operationCost() counts them (wire/batch.ts). A client pays each operation from its grant when it
 * executes it; a client without a grant asks the server instead, and gets its ENOSPC from there. The store keeps what is
 * promised from all others (MetaRoom). The server takes nothing back from a client that sends nothing; so no single grant
 * may be a large part of the remaining room.
 *
 * Invariants: promisedBytes is the sum of the clients' grants, and the store knows it. A client that is gone has none.
 */

import { assert } from '../../base/assert.js';
import type { MetaRoom } from '../../storage/api.js';
import { operationCost } from '../../wire/batch.js';
import { FEATURE } from '../../wire/session.js';
import type { ClientExport } from './export.js';

const CLIENT_MAX_BYTES = 4 << 20;
/** A smaller grant is not worth its accounting. */
const CLIENT_MIN_BYTES = 16 * operationCost(0, 0);
/** One client gets at most this part of the remaining room. */
const CLIENT_SHARE = 1 / 4;

export class MetaGrants {
  readonly #room: MetaRoom;
  readonly #clients: () => number;
  #promisedBytes = 0;

  /** @param clients the number of clients that may ask for a grant. */
  constructor(room: MetaRoom, clients: () => number) {
    this.#room = room;
    this.#clients = clients;
  }

  get promisedBytes(): number {
    return this.#promisedBytes;
  }

  /** Fills the client's grant up if half of it is used. @returns the bytes added. */
  refill(client: ClientExport): number {
    if (client.life.isOverAlone || (client.features & FEATURE.batch) === 0) return 0;
    const share = (this.#room.promisableBytes() * CLIENT_SHARE) / Math.max(1, this.#clients() / 4);
    const target = Math.min(CLIENT_MAX_BYTES, share);
    if (target < CLIENT_MIN_BYTES || client.metaGrantBytes > target / 2) return 0;
    const added = Math.floor(target - client.metaGrantBytes);
    this.#change(client, added);
    return added;
  }

  /** For a client that comes back after a restart: promises again what it was promised before and has used. */
  promiseAgain(client: ClientExport, usedBytes: number): void {
    this.drop(client);
    this.#change(client, Math.min(usedBytes, CLIENT_MAX_BYTES));
  }

  /** The server executes what the client pays from its grant. @returns the bytes that it had really promised to the client. */
  spend(client: ClientExport, usedBytes: number): number {
    const spent = Math.min(usedBytes, client.metaGrantBytes);
    this.#change(client, -spent);
    return spent;
  }

  drop(client: ClientExport): void {
    this.spend(client, client.metaGrantBytes);
  }

  #change(client: ClientExport, bytes: number): void {
    client.metaGrantBytes += bytes;
    this.#promisedBytes += bytes;
    this.#room.promise(bytes);
  }

  /** @param clients all exports. */
  checkInvariants(clients: Iterable<ClientExport>): void {
    let promised = 0;
    for (const { metaGrantBytes } of clients) promised += metaGrantBytes;
    const counted = this.#promisedBytes;
    assert(promised === counted, `clients have ${promised} bytes of meta grants, counted ${counted}`);
  }
}
