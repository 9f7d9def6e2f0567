/**
 * The lock manager of one target: cache locks of clients, locks of operations, and (in flock_table.ts) the locks of
 * applications. Rules: docs/LOCKING.md; the state of one resource: resource.ts.
 *
 * Invariants:
 * - A resource exists while it has a held lock, a waiting lock or an uncommitted change. A client is known while it
 *   holds a lock or waits for one.
 * - The locks in the client table are exactly those on the resources, except the locks of operations.
 * - A lock that can be granted at once is granted synchronously: these calls run for every operation.
 * - The lock server calls its callbacks when its state is consistent again, at the end of the call (or timer) that
 *   caused them. So they may call back into it.
 * - The server sends a BAST once for each lock, again at half of its time limit and after resend(), and never before
 *   the reply that carries the grant.
 */

import { assert } from '../base/assert.js';
import { FsError } from '../base/errno.js';
import type { ClientUuid, Fid, LockHandle, Transno } from '../base/ids.js';
import type { MaybePromise } from '../base/maybe_promise.js';
import { onAbort } from '../base/wait.js';
import type { Clock, LimitTime, Timers } from '../runtime/ports.js';
import type { FlockRangeMessage } from '../wire/lock.js';
import { Acquisition } from './acquisition.js';
import type {
  FlockGrant,
  HeldLock,
  LockServerApi,
  LockServerCallbacks,
  LockSpec,
  LockView,
  ResourceType,
} from './api.js';
import { type ClientLocks, ClientTable } from './client_table.js';
import { FlockTable } from './flock_table.js';
import { type LockLimitOptions, LockLimits } from './lock_limits.js';
import { inLockOrder, modeCovers } from './modes.js';
import { Outbox } from './outbox.js';
import { Resource, ServerLock, type Wanted } from './resource.js';
import { Turns } from './turns.js';
import { UncommittedChanges } from './uncommitted.js';

export interface LockServerOptions extends LockLimitOptions {
  readonly timers: Timers;
  readonly clock: Clock;
  /** Measures lockTimeoutMs. */
  readonly limits: LimitTime;
  /** How long a holder may take to answer a BAST. */
  readonly lockTimeoutMs: number;
  readonly callbacks: LockServerCallbacks;
  /** Hears how long clients take to give back what was called back. */
  readonly givenBack?: { observe(seconds: number): void };
  /**
   * Handles count up from here. A client may resend to this instance a CANCEL that it sent to an earlier one, and that
   * must not name a lock of this one. So each instance gets a range of its own.
   */
  readonly firstHandle?: number;
}

/**
 * Most locks that one client may hold on one resource: every search of a resource passes over all its locks, for any
 * client. A few are normal, when requests of one client cross. They are counted only on resources with many locks
 * (SAME_LOOKED_AT), where the cost matters.
 */
const SAME_LOCKS_MAX = 64;
const SAME_LOOKED_AT = 256;

const NO_CLIENTS: ReadonlySet<ClientUuid> = new Set();
const NO_CLIENT = '' as ClientUuid;
const UNHEARD = { observe: () => undefined };

function cancelled(why: string): FsError {
  return new FsError('ECANCELED', why);
}

function viewOf(lock: ServerLock, waiters: number): LockView {
  const { type: kind, fid, mode, client, sinceMs, state, bast } = lock;
  return {
    kind,
    fid,
    mode,
    client: client === NO_CLIENT ? undefined : client,
    sinceMs,
    waits: state !== 'granted',
    waiters,
    calledBack: bast === 'said' || bast === 'said again',
  };
}

export class LockServer implements LockServerApi {
  readonly #inodes = new Map<Fid | 0, Resource>();
  readonly #data = new Map<Fid | 0, Resource>();
  readonly #active = new Map<Fid | 0, Resource>();
  readonly #clients = new ClientTable();
  readonly #flocks: FlockTable;
  readonly #outbox: Outbox;
  readonly #uncommitted = new UncommittedChanges();
  readonly #turns: Turns;
  readonly #clock: Clock;
  readonly #limits: LockLimits;
  #nextHandle: number;

