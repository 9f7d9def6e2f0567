/**
 * Open handles of all clients, counted for each inode. The counts decide whether an unlinked inode lives on as an
 * orphan.
 *
 * Invariant: count(fid) is the number of handles on fid over all exports. Only this class adds to or takes from
 * ClientExport.opens.
 */

import { assert } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import type { Fh, Fid } from '../../base/ids.js';
import type { ClientExport } from './export.js';

/** Of a client without a limit of its own. It is far above a machine's own limit on descriptors. */
export const OPENS_MAX = 1_000_000;
/** Of all clients: about 1.2 GiB, see docs/OPERATIONS.md. */
export const ALL_OPENS_MAX = 8_000_000;
/**
 * __O_TMPFILE of open(2), in the flags of a handle: such an inode may still get its first name by linkat(2). Only the handle with
 * which an inode without a name was made has it, whatever a client asks.
 */
export const O_TMPFILE_BIT = 0o20000000;

/** @param isNameless the inode is made without a name. */
export function handleFlags(flags: number, isNameless: boolean): number {
  return isNameless ? flags | O_TMPFILE_BIT : flags & ~O_TMPFILE_BIT;
}

export class OpenTable {
  readonly #counts = new Map<Fid, number>();
  /** Handles of all clients, and how many there may be. */
  #handles = 0;
  readonly #handlesMax: number;

  constructor(handlesMax = ALL_OPENS_MAX) {
    this.#handlesMax = handlesMax;
  }

  /** Handles of all clients. */
  get handles(): number {
    return this.#handles;
  }

  count(fid: Fid): number {
    return this.#counts.get(fid) ?? 0;
  }

  /**
   * Whether the client may open one more. Look before anything happens that cannot be undone.
   * @throws FsError ENFILE: of a whole mount, not of one process, there are too many open files (open(2)).
   */
  checkRoom(client: ClientExport, fh: Fh): void {
    if (client.opens.has(fh)) return;
    const limit = Math.min(client.rights.limits.opens ?? OPENS_MAX, OPENS_MAX);
    if (client.opens.size >= limit) throw new FsError('ENFILE', `the client has ${limit} open files`);
    if (this.#handles >= this.#handlesMax)
      throw new FsError('ENFILE', 'all clients together have too many open files');
  }

  /**
   * Idempotent for the same fh and inode: clients resend opens.
   * @throws FsError EPROTO if the handle is in use for another inode, ENFILE past a limit, ESHUTDOWN if the client
   *   was evicted.
   */
  add(client: ClientExport, fh: Fh, fid: Fid, flags: number): void {
    this.checkRoom(client, fh);
    this.addAgain(client, fh, fid, flags);
  }

  /**
   * A handle that a program has already: no limit of the client counts. Idempotent.
   * @throws FsError EPROTO, ESHUTDOWN as add(); ENFILE only far beyond what a client that keeps the rules can have.
   */
  addAgain(client: ClientExport, fh: Fh, fid: Fid, flags: number): void {
    client.life.check();
    const known = client.opens.get(fh);
    if (known !== undefined) {
      if (known.fid !== fid) throw new FsError('EPROTO', `handle ${fh} is in use for another inode`);
      return;
    }
    if (client.opens.size >= 2 * OPENS_MAX) throw new FsError('ENFILE', `${2 * OPENS_MAX} open files`);
    const handle = { fid, flags };
    client.opens.set(fh, handle);
    client.handleAccess?.add(handle);
    this.#handles += 1;
    this.#counts.set(fid, this.count(fid) + 1);
  }

  /** @returns the inode, if this was its last handle. Ignores unknown handles. */
  remove(client: ClientExport, fh: Fh): Fid | undefined {
    const known = client.opens.get(fh);
    if (known === undefined) return undefined;
    client.opens.delete(fh);
    client.handleAccess?.remove(known);
    this.#handles -= 1;
    const left = this.count(known.fid) - 1;
    if (left > 0) {
      this.#counts.set(known.fid, left);
      return undefined;
    }
    this.#counts.delete(known.fid);
    return known.fid;
  }

  /** @returns the inodes that nobody has open now. */
  removeAll(client: ClientExport): Fid[] {
    const unused: Fid[] = [];
    for (const fh of [...client.opens.keys()]) {
      const fid = this.remove(client, fh);
      if (fid !== undefined) unused.push(fid);
    }
    return unused;
  }

  /**
   * @param clients all exports.
   * @param hasMore leaving clients are not among `clients`, but their handles are still counted.
   */
  checkInvariants(clients: Iterable<ClientExport>, hasMore: boolean): void {
    const counts = new Map<Fid, number>();
    let handles = 0;
    for (const { opens } of clients) {
      handles += opens.size;
      for (const { fid } of opens.values()) counts.set(fid, (counts.get(fid) ?? 0) + 1);
    }
    for (const [fid, count] of counts) {
      const counted = this.count(fid);
      assert(
        hasMore ? counted >= count : counted === count,
        `${count} handles on ${fid}, counted ${counted}`,
      );
    }
    assert(hasMore || handles === this.#handles, `${handles} handles, counted ${this.#handles}`);
    const { size } = this.#counts;
    assert(hasMore || size === counts.size, `${counts.size} inodes are open, ${size} are counted`);
  }
}
