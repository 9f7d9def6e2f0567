/**
 * Decides the fate of an inode that has neither a name nor a handle any more. A local filesystem keeps it while the
 * kernel refers to it: a path walk has found it and its call is still to come, an O_PATH descriptor, a current
 * directory. Here that may be the kernel of any client. So the inode stays an orphan for a moment, and the server asks
 * all clients about many inodes at once (NAMELESS). A client whose kernel refers to one *holds* it until the client
 * says that its kernel has forgotten it (CLOSE). The server destroys an inode that no client holds, and tells the
 * clients with cache locks on it (GONE).
 *
 * - The target records only the orphan. After a restart the server asks the clients again about every orphan that
 *   nobody has opened. So holds need no replay, and an evicted client has none.
 * - A client that does not refer to an inode without a name cannot come to refer to it. A client counts a reference
 *   before the kernel has it, and LOOKUP replies and NAMELESS reach it in order. So the server asks each client once
 *   for each time an inode loses its last use.
 * - If only holds keep space in use, the server frees it as soon as somebody needs it: ENOSPC never comes from a hold.
 *   Then the kernel's late call fails with ESTALE.
 * - The server does not ask a client without FEATURE.holds. If there are only such clients, it destroys an inode at
 *   once.
 *
 * Invariant: a client that holds an inode is in the table of exports or is leaving, and its own list of holds names the
 * inode too.
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

/**
 * The server collects questions for this time: one message asks about many inodes, and a kernel that lets go of one has
 * done so by then.
 */
const COLLECT_MS = 10;
/**
 * If less free space than this part of the device, and less than these bytes, is left, the server lets clients hold
 * nothing.
 */
const SCARCE_SHARE = 1 / 16;
const SCARCE_BYTES = 1 << 30;
/** The same for the meta device, as the number of inodes that it has room for. */
const SCARCE_INODES = 1024;

/** What Holds needs of its target. */
export interface HoldingTarget extends TargetInodes {
  readonly exports: ExportTable;
  readonly locks: LockServerApi;
  readonly leaving: ReadonlyMap<ClientUuid, unknown>;
}

export class Holds {
  readonly #target: HoldingTarget;
  readonly #held = new Map<Fid, Set<ClientExport>>();
  /** Inodes that the server is going to ask about. */
  #nameless = new Set<Fid>();
  /** Inodes that the server has asked about; some answer is missing. */
  readonly #asked = new Set<Fid>();
  /** Destroyed inodes; the server still has to tell the clients with cache locks on them. */
  #gone: Fid[] = [];
  #collecting = false;

  constructor(target: HoldingTarget) {
    this.#target = target;
  }

  /** @returns whether the server asks the clients about the inode. If not, the caller destroys it now. */
  asks(fid: Fid): boolean {
    if (this.#hasNobody) return false;
    // Check the space once for each question: removing a tree takes thousands of names away.
    if (this.#nameless.size === 0 && this.#isScarce) return false;
    this.#nameless.add(fid);
    this.#collect();
    return true;
  }

  /** For an inode that nobody has open. @returns whether the kernel of some client refers to it all the same. */
  isHeld(fid: Fid): boolean {
    return this.#held.has(fid);
  }

  /** The client's kernel has forgotten these inodes. @returns those that nobody holds any more. */
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

  /**
   * Call it inside the change that destroys the inode; afterwards the server tells the clients with cache locks on it.
   */
  destroyed(fid: Fid): void {
    if (this.#hasNobody) return;
    this.#gone.push(fid);
    this.#collect();
  }

  /** Makes room for this many bytes, in addition to the space that is always kept free. */
  makeRoom(bytes: number): void {
    if (this.#isEmpty || this.#target.store.availableBytes() - bytes >= this.#scarceBytes) return;
    void this.letGo();
  }

  /**
   * Space is needed: destroys all inodes that nobody has open, even if a kernel refers to them. Resolves when that is
   * done; the space is free with the next commit.
   */
  async letGo(): Promise<void> {
    if (this.#isEmpty || this.#target.recovering) return;
    const fids = [...this.#held.keys(), ...this.#nameless, ...this.#asked];
    this.#nameless = new Set();
    this.#asked.clear();
    for (const [fid, holders] of this.#held) for (const client of holders) client.holds.delete(fid);
    this.#held.clear();
    log('destroys %d inodes that clients hold, for their space', fids.length);
    await this.#settle(fids);
  }

  /**
   * Call it when a client has left. @returns inodes to destroy without a question, if no client is left that the server
   * can ask.
   */
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

  /** Clients that the server can ask. */
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

  /** Waits for every answer: if a client is away, until it is back or evicted. */
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
        // Apply the reply in the order of frames: the client's next message may say that its kernel has forgotten one
        // of them.
        { apply: ({ reply }) => this.#hold(client, reply.held) },
      );
    } catch (error) {
      // The client was evicted, or is gone: it holds nothing.
      if (!(error instanceof FsError)) throw error;
    }
  }

  #hold(client: ClientExport, fids: readonly Fid[]): void {
    if (client.life.isOver) return;
    for (const fid of fids) {
      // The server let the inode go for its space meanwhile, or never asked about it.
      if (!this.#asked.has(fid)) continue;
      client.holds.add(fid);
      const holders = this.#held.get(fid);
      if (holders === undefined) this.#held.set(fid, new Set([client]));
      else holders.add(client);
    }
  }

  /** Destroys those of the inodes that nobody holds. */
  #settle(fids: readonly Fid[]): Promise<void> {
    return destroyInSteps(this.#target, fids, (unused) => unused.filter((fid) => this.#isUnused(fid)));
  }

  #tellGone(): void {
    const gone = this.#gone;
    this.#gone = [];
    const perClient = new Map<ClientExport, Fid[]>();
    for (const fid of gone) {
      // The inode is still there if the change failed.
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