  constructor(options: LockServerOptions) {
    const { timers, clock, callbacks } = options;
    this.#clock = clock;
    this.#nextHandle = options.firstHandle ?? 1;
    this.#limits = new LockLimits(options, timers, this.#clients, (lock) => callbacks.bast(lock));
    this.#turns = new Turns(timers, clock, (resource) => {
      this.#settle(resource);
      this.#outbox.flush();
    });
    this.#outbox = new Outbox({
      timers,
      clock,
      givenBack: options.givenBack ?? UNHEARD,
      limits: options.limits,
      lockTimeoutMs: options.lockTimeoutMs,
      bast: (lock) => callbacks.bast(lock),
      expired: (lock) => callbacks.expired(lock.client, lock),
      commit: () => {
        this.#turns.asked();
        callbacks.commit();
      },
    });
    this.#flocks = new FlockTable(
      () => this.#newHandle(),
      (client, handle, errno) => callbacks.cast(client, handle, errno),
      options.limitOf,
      () => clock.nowMs(),
    );
  }

  enqueue(client: ClientUuid, spec: LockSpec, signal?: AbortSignal): MaybePromise<LockHandle> {
    if (signal?.aborted) throw cancelled('the request was given up');
    if (this.#hasSame(client, spec) || (spec.type !== 'active' && !this.#limits.mayHave(client))) {
      throw new FsError('ENOLCK', 'the client has too many locks and gives none back');
    }
    const lock = this.#newClientLock(client, spec);
    if (lock.resource.free(lock)) {
      this.#hold(lock);
      this.#limits.makeRoom(client);
      return lock.handle;
    }
    this.#clients.waits(lock);
    return new Promise((resolve, reject) => {
      const unlisten = onAbort(signal, () => {
        this.#withdraw(lock, cancelled('the request was given up'));
        this.#settle(lock.resource);
        this.#outbox.flush();
      });
      lock.resource.queue(lock, {
        granted: () => {
          unlisten();
          this.#clients.granted(lock);
          this.#limits.makeRoom(client);
          this.#outbox.grantedLate(lock);
          resolve(lock.handle);
        },
        rejected: (error) => {
          unlisten();
          reject(error);
        },
      });
      this.#block(lock);
      this.#outbox.flush();
    });
  }

  tryEnqueue(client: ClientUuid, spec: LockSpec): LockHandle | undefined {
    if (this.#hasSame(client, spec)) return undefined;
    if (spec.type !== 'active' && !this.#limits.hasRoom(client)) {
      this.#limits.makeRoom(client);
      return undefined;
    }
    const lock = this.#newClientLock(client, spec);
    if (!lock.resource.free(lock)) return undefined;
    this.#hold(lock);
    return lock.handle;
  }

  acquire(
    client: ClientUuid | undefined,
    specs: readonly LockSpec[],
    signal?: AbortSignal,
  ): MaybePromise<() => void> {
    if (signal?.aborted) throw cancelled('the operation was given up');
    const ordered = specs.length > 1 ? inLockOrder(specs) : specs;
    const held: ServerLock[] = [];
    for (const spec of ordered) {
      const lock = this.#newOperationLock(client, spec);
      if (!lock.resource.free(lock)) return this.#acquireLater(client, ordered, held, lock, signal);
      lock.resource.grant(lock);
      if (lock.resource.waiting.length > 0) this.#turns.goesOn(lock);
      held.push(lock);
    }
    return this.#releaser(held);
  }

  cancel(client: ClientUuid, handles: readonly LockHandle[]): void {
    for (const handle of handles) {
      // Looked up anew for each handle: the client's entry goes with its last lock.
      const lock = this.#clients.find(client)?.locks.get(handle);
      if (lock === undefined) {
        this.#flocks.cancel(client, handle);
      } else if (lock.state === 'granted') {
        this.#drop(lock);
        this.#settle(lock.resource);
      } else {
        this.#withdraw(lock, cancelled('the client took the request back'));
        this.#settle(lock.resource);
      }
    }
    this.#outbox.flush();
  }

  clientsOn(fid: Fid): ReadonlySet<ClientUuid> {
    const inodes = this.#inodes.get(fid);
    const data = this.#data.get(fid);
    if (inodes === undefined && data === undefined) return NO_CLIENTS;
    const clients = new Set<ClientUuid>();
    for (const resource of [inodes, data]) {
      for (const lock of resource?.granted ?? []) if (!lock.operation) clients.add(lock.client);
    }
    return clients;
  }

  dataWriter(fid: Fid, except: ClientUuid | undefined): HeldLock | undefined {
    const resource = this.#data.get(fid);
    if (resource === undefined || resource.shared) return undefined;
    return resource.granted.find(
      (lock) => !lock.operation && lock.client !== except && (lock.mode === 'PW' || lock.mode === 'EX'),
    );
  }

  flock(
    client: ClientUuid,
    fid: Fid,
    range: FlockRangeMessage,
    wait: boolean,
    sequence?: number,
  ): FlockGrant {
    return this.#flocks.lock(client, fid, range, wait, sequence);
  }

  testFlock(client: ClientUuid, fid: Fid, range: FlockRangeMessage): FlockRangeMessage | undefined {
    return this.#flocks.test(client, fid, range);
  }

  unflock(client: ClientUuid, fid: Fid, range: FlockRangeMessage): void {
    this.#flocks.unlock(client, fid, range);
  }

  holdFlockGrants(hold: boolean): void {
    this.#flocks.holdGrants(hold);
  }

  resend(client: ClientUuid): void {
    const locks = this.#clients.find(client)?.locks.values() ?? [];
    for (const lock of [...locks]) {
      if (lock.state === 'granted' && lock.bast !== 'none') this.#outbox.callBack(lock);
    }
    this.#limits.askAgain(client);
    this.#outbox.flush();
  }

  abandonWaits(client: ClientUuid): void {
    const known = this.#clients.find(client);
    if (known === undefined) return;
    this.#settleAll(this.#abandonWaits(known));
    this.#outbox.flush();
  }

  dropClient(client: ClientUuid): void {
    const known = this.#clients.find(client);
    if (known !== undefined) {
      // Waiting requests go first: else they would be granted the locks that are dropped next.
      const touched = this.#abandonWaits(known);
      for (const lock of [...known.locks.values()]) {
        touched.add(lock.resource);
        this.#drop(lock);
      }
      this.#settleAll(touched);
      assert(this.#clients.find(client) === undefined, 'a dropped client still holds locks');
    }
    this.#flocks.dropClient(client);
    this.#uncommitted.disown(client);
    this.#outbox.flush();
  }

  /** @returns the resources on which a lock may be grantable now. */
  #abandonWaits(known: ClientLocks): Set<Resource> {
    const touched = new Set<Resource>();
    const error = cancelled('the client is gone');
    for (const operation of [...known.operations]) {
      for (const lock of operation.abandon(error)) touched.add(lock.resource);
    }
    for (const lock of [...known.locks.values()]) {
      if (lock.state !== 'waiting') continue;
      this.#withdraw(lock, error);
      touched.add(lock.resource);
    }
    return touched;
  }

  #settleAll(resources: ReadonlySet<Resource>): void {
    for (const resource of resources) this.#settle(resource);
  }

  adopt(client: ClientUuid, spec: LockSpec): LockHandle | undefined {
    if (this.#hasSame(client, spec) || !this.#limits.mayHaveAgain(client)) return undefined;
    const lock = this.#newClientLock(client, spec);
    const { resource } = lock;
    const isTaken = resource.holderInTheWay(lock) ?? resource.waiterInTheWay(lock, resource.waiting.length);
    if (isTaken !== undefined) return undefined;
    this.#hold(lock);
    return lock.handle;
  }

  *view(): Iterable<LockView> {
    for (const table of [this.#inodes, this.#data, this.#active]) {
      for (const { granted, waiting } of table.values()) {
        for (const lock of waiting) yield viewOf(lock, waiting.length);
        for (const lock of granted) if (!lock.operation) yield viewOf(lock, waiting.length);
      }
    }
    yield* this.#flocks.view();
  }

  cacheLocks(client: ClientUuid): HeldLock[] {
    const locks = [...(this.#clients.find(client)?.locks.values() ?? [])];
    return locks.filter((lock) => lock.state === 'granted' && lock.type !== 'active');
  }

  covers(client: ClientUuid, spec: LockSpec): boolean {
    const probe = this.#probe(client, spec);
    return probe?.resource.coveredBy(probe) !== undefined;
  }

  holds(client: ClientUuid, spec: LockSpec): boolean {
    const probe = this.#probe(client, spec);
    return probe?.resource.heldAs(probe) !== undefined;
  }

  heldAlone(client: ClientUuid, spec: LockSpec): boolean {
    const probe = this.#probe(client, spec);
    if (probe === undefined) return true;
    const { resource } = probe;
    return !resource.granted.some((held) => !held.operation && resource.conflict(probe, held));
  }

  holdsData(client: ClientUuid, fid: Fid, mode: 'PR' | 'PW'): boolean {
    const granted = this.#data.get(fid)?.granted;
    if (granted === undefined) return false;
    for (const lock of granted) {
      if (lock.client === client && !lock.operation && modeCovers(lock.mode, mode)) return true;
    }
    return false;
  }

  holdsDataAs(client: ClientUuid, fid: Fid, mode: 'PR' | 'PW'): boolean {
    for (const lock of this.#data.get(fid)?.granted ?? []) {
      if (lock.client === client && !lock.operation && lock.mode === mode) return true;
    }
    return false;
  }

  isFree(client: ClientUuid, spec: LockSpec): boolean {
    const probe = this.#probe(client, spec);
    return probe === undefined || probe.resource.free(probe);
  }

  isWanted(client: ClientUuid): boolean {
    return (this.#clients.find(client)?.calledBack ?? 0) > 0;
  }

  changed(client: ClientUuid, spec: LockSpec, transno: Transno): void {
    const resource = this.#resource(spec);
    this.#uncommitted.add(resource, client, spec.bits, transno, this.#clock.nowMs());
    if (this.#turns.asksAhead(resource, client)) this.#outbox.wantCommit();
    else if (resource.waiting.length === 0) return;
    // A waiter may have asked for a commit that began too early to include this change.
    this.#settle(resource);
    this.#outbox.flush();
  }

  committed(transno: Transno): void {
    this.#turns.committed();
    for (const resource of this.#uncommitted.committed(transno)) this.#settle(resource);
    this.#outbox.flush();
  }

  isUncommitted(client: ClientUuid, spec: LockSpec): boolean {
    const probe = this.#probe(client, spec);
    return probe?.resource.uncommittedFor(probe) === true;
  }

  hasUncommitted(client: ClientUuid): boolean {
    return this.#uncommitted.ofOthers(client);
  }

  count(client: ClientUuid): number {
    const held = this.#clients.find(client)?.held;
    const cached = held === undefined ? 0 : held.active + held.inode + held.data;
    return cached + this.#flocks.count(client);
  }

  holders(type: ResourceType): ClientUuid[] {
    if (type === 'flock') return this.#flocks.clients();
    return this.#clients.holders(type);
  }

  /** Counts of what exists, for metrics and leak checks. All are zero when nobody holds a lock or waits for one. */
  get size(): {
    resources: number;
    clients: number;
    deadlines: number;
    flockFiles: number;
    uncommitted: number;
  } {
    return {
      resources: this.#inodes.size + this.#data.size + this.#active.size,
      uncommitted: this.#uncommitted.size,
      clients: this.#clients.size,
      deadlines: this.#outbox.deadlines,
      flockFiles: this.#flocks.size,
    };
  }

  #newHandle(): LockHandle {
    return this.#nextHandle++ as LockHandle;
  }

  #tableOf(type: LockSpec['type']): Map<Fid | 0, Resource> {
    return type === 'inode' ? this.#inodes : type === 'data' ? this.#data : this.#active;
  }

  /** The resource, made if there is none. A new one never stays empty: the caller's lock is granted on it at once. */
  #resource(spec: LockSpec): Resource {
    return this.#tableOf(spec.type).get(spec.fid) ?? this.#enter(spec);
  }

  #enter(spec: LockSpec): Resource {
    const resource = new Resource(spec.type, spec.fid);
    this.#tableOf(spec.type).set(spec.fid, resource);
    return resource;
  }

  #newClientLock(client: ClientUuid, spec: LockSpec): ServerLock {
    return new ServerLock(this.#newHandle(), client, spec, this.#resource(spec), false);
  }

  /** A lock to test with, which is never granted. undefined: the resource does not exist, so nothing is in the way. */
  #probe(client: ClientUuid, spec: LockSpec): ServerLock | undefined {
    const resource = this.#tableOf(spec.type).get(spec.fid);
    return resource && new ServerLock(0 as LockHandle, client, spec, resource, false);
  }

  #newOperationLock(client: ClientUuid | undefined, spec: LockSpec): ServerLock {
    return new ServerLock(0 as LockHandle, client ?? NO_CLIENT, spec, this.#resource(spec), true);
  }

  /** Whether it has too many locks on this one resource. */
  #hasSame(client: ClientUuid, spec: LockSpec): boolean {
    const same = this.#tableOf(spec.type).get(spec.fid)?.granted ?? [];
    if (same.length < SAME_LOOKED_AT) return false;
    return same.filter((lock) => lock.client === client && !lock.operation).length >= SAME_LOCKS_MAX;
  }

  #hold(lock: ServerLock): void {
    lock.sinceMs = this.#clock.nowMs();
    lock.resource.grant(lock);
    this.#clients.granted(lock);
  }

  /** Removes a client's granted lock. The caller settles the resource. */
  #drop(lock: ServerLock): void {
    lock.resource.remove(lock);
    this.#outbox.gone(lock);
    this.#clients.gone(lock);
  }

  /** Removes a client's waiting lock. The caller settles the resource. */
  #withdraw(lock: ServerLock, error: FsError): void {
    const { waiter } = lock;
    lock.resource.unqueue(lock);
    this.#clients.withdrawn(lock);
    waiter?.rejected(error);
  }

  /** After something left the resource: grants what can be granted now, frees the resource if it is empty. */
  #settle(resource: Resource): void {
    if (resource.waiting.length > 0) {
      for (const lock of resource.pump(this.#wanted)) {
        const { waiter } = lock;
        lock.waiter = undefined;
        lock.sinceMs = this.#clock.nowMs();
        waiter?.granted();
      }
    }
    if (!resource.empty) return;
    const table = this.#tableOf(resource.type);
    // The timer of a turn may settle a resource that is gone, after another one was made for the same FID.
    if (table.get(resource.fid) === resource) table.delete(resource.fid);
  }

  /** After a lock was queued: calls back the holders in its way if it is in head position. */
  #block(lock: ServerLock): void {
    lock.sinceMs = this.#clock.nowMs();
    this.#turns.asksAgain(lock);
    const blocked = lock.resource.blocked(lock, lock.resource.waiting.length - 1, this.#wanted);
    assert(blocked, 'a lock waits for nothing');
  }

  readonly #wanted: Wanted = {
    callBack: (holder) => {
      if (holder.operation || holder.bast !== 'none') return;
      this.#clients.calledBack(holder);
      this.#outbox.callBack(holder);
    },
    commit: () => this.#outbox.wantCommit(),
    hasTurn: (resource, change) => this.#turns.isOn(resource, change),
  };

  #releaser(held: readonly ServerLock[]): () => void {
    let released = false;
    return () => {
      assert(!released, 'operation locks are released twice');
      released = true;
      this.#release(held);
      this.#outbox.flush();
    };
  }

  #release(held: readonly ServerLock[]): void {
    for (const lock of held) {
      lock.resource.remove(lock);
      this.#settle(lock.resource);
    }
  }

  #acquireLater(
    client: ClientUuid | undefined,
    specs: readonly LockSpec[],
    held: ServerLock[],
    first: ServerLock,
    signal: AbortSignal | undefined,
  ): Promise<() => void> {
    return new Promise((resolve, reject) => {
      const unlisten = onAbort(signal, () => {
        for (const lock of operation.abandon(cancelled('the operation was given up'))) {
          this.#settle(lock.resource);
        }
        this.#outbox.flush();
      });
      const ended = (): void => {
        unlisten();
        if (client === undefined) return;
        this.#clients.of(client).operations.delete(operation);
        this.#clients.forgetIfIdle(client);
      };
      const operation = new Acquisition(held, specs, {
        lock: (spec) => this.#newOperationLock(client, spec),
        waits: (lock) => this.#block(lock),
        acquired: () => {
          ended();
          resolve(this.#releaser(held));
        },
        failed: (error) => {
          ended();
          reject(error);
        },
      });
      if (client !== undefined) this.#clients.of(client).operations.add(operation);
      operation.wait(first);
      this.#outbox.flush();
    });
  }

  clients(): ReadonlySet<ClientUuid> {
    return new Set([...this.#clients.clients(), ...this.#flocks.clients()]);
  }

  /** The invariants hold between two calls. */
  checkInvariants(): void {
    this.#clients.checkInvariants();
    this.#flocks.checkInvariants();
    this.#uncommitted.checkInvariants();
    this.#turns.checkInvariants();
    this.#outbox.checkInvariants(this.#clients.locks());
    let onResources = 0;
    let changed = 0;
    for (const resource of this.#resources()) {
      resource.checkInvariants();
      if (resource.change !== undefined) changed += 1;
      for (const list of [resource.granted, resource.waiting]) {
        for (const lock of list) {
          if (lock.operation) continue;
          onResources += 1;
          const known = this.#clients.find(lock.client)?.locks.get(lock.handle);
          assert(known === lock, `lock ${lock.handle} on ${lock.type} ${lock.fid} is not its client's`);
        }
      }
    }
    const ofClients = [...this.#clients.locks()].length;
    assert(ofClients === onResources, `clients have ${ofClients} locks, resources ${onResources}`);
    const { size } = this.#uncommitted;
    assert(size === changed, `${changed} resources have a change, ${size} are known to`);
  }

  *#resources(): Iterable<Resource> {
    for (const type of ['active', 'inode', 'data'] as const) {
      for (const [fid, resource] of this.#tableOf(type)) {
        assert(resource.fid === fid && resource.type === type, `${type} ${fid} is another resource`);
        assert(!resource.empty, `${type} ${fid} is kept, and nothing is on it`);
        yield resource;
      }
    }
  }
}
