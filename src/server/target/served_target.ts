/**
 * ServedTarget: what one served target has in memory, shared by everything that handles requests. Made when the store was
 * opened for serving, gone with the instance.
 */

import { assert } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import { type ClientUuid, FIRST_OBJECT, type Fid, objectOf, targetIndexOf } from '../../base/ids.js';
import { Lifetime } from '../../base/lifetime.js';
import type { NoticeKind } from '../../base/notices.js';
import { SlabPool } from '../../base/slab_pool.js';
import { CountDown } from '../../base/wait.js';
import type { LockServerApi } from '../../dlm/api.js';
import type { LimitTime, Runtime } from '../../runtime/ports.js';
import type { EvictionRecord, TargetStore } from '../../storage/api.js';
import { ExportTable } from '../export/exports.js';
import { KeptFrames } from '../export/kept_frames.js';
import { OpenTable } from '../export/open_table.js';
import { SpaceGrants } from '../export/space_grants.js';
import { UndrainedClients } from '../export/undrained_clients.js';
import { Holds } from './holds.js';

export interface ServedTargetOptions {
  readonly softwareVersion: string;
  /** A BAST or a glimpse not answered within this gets the client evicted. */
  readonly lockTimeoutMs: number;
  readonly pingIntervalMs: number;
  /** A client without a connection is evicted after this, even if nobody needs its locks. */
  readonly disconnectedMs: number;
}

/** A client that will be gone. */
export interface Leaving {
  /** The last writes of it are still being executed: it cannot connect before they have ended. */
  isWriting: boolean;
}

/** FIDs a client gets at once. 2^43 are there; a thousand creates between two requests for more is enough. */
const FID_RANGE = 16_384;
const READ_SLABS = 32;

/** The server, as its target tells it what happens. */
export interface TargetEvents {
  /** A client is evicted or says goodbye: the server executes nothing of it any more. */
  clientLeaves(uuid: ClientUuid): void;
  /** After that: everything of it is gone. */
  clientGone(uuid: ClientUuid): void;
  /** @param text one line for people. */
  clientEvicted(text: string): void;
  /** What else people must learn. */
  says(kind: NoticeKind, text: string): void;
}

export class ServedTarget {
  readonly runtime: Runtime;
  /** Clients are found to be late by this. */
  readonly time: LimitTime;
  readonly store: TargetStore;
  readonly options: ServedTargetOptions;
  readonly locks: LockServerApi;
  readonly exports = new ExportTable();
  readonly opens = new OpenTable();
  readonly holds = new Holds(this);
  readonly undrained = new UndrainedClients();
  /** Frames that are kept for later, of all clients. */
  readonly kept = new KeptFrames();
  readonly grants: SpaceGrants;
  /** Memory that READs of a stream are answered from. */
  readonly slabs: SlabPool;
  /** Clients that are evicted or have said goodbye, until everything of them is gone. */
  readonly leaving = new Map<ClientUuid, Leaving>();
  /** By earlier instances, as far as the target keeps them; newest last. undefined: none. */
  readonly evictedBefore: readonly EvictionRecord[] | undefined;
  /** Clients of an earlier instance may still open again what they had open: no orphan is destroyed. */
  recovering = false;
  /** Ends when the store is about to close, or has failed: nothing is executed any more. */
  readonly life = new Lifetime();
  readonly events: TargetEvents;
  /** Requests under way that may change something. */
  readonly modifying = new CountDown();
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
    this.events = events;
    const { instance } = store.superblock;
    const before = store.evictions().filter((one) => one.instance < instance);
    this.evictedBefore = before.length === 0 ? undefined : before;
    this.options = options;
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
  }

  /** Nothing is executed any more. */
  stop(): void {
    this.life.end(new FsError('ESHUTDOWN', 'the server is stopping'));
  }

  allocateFids(): { readonly start: Fid; readonly end: Fid } {
    const count = this.runtime.faults.strikes('fids.few') ? 2 : FID_RANGE;
    const range = this.store.execute((tx) => tx.allocateFids(count), { reserve: 'own' }).result;
    this.#fidEnd = Math.max(this.#fidEnd, range.end);
    return range;
  }

  /**
   * Whether a client may name a new object so. The ranges themselves are not checked: a client keeps what is left of
   * its range across a restart of the server, which does not remember it.
   * @throws FsError EPROTO
   */
  assertNewFid(fid: Fid): void {
    const ours = targetIndexOf(fid) === this.store.superblock.targetIndex;
    if (!ours || objectOf(fid) < FIRST_OBJECT || fid >= this.#fidEnd) {
      throw new FsError('EPROTO', `FID ${fid} is from no range of this target`);
    }
  }

  /** Of everything that a server has: each table by itself, and what must agree across them. Between two events. */
  checkInvariants(): void {
    // What is left is dropped in any order.
    if (this.life.isOver) return;
    const { exports, leaving } = this;
    this.store.checkInvariants();
    this.locks.checkInvariants();
    this.slabs.checkInvariants();
    exports.checkInvariants();
    this.opens.checkInvariants(exports, leaving.size > 0);
    this.holds.checkInvariants();
    this.grants.checkInvariants(exports);
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
