/**
 * Space promised to clients: a write that a client cached under a grant finds its blocks when the client flushes it.
 *
 * Units are bytes of whole 4 KiB blocks. A client pays for each block that it dirties, since it does not know which of
 * them the file has. If a write comes without payment, the server charges only for the blocks that it adds to the file.
 * Grants are generous while there is plenty of space. They dry up when the free space less the promised space gets
 * small: then a client without a grant writes through, and gets its ENOSPC from write(2) itself. The server takes
 * nothing back from a client that does not write; so no single grant may be a large part of the remaining space.
 *
 * Invariant: promisedBytes is the sum of the clients' grants. A client that is gone has none.
 */

import { assert } from '../../base/assert.js';
import type { ClientExport } from './export.js';

export const BLOCK_BYTES = 4096;
const CLIENT_MAX_BYTES = 64 << 20;
/** A smaller grant is not worth its accounting. */
const CLIENT_MIN_BYTES = 1 << 20;
/**
 * Part of the space that is never promised: for metadata of the writes, and for blocks that wait for a commit before
 * they are free again.
 */
const UNPROMISED_SHARE = 1 / 32;
/** One client gets at most this part of the remaining space. */
const CLIENT_SHARE = 1 / 4;

export function blocksBytes(offset: number, length: number): number {
  if (length === 0) return 0;
  const first = Math.floor(offset / BLOCK_BYTES);
  const end = Math.ceil((offset + length) / BLOCK_BYTES);
  return (end - first) * BLOCK_BYTES;
}

export class SpaceGrants {
  readonly #availableBytes: () => number;
  readonly #clients: () => number;
  readonly #refuses: () => boolean;
  #promisedBytes = 0;

  constructor(availableBytes: () => number, clients: () => number, refuses: () => boolean = () => false) {
    this.#availableBytes = availableBytes;
    this.#clients = clients;
    this.#refuses = refuses;
  }

  get promisedBytes(): number {
    return this.#promisedBytes;
  }

  get #unpromisedBytes(): number {
    return this.#availableBytes() - this.#promisedBytes;
  }

  /** Fills the client's grant up if half of it is used. @returns the bytes added. */
  refill(client: ClientExport): number {
    // The last WRITE of a client that is gone may come here: nobody would ever take its grant back.
    if (client.life.isOverAlone || this.#refuses()) return 0;
    const available = this.#availableBytes();
    const free = available - available * UNPROMISED_SHARE - this.#promisedBytes;
    const share = (free * CLIENT_SHARE) / Math.max(1, this.#clients() / 4);
    const target = Math.min(CLIENT_MAX_BYTES, share);
    if (target < CLIENT_MIN_BYTES || client.grantBytes > target / 2) return 0;
    const added = Math.floor((target - client.grantBytes) / BLOCK_BYTES) * BLOCK_BYTES;
    client.grantBytes += added;
    this.#promisedBytes += added;
    return added;
  }

  /**
   * For a client that comes back after a restart. @returns the bytes that it was promised before and has used: they are
   * promised again.
   */
  promiseAgain(client: ClientExport, usedBytes: number): number {
    this.drop(client);
    const again = Math.min(usedBytes, CLIENT_MAX_BYTES);
    client.grantBytes += again;
    this.#promisedBytes += again;
    return again;
  }

  /**
   * A write arrived that the client pays from its grant. @returns the bytes that the server had really promised to the
   * client.
   */
  spend(client: ClientExport, usedBytes: number): number {
    const spent = Math.min(usedBytes, client.grantBytes);
    client.grantBytes -= spent;
    this.#promisedBytes -= spent;
    return spent;
  }

  /** Whether this many bytes may be used without breaking promises to other clients. */
  fitsUnpromised(bytes: number): boolean {
    return bytes <= this.#unpromisedBytes;
  }

  /**
   * Makes this many bytes fit beside the promised bytes, if need be from the part of its grant that the client offers.
   * @returns the bytes taken from the grant; undefined: the bytes do not fit even so.
   */
  makeFit(client: ClientExport, bytes: number, offeredBytes: number): number | undefined {
    const missing = bytes - this.#unpromisedBytes;
    if (missing <= 0) return 0;
    return missing <= Math.min(offeredBytes, client.grantBytes) ? this.spend(client, missing) : undefined;
  }

  drop(client: ClientExport): void {
    this.spend(client, client.grantBytes);
  }

  /** @param clients all exports. */
  checkInvariants(clients: Iterable<ClientExport>): void {
    let promised = 0;
    for (const { grantBytes } of clients) promised += grantBytes;
    const counted = this.#promisedBytes;
    assert(promised === counted, `clients have ${promised} bytes of grants, counted ${counted}`);
  }
}
