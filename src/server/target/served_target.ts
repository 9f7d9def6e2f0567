/**
 * ServedTarget: the state of one served target in memory, shared by all code that handles requests. The server makes it
 * when it has opened the store for serving; it ends with the instance.
 */

import { assert } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import { type ClientUuid, FIRST_OBJECT, type Fid, objectOf, targetIndexOf } from '../../base/ids.js';
import { Lifetime } from '../../base/lifetime.js';
import type { NoticeKind } from '../../base/notices.js';
import { SlabPool } from '../../base/slab_pool.js';
import { CountDown } from '../../base/wait.js';
import type { LockServerApi, LockSpec } from '../../dlm/api.js';
import type { LimitTime, Runtime } from '../../runtime/ports.js';
import type { EvictionRecord, TargetStore } from '../../storage/api.js';
import { AccessTable } from '../access/access_table.js';
import { type TicketHolder, ticketFor } from '../access/tickets.js';
import type { ClientExport } from '../export/export.js';
import { ExportTable } from '../export/exports.js';
import { KeptFrames } from '../export/kept_frames.js';
import { MetaGrants } from '../export/meta_grants.js';
import { OpenTable } from '../export/open_table.js';
import { SpaceGrants } from '../export/space_grants.js';
import { UndrainedClients } from '../export/undrained_clients.js';
import { Holds } from './holds.js';
import { ReadsUnderWay } from './reads_under_way.js';

export interface ServedTargetOptions {
  readonly softwareVersion: string;
  /** If a client does not answer a BAST or a glimpse within this time, the server evicts it. */
  readonly lockTimeoutMs: number;
  readonly pingIntervalMs: number;
  /** The server evicts a client that has no connection for this time, even if nobody needs its locks. */
  readonly disconnectedMs: number;
  /** Cache locks and open files of all clients together. */
  readonly locksMax: number;
  readonly opensMax: number;
}

/** A client that is leaving. */
export interface Leaving {
  /** The server still executes the client's last writes: the client cannot connect before they have ended. */
  isWriting: boolean;
}

/**
 * Number of FIDs that a client gets at once. A target has 2^43 of them. Enough for thousands of creates between two
 * requests for a range.
 */
const FID_RANGE = 16_384;
const READ_SLABS = 32;
/** In one line of the log of slow operations. */
const HOLDERS_SHOWN_MAX = 3;

/** The server, as its target reports events to it. */
export interface TargetEvents {
  /** The server evicts a client, or the client says goodbye: the server executes nothing of it any more. */
  clientLeaves(uuid: ClientUuid): void;
  /** Comes after clientLeaves(): all state of the client is gone. */
  clientGone(uuid: ClientUuid): void;
  /** @param text one line for people. */
  clientEvicted(text: string): void;
  /** Reports other events that people must learn of. */
  says(kind: NoticeKind, text: string): void;
}

export class ServedTarget {
  readonly runtime: Runtime;
  /** Limits on clients are measured by this time. */
  readonly time: LimitTime;
  readonly store: TargetStore;
  readonly options: ServedTargetOptions;
  readonly locks: LockServerApi;
  readonly access: AccessTable;
  readonly exports = new ExportTable();
  readonly opens: OpenTable;
  readonly holds = new Holds(this);
  readonly undrained = new UndrainedClients();
  readonly reads: ReadsUnderWay;
  /** Frames of all clients that the server keeps for later. */
  readonly kept = new KeptFrames();
  readonly grants: SpaceGrants;
  readonly metaGrants: MetaGrants;
  /** Memory for the answers to READs of a stream. */
  readonly slabs: SlabPool;
  /** Clients that were evicted or have said goodbye, until all of their state is gone. */
  readonly leaving = new Map<ClientUuid, Leaving>();
  /** Evictions by earlier instances, as far as the target keeps them; newest last. undefined: there are none. */
  readonly evictedBefore: readonly EvictionRecord[] | undefined;
  /** Clients of an earlier instance may still open again what they had open: the server destroys no orphan. */
  recovering = false;
  /** Ends when the store is about to close, or has failed: the server executes nothing any more. */
  readonly life = new Lifetime();
  readonly events: TargetEvents;
  /** Content of files that clients have read and written, for metrics. */
  readonly bytes = { read: 0, write: 0 };
  /** Running requests that may change something. */
  readonly modifying = new CountDown();
  #firstFid = 0;
  #fidEnd = 0;

