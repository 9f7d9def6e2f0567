/**
 * What becomes of an inode that has neither a name nor a handle any more. A local filesystem keeps it while the kernel refers
 * to it: a path walk has found it and its call is still to come, an O_PATH descriptor, a current directory. Here that may be the
 * kernel of any client. So the inode stays an orphan for a moment, all clients are asked about many inodes at once (NAMELESS),
 * and a client whose kernel refers to one *holds* it until it says that its kernel has forgotten it (CLOSE). An inode that no
 * client holds is destroyed, and clients with cache locks on it are told (GONE).
 *
 * - Nothing is recorded but the orphan. After a restart the clients are asked again about every orphan that nobody has opened:
 *   holds need no replay, and a client that is evicted has none.
 * - A client that does not refer to an inode without a name cannot come to refer to it. A client counts a reference before the kernel has it,
 *   and LOOKUP replies and NAMELESS come to it in order. So each client is asked once for each time an inode loses its last use.
 * - Space that only holds keep from being free is free as soon as somebody needs it: ENOSPC never comes from a hold. Then the
 *   kernel's late call fails with ESTALE.
 * - A client from before FEATURE.holds is not asked. Without any other client an inode is destroyed at once.
 *
 * Invariant: who holds an inode is in the table of exports, and the client's own list of holds says the same.
 */

import { assert } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import type { ClientUuid, Fid } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import type { LockServerApi } from '../../dlm/api.js';
import type { Reader } from '../../storage/api.js';
import { Gone, NAMELESS_MAX, Nameless } from '../../wire/lock.js';
import { FEATURE } from '../../wire/session.js';
import type { ClientExport } from '../export/export.js';
import type { ExportTable } from '../export/exports.js';
import { destroyInSteps, type TargetInodes } from './orphans.js';

const log = logger('server:holds');

/** Questions collect for so long: one message for many inodes, and a kernel that lets go of one has done so by then. */
const COLLECT_MS = 10;
/** With less free space than this part of the device, and less than these bytes, nothing is held. */
const SCARCE_SHARE = 1 / 16;
const SCARCE_BYTES = 1 << 30;
/** The same for the meta device, in inodes that it has room for. */
const SCARCE_INODES = 1024;

/** What it needs of its target. */
export interface HoldingTarget extends TargetInodes {
  readonly exports: ExportTable;
  readonly locks: LockServerApi;
  readonly leaving: ReadonlyMap<ClientUuid, unknown>;
}

export class Holds {
  readonly #target: HoldingTarget;
  readonly #held = new Map<Fid, Set<ClientExport>>();
  /** To be asked about. */
  #nameless = new Set<Fid>();
  /** Asked about; some answer is missing. */
  readonly #asked = new Set<Fid>();
  /** Destroyed; clients with cache locks on them are still to be told. */
  #gone: Fid[] = [];
  #collecting = false;

  constructor(target: HoldingTarget) {
    this.#target = target;
  }

