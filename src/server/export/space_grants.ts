/**
 * Space promised to clients: a write that a client cached under a grant finds its blocks when the client flushes it.
 *
 * Units are bytes of whole 4 KiB blocks. A client pays for each block that it dirties, since it does not know which of
 * them the file has. If a write comes without payment, the server charges only for the blocks that it adds to the file.
 * Grants are generous while there is plenty of space. They dry up when the free space less the promised space gets
 * small: then a client without a grant writes through, and gets its ENOSPC from write(2) itself. The server takes
 * nothing back from a client that does not write; so no single grant may be a large part of the remaining space.
 *
 * A change takes its blocks long after it was let in: it waits for its turn and reads parts of blocks first. Until it has
 * them, it has a claim, so nobody else is let in on the same space.
 *
 * Invariants: promisedBytes is the sum of the clients' grants. A client that is gone has none. claimedBytes is what the
 * claims have left.
 */

import { assert } from '../../base/assert.js';
import { Deferred } from '../../base/wait.js';
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

/** Space that a change may take and has not taken yet. The change ends it. */
export class Claim {
  readonly #changed: (bytes: number) => void;
  readonly #over: (claim: Claim) => void;
  #leftBytes = 0;
  #isRunning = false;
  /** Made when somebody waits. */
  #ended: Deferred<void> | undefined;

  /**
   * @param changed hears by how much the claim grows, or shrinks (below 0).
   * @param over called at its end.
   */
  constructor(changed: (bytes: number) => void, over: (claim: Claim) => void) {
    this.#changed = changed;
    this.#over = over;
  }

  get leftBytes(): number {
    return this.#leftBytes;
  }

  /** The change ends without a wait for others. */
  get isRunning(): boolean {
    return this.#isRunning;
  }

  /** Resolves at its end. */
  get ended(): Promise<void> {
    this.#ended ??= new Deferred<void>();
    return this.#ended.promise;
  }

  grow(bytes: number): void {
    this.#leftBytes += bytes;
    this.#changed(bytes);
  }

  /** The change is let in with so many bytes more. */
  run(bytes: number): void {
    this.grow(bytes);
    this.#isRunning = true;
  }

  /** The change has got so many bytes. */
  readonly took = (bytes: number): void => this.grow(-Math.min(bytes, this.#leftBytes));

  end(): void {
    this.took(this.#leftBytes);
    this.#over(this);
    this.#ended?.resolve();
  }
}

export class SpaceGrants {
  readonly #availableBytes: () => number;
  readonly #clients: () => number;
  readonly #refuses: () => boolean;
  #promisedBytes = 0;
  #claimedBytes = 0;
  readonly #claims = new Set<Claim>();
  readonly #claimChanged = (bytes: number): void => {
    this.#claimedBytes += bytes;
  };
  readonly #claimOver = (claim: Claim): void => void this.#claims.delete(claim);

  constructor(availableBytes: () => number, clients: () => number, refuses: () => boolean = () => false) {
    this.#availableBytes = availableBytes;
    this.#clients = clients;
    this.#refuses = refuses;
  }

  get promisedBytes(): number {
    return this.#promisedBytes;
  }

  get #unpromisedBytes(): number {
    return this.#availableBytes() - this.#promisedBytes - this.#claimedBytes;
  }

  /** @param paidBytes what spend() took for this change: other changes must not get it meanwhile. */
  claim(paidBytes: number): Claim {
    const claim = new Claim(this.#claimChanged, this.#claimOver);
    this.#claims.add(claim);
    claim.grow(paidBytes);
    return claim;
  }

  /** Resolves when the changes that run now have ended: some take less than they claim. */
  async runningEnd(): Promise<void> {
    const running = [...this.#claims].filter(({ isRunning }) => isRunning);
    await Promise.all(running.map(({ ended }) => ended));
  }

  /** Fills the client's grant up if half of it is used. @returns the bytes added. */
  refill(client: ClientExport): number {
    // The last WRITE of a client that is gone may come here: nobody would ever take its grant back.
    if (client.life.isOverAlone || this.#refuses()) return 0;
    const available = this.#availableBytes();
    const free = available - available * UNPROMISED_SHARE - this.#promisedBytes - this.#claimedBytes;
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
    let claimed = 0;
    for (const { leftBytes } of this.#claims) claimed += leftBytes;
    assert(claimed === this.#claimedBytes, `changes claim ${claimed} bytes, counted ${this.#claimedBytes}`);
  }
}