  /** @param makeLocks gets the target, because its callbacks need it. */
  constructor(
    runtime: Runtime,
    time: LimitTime,
    store: TargetStore,
    options: ServedTargetOptions,
    events: TargetEvents,
    makeLocks: (target: ServedTarget) => LockServerApi,
  ) {
    this.runtime = runtime;
    this.time = time;
    this.slabs = new SlabPool(READ_SLABS, (lengthBytes) => store.data.memory(lengthBytes));
    this.store = store;
    this.access = new AccessTable(store, runtime);
    this.events = events;
    const { instance } = store.superblock;
    const before = store.evictions().filter((one) => one.instance < instance);
    this.evictedBefore = before.length === 0 ? undefined : before;
    this.options = options;
    this.reads = new ReadsUnderWay(runtime.clock);
    this.opens = new OpenTable(options.opensMax);
    this.locks = makeLocks(this);
    store.onCommit((lastCommitted) => this.locks.committed(lastCommitted));
    this.grants = new SpaceGrants(
      () => {
        this.holds.makeRoom(0);
        return store.availableBytes();
      },
      () => this.exports.size,
      () => runtime.faults.strikes('space.refuse'),
    );
    this.metaGrants = new MetaGrants(store.metaRoom, () => this.exports.size);
  }

  /** @param access ACCESS_* bits. */
  ticketFor(client: TicketHolder, fid: Fid, access: number): Buffer {
    return ticketFor(this.runtime.mac, this.access.ticketSecret(), client, fid, access);
  }

  /** From now on the server executes nothing any more. */
  stop(): void {
    this.life.end(new FsError('ESHUTDOWN', 'the server is stopping'));
  }

  /** Numbers of earlier instances end below the one that this takes. */
  beginFids(): void {
    const { start, end } = this.store.execute((tx) => tx.allocateFids(1), { reserve: 'own' }).result;
    this.#firstFid = start;
    this.#fidEnd = end;
  }

  allocateFids(client: ClientExport): { readonly start: Fid; readonly end: Fid } {
    const count = this.runtime.faults.strikes('fids.few') ? 2 : FID_RANGE;
    const range = this.store.execute((tx) => tx.allocateFids(count), { reserve: 'own' }).result;
    this.#fidEnd = Math.max(this.#fidEnd, range.end);
    client.fids.add(range);
    return range;
  }

  /** The first FID that this instance hands out. */
  get firstFid(): number {
    return this.#firstFid;
  }

  /** For the log of slow operations: a client's operation waits for these locks. */
  waitsForLocks<T>(client: ClientExport, specs: readonly LockSpec[], granted: Promise<T>): Promise<T> {
    const { waits } = this.runtime;
    if (!waits.isOn) return granted;
    const holders = new Set<string>();
    for (const { fid } of specs) {
      for (const uuid of fid === 0 ? [] : this.locks.clientsOn(fid)) {
        const name = this.exports.get(uuid)?.name;
        if (uuid !== client.uuid && name !== undefined) holders.add(name);
      }
    }
    const names = [...holders].slice(0, HOLDERS_SHOWN_MAX).join(', ');
    const more = holders.size > HOLDERS_SHOWN_MAX ? ` and ${holders.size - HOLDERS_SHOWN_MAX} more` : '';
    return waits.during(() => (names === '' ? 'lock' : `lock of ${names}${more}`), granted);
  }

  /** Checks whether this client may name a new object with this FID. @throws FsError EPROTO */
  assertNewFid(client: ClientExport, fid: Fid): void {
    const ours = targetIndexOf(fid) === this.store.superblock.targetIndex;
    if (!ours || objectOf(fid) < FIRST_OBJECT || fid >= this.#fidEnd || !client.fids.has(fid)) {
      throw new FsError('EPROTO', `FID ${fid} is from no range of this client`);
    }
  }

  /** Checks each table of the target, and the agreement between the tables. Call it between two events. */
  checkInvariants(): void {
    // A target that is over drops its tables in any order.
    if (this.life.isOver) return;
    const { exports, leaving } = this;
    this.store.checkInvariants();
    this.locks.checkInvariants();
    this.slabs.checkInvariants();
    this.access.checkInvariants();
    exports.checkInvariants();
    this.opens.checkInvariants(exports, leaving.size > 0);
    this.holds.checkInvariants();
    this.grants.checkInvariants(exports);
    this.metaGrants.checkInvariants(exports);
    this.kept.checkInvariants(exports);
    this.#checkClients();
  }

  #checkClients(): void {
    const { exports, leaving } = this;
    for (const uuid of this.locks.clients()) {
      assert(exports.get(uuid) !== undefined || leaving.has(uuid), `client ${uuid} is gone, and has locks`);
    }
    for (const client of this.undrained) {
      assert(exports.get(client.uuid) === client, `client ${client.label} is gone, and not drained`);
    }
    const active = new Set(this.locks.holders('active'));
    let modifying = 0;
    for (const client of exports) {
      const holds = client.activeLocks.size > 0;
      assert(holds === active.has(client.uuid), `client ${client.label} knows of an active lock: ${holds}`);
      for (const call of client.calls.values()) if (call.modifies) modifying += 1;
    }
    const { count } = this.modifying;
    assert(count >= modifying, `${modifying} calls under way may change something, counted ${count}`);
  }
}