  /** @returns whether the clients are asked about it. If not, the caller destroys it now. */
  asks(fid: Fid): boolean {
    if (this.#hasNobody) return false;
    // Space is looked at once for each question: a removal of a tree takes thousands of names away.
    if (this.#nameless.size === 0 && this.#isScarce) return false;
    this.#nameless.add(fid);
    this.#collect();
    return true;
  }

  /** Nobody has it open. @returns whether the kernel of some client refers to it all the same. */
  isHeld(fid: Fid): boolean {
    return this.#held.has(fid);
  }

  /** The client's kernel has forgotten them. @returns those that nobody holds any more. */
  release(client: ClientExport, fids: Iterable<Fid>): Fid[] {
    const free: Fid[] = [];
    for (const fid of [...fids]) {
      if (!client.holds.delete(fid)) continue;
      const holders = this.#held.get(fid);
      holders?.delete(client);
      if (holders?.size !== 0) continue;
      this.#held.delete(fid);
      free.push(fid);
    }
    return free;
  }

  /** Inside the change that destroys it: clients with cache locks on it are told when that has happened. */
  destroyed(fid: Fid): void {
    if (this.#hasNobody) return;
    this.#gone.push(fid);
    this.#collect();
  }

  /** Room for so many bytes is needed, beside what is always left. */
  makeRoom(bytes: number): void {
    if (this.#isEmpty || this.#target.store.availableBytes() - bytes >= this.#scarceBytes) return;
    void this.letGo();
  }

  /**
   * Space is needed: all that nobody has open is destroyed, whatever a kernel may still refer to. Resolves when that is
   * done; the space is there with the next commit.
   */
  async letGo(): Promise<void> {
    if (this.#isEmpty || this.#target.recovering) return;
    const fids = [...this.#held.keys(), ...this.#nameless, ...this.#asked];
    this.#nameless = new Set();
    this.#asked.clear();
    for (const [fid, holders] of this.#held) for (const client of holders) client.holds.delete(fid);
    this.#held.clear();
    log('lets go of %d inodes for their space', fids.length);
    await this.#settle(fids);
  }

  /** The last client that could be asked has left. @returns what is destroyed without asking anybody. */
  unasked(): Fid[] {
    if (!this.#hasNobody) return [];
    const fids = [...this.#nameless];
    this.#nameless = new Set();
    return fids;
  }

  get #isEmpty(): boolean {
    return this.#held.size + this.#nameless.size + this.#asked.size === 0;
  }

  get #scarceBytes(): number {
    return scarceBytes(this.#target.store.statfs());
  }

  get #isScarce(): boolean {
    const space = this.#target.store.statfs();
    return space.blocksAvailable * space.blockBytes < scarceBytes(space) || space.inodesFree < SCARCE_INODES;
  }

  get #hasNobody(): boolean {
    for (const _ of this.#holders()) return false;
    return true;
  }

  /** Clients that can be asked. */
  *#holders(): Generator<ClientExport> {
    for (const client of this.#target.exports) if (canHold(client)) yield client;
  }

  #isUnused(fid: Fid, reader: Reader = this.#target.store): boolean {
    return reader.inode(fid)?.nlink === 0 && this.#target.opens.count(fid) === 0 && !this.#held.has(fid);
  }

  #collect(): void {
    if (this.#collecting) return;
    this.#collecting = true;
    this.#target.runtime.timers.after(COLLECT_MS, () => {
      this.#collecting = false;
      if (this.#target.life.isOver) return;
      this.#tellGone();
      const fids = [...this.#nameless].filter((fid) => this.#isUnused(fid));
      this.#nameless = new Set();
      for (let at = 0; at < fids.length; at += NAMELESS_MAX)
        void this.#ask(fids.slice(at, at + NAMELESS_MAX));
    });
  }

  /** Answers come when they come: a client that is away is waited for until it is back or evicted. */
  async #ask(fids: readonly Fid[]): Promise<void> {
    for (const fid of fids) this.#asked.add(fid);
    await Promise.all([...this.#holders()].map((client) => this.#askOne(client, fids)));
    await this.#settle(fids.filter((fid) => this.#asked.delete(fid)));
  }

  async #askOne(client: ClientExport, fids: readonly Fid[]): Promise<void> {
    try {
      await client.requester.call(
        Nameless,
        { fids },
        // In the order of frames: that its kernel has forgotten one may be the next thing it says.
        { apply: ({ reply }) => this.#hold(client, reply.held) },
      );
    } catch (error) {
      // Evicted, or gone: it holds nothing.
      if (!(error instanceof FsError)) throw error;
    }
  }

  #hold(client: ClientExport, fids: readonly Fid[]): void {
    if (client.life.isOver) return;
    for (const fid of fids) {
      // Let go of for its space meanwhile, or never asked about.
      if (!this.#asked.has(fid)) continue;
      client.holds.add(fid);
      const holders = this.#held.get(fid);
      if (holders === undefined) this.#held.set(fid, new Set([client]));
      else holders.add(client);
    }
  }

  /** Destroys those of them that nobody holds. */
  #settle(fids: readonly Fid[]): Promise<void> {
    return destroyInSteps(this.#target, fids, (unused) => unused.filter((fid) => this.#isUnused(fid)));
  }

  #tellGone(): void {
    const gone = this.#gone;
    this.#gone = [];
    const perClient = new Map<ClientExport, Fid[]>();
    for (const fid of gone) {
      // The change may have failed.
      if (this.#target.store.hasInode(fid)) continue;
      for (const uuid of this.#target.locks.clientsOn(fid)) {
        const client = this.#target.exports.get(uuid);
        if (client === undefined || !canHold(client)) continue;
        const fids = perClient.get(client);
        if (fids === undefined) perClient.set(client, [fid]);
        else fids.push(fid);
      }
    }
    for (const [client, fids] of perClient) {
      for (let at = 0; at < fids.length; at += NAMELESS_MAX) {
        client.requester.notify(Gone, { fids: fids.slice(at, at + NAMELESS_MAX) });
      }
    }
  }

  checkInvariants(): void {
    let held = 0;
    for (const [fid, holders] of this.#held) {
      assert(holders.size > 0, `inode ${fid} is held, and by nobody`);
      for (const client of holders) {
        assert(client.holds.has(fid), `client ${client.label} holds ${fid}, and does not know it`);
        assert(this.#isThere(client), `client ${client.label} is gone, and holds ${fid}`);
      }
      held += holders.size;
    }
    let known = 0;
    for (const { holds } of this.#target.exports) known += holds.size;
    // A client that leaves while its last writes end still holds what it held.
    assert(known <= held, `clients know of ${known} holds, ${held} are kept`);
    assert(this.#nameless.size + this.#gone.length === 0 || this.#collecting, 'nobody asks about inodes');
  }

  #isThere({ uuid }: ClientExport): boolean {
    return this.#target.exports.get(uuid) !== undefined || this.#target.leaving.has(uuid);
  }
}

function canHold({ features }: ClientExport): boolean {
  return (features & FEATURE.holds) !== 0;
}

function scarceBytes({
  blocks,
  blockBytes,
}: {
  readonly blocks: number;
  readonly blockBytes: number;
}): number {
  return Math.min(SCARCE_BYTES, blocks * blockBytes * SCARCE_SHARE);
}
