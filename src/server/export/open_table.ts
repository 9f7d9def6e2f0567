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

/** A limit against a peer that only opens. It is far above a machine's own limit on descriptors. */
const OPENS_MAX = 1 << 20;
/** __O_TMPFILE of open(2): such an inode may still get its first name by linkat(2). */
export const O_TMPFILE_BIT = 0o20000000;

export class OpenTable {
  readonly #counts = new Map<Fid, number>();

  count(fid: Fid): number {
    return this.#counts.get(fid) ?? 0;
  }

  /**
   * Idempotent for the same fh and inode: clients replay and resend opens.
   * @throws FsError EPROTO if the handle is in use for another inode, EMFILE past the limit, ESHUTDOWN if the client
   *   was evicted.
   */
  add(client: ClientExport, fh: Fh, fid: Fid, flags: number): void {
    client.life.check();
    const known = client.opens.get(fh);
    if (known !== undefined) {
      if (known.fid !== fid) throw new FsError('EPROTO', `handle ${fh} is in use for another inode`);
      return;
    }
    if (client.opens.size >= OPENS_MAX) throw new FsError('EMFILE', `${OPENS_MAX} open handles`);
    const handle = { fid, flags };
    client.opens.set(fh, handle);
    client.handleAccess?.add(handle);
    this.#counts.set(fid, this.count(fid) + 1);
  }

  /** @returns the inode, if this was its last handle. Ignores unknown handles. */
  remove(client: ClientExport, fh: Fh): Fid | undefined {
    const known = client.opens.get(fh);
    if (known === undefined) return undefined;
    client.opens.delete(fh);
    client.handleAccess?.remove(known);
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
    for (const { opens } of clients) {
      for (const { fid } of opens.values()) counts.set(fid, (counts.get(fid) ?? 0) + 1);
    }
    for (const [fid, count] of counts) {
      const counted = this.count(fid);
      assert(
        hasMore ? counted >= count : counted === count,
        `${count} handles on ${fid}, counted ${counted}`,
      );
    }
    const { size } = this.#counts;
    assert(hasMore || size === counts.size, `${counts.size} inodes are open, ${size} are counted`);
  }
}
