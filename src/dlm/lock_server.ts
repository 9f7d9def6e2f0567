/**
 * The lock manager of one target: cache locks of clients, locks of operations, and (in flock_table.ts) the locks of
 * applications. Rules: docs/LOCKING.md; the state of one resource: resource.ts.
 *
 * Invariants:
 * - A resource exists while something is held or waited for on it. A client is known while it holds or waits.
 * - What can be granted at once is granted synchronously: these calls run for every operation.
 * - Callbacks are called when the state is consistent again, at the end of the call (or timer) that caused them, so
 *   they may call back into the lock server.
 * - A BAST is said once for each lock (again after resend), and never before the reply that tells of the grant.
 */

import { assert } from '../base/assert.js';
import { FsError } from '../base/errno.js';
import type { ClientUuid, Fid, LockHandle } from '../base/ids.js';
import type { MaybePromise } from '../base/maybe_promise.js';
import type { Clock, Timers } from '../runtime/ports.js';
import type { FlockRangeMessage } from '../wire/lock.js';
import { Acquisition } from './acquisition.js';
import type {
  FlockGrant,
  HeldLock,
  LockServerApi,
  LockServerCallbacks,
  LockSpec,
  ResourceType,
} from './api.js';
import { BastDeadlines } from './bast_deadlines.js';
import { FlockTable } from './flock_table.js';
import { inLockOrder } from './modes.js';
import { Resource, ServerLock } from './resource.js';

export interface LockServerOptions {
  readonly timers: Timers;
  readonly clock: Clock;
  /** How long a holder may take to answer a BAST. */
  readonly lockTimeoutMs: number;
  readonly callbacks: LockServerCallbacks;
  /**
   * Handles count up from here. A CANCEL that was sent to an earlier instance and is sent again to this one must not
   * name a lock of this one: give each instance a range of its own.
   */
  readonly firstHandle?: number;
  /** Cache locks of one client, held and waited for. Default CACHE_LOCKS_MAX. */
  readonly maxCacheLocks?: number;
}

/** Several times what a client of ours keeps: only one that never gives anything back comes here. */
export const CACHE_LOCKS_MAX = 500_000;

/** What one client holds and waits for, application locks aside. */
interface ClientLocks {
  /** Cache locks, granted and waiting. */
  readonly locks: Map<LockHandle, ServerLock>;
  /** Operations for it that wait. */
  readonly operations: Set<Acquisition>;
  readonly held: { active: number; inode: number; data: number };
}

const NO_CLIENT = '' as ClientUuid;

function cancelled(why: string): FsError {
  return new FsError('ECANCELED', why);
}

export class LockServer implements LockServerApi {
  readonly #timers: Timers;
  readonly #callbacks: LockServerCallbacks;
  readonly #inodes = new Map<Fid | 0, Resource>();
  readonly #data = new Map<Fid | 0, Resource>();
  readonly #active = new Map<Fid | 0, Resource>();
  readonly #clients = new Map<ClientUuid, ClientLocks>();
  readonly #flocks: FlockTable;
  readonly #deadlines: BastDeadlines<ServerLock>;
  /** BASTs to be said when the state is consistent. */
  readonly #outbox: ServerLock[] = [];
  /** Granted to waiting enqueues in this turn. */
  #fresh: ServerLock[] = [];
  readonly #maxCacheLocks: number;
  #flushing = false;
  #nextHandle: number;

  constructor(options: LockServerOptions) {
    this.#timers = options.timers;
    this.#callbacks = options.callbacks;
    this.#nextHandle = options.firstHandle ?? 1;
    this.#maxCacheLocks = options.maxCacheLocks ?? CACHE_LOCKS_MAX;
    this.#deadlines = new BastDeadlines(options.timers, options.clock, options.lockTimeoutMs, (lock) => {
      if (lock.state === 'granted') this.#callbacks.expired(lock.client, lock);
    });
    this.#flocks = new FlockTable(
      () => this.#newHandle(),
      (client, handle, errno) => this.#callbacks.cast(client, handle, errno),
    );
  }

  enqueue(client: ClientUuid, spec: LockSpec, signal?: AbortSignal): MaybePromise<LockHandle> {
    if (signal?.aborted) throw cancelled('the request was given up');
    if (this.#hasTooMany(client, spec)) {
      throw new FsError('ENOLCK', `a client has ${this.#maxCacheLocks} locks and gives none back`);
    }
    const lock = this.#newClientLock(client, spec);
    if (lock.resource.free(lock)) {
      this.#hold(lock);
      return lock.handle;
    }
    const { locks } = this.#known(client);
    locks.set(lock.handle, lock);
    return new Promise((resolve, reject) => {
      const abort = (): void => {
        this.#withdraw(lock, cancelled('the request was given up'));
        this.#settle(lock.resource);
        this.#flush();
      };
      lock.resource.queue(lock, {
        granted: () => {
          signal?.removeEventListener('abort', abort);
          this.#known(client).held[lock.type]++;
          this.#fresh.push(lock);
          if (this.#fresh.length === 1) this.#timers.soon(() => this.#ripen());
          resolve(lock.handle);
        },
        rejected: (error) => {
          signal?.removeEventListener('abort', abort);
          reject(error);
        },
      });
      signal?.addEventListener('abort', abort, { once: true });
      this.#block(lock);
      this.#flush();
    });
  }

  tryEnqueue(client: ClientUuid, spec: LockSpec): LockHandle | undefined {
    if (this.#hasTooMany(client, spec)) return undefined;
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
      held.push(lock);
    }
    return this.#releaser(held);
  }

  cancel(client: ClientUuid, handles: readonly LockHandle[]): void {
    for (const handle of handles) {
      // Looked up anew each time: the entry goes with the client's last lock.
      const lock = this.#clients.get(client)?.locks.get(handle);
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
    this.#flush();
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
    const locks = this.#clients.get(client)?.locks.values() ?? [];
    for (const lock of [...locks]) {
      if (lock.state !== 'granted' || lock.bast !== 'said') continue;
      lock.bast = 'wanted';
      this.#outbox.push(lock);
    }
    this.#flush();
  }

  dropClient(client: ClientUuid): void {
    const known = this.#clients.get(client);
    if (known !== undefined) {
      const touched = new Set<Resource>();
      const error = cancelled('the client is gone');
      // What waits goes first: else the locks that go next would be granted to it.
      for (const operation of [...known.operations]) {
        for (const lock of operation.abandon(error)) touched.add(lock.resource);
      }
      for (const lock of [...known.locks.values()]) {
        if (lock.state === 'waiting') this.#withdraw(lock, error);
        touched.add(lock.resource);
      }
      for (const lock of [...known.locks.values()]) this.#drop(lock);
      for (const resource of touched) this.#settle(resource);
      assert(!this.#clients.has(client), 'a dropped client still holds locks');
    }
    this.#flocks.dropClient(client);
    this.#flush();
  }

  count(client: ClientUuid): number {
    const held = this.#clients.get(client)?.held;
    const cached = held === undefined ? 0 : held.active + held.inode + held.data;
    return cached + this.#flocks.count(client);
  }

  holders(type: ResourceType): ClientUuid[] {
    if (type === 'flock') return this.#flocks.clients();
    const found: ClientUuid[] = [];
    for (const [client, { held }] of this.#clients) if (held[type] > 0) found.push(client);
    return found;
  }

  /** What exists, for metrics and leak checks: all zero when nobody holds or waits for anything. */
  get size(): { resources: number; clients: number; deadlines: number; flockFiles: number } {
    return {
      resources: this.#inodes.size + this.#data.size + this.#active.size,
      clients: this.#clients.size,
      deadlines: this.#deadlines.size,
      flockFiles: this.#flocks.size,
    };
  }

  #newHandle(): LockHandle {
    return this.#nextHandle++ as LockHandle;
  }

  #tableOf(type: LockSpec['type']): Map<Fid | 0, Resource> {
    return type === 'inode' ? this.#inodes : type === 'data' ? this.#data : this.#active;
  }

  /** Made when there is none: then the caller's lock is granted on it at once, so none is ever left empty. */
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

  #newOperationLock(client: ClientUuid | undefined, spec: LockSpec): ServerLock {
    return new ServerLock(0 as LockHandle, client ?? NO_CLIENT, spec, this.#resource(spec), true);
  }

  #known(client: ClientUuid): ClientLocks {
    let known = this.#clients.get(client);
    if (known === undefined) {
      known = { locks: new Map(), operations: new Set(), held: { active: 0, inode: 0, data: 0 } };
      this.#clients.set(client, known);
    }
    return known;
  }

  #hasTooMany(client: ClientUuid, spec: LockSpec): boolean {
    return spec.type !== 'active' && (this.#clients.get(client)?.locks.size ?? 0) >= this.#maxCacheLocks;
  }

  #forgetIfIdle(client: ClientUuid): void {
    const known = this.#clients.get(client);
    if (known !== undefined && known.locks.size === 0 && known.operations.size === 0) {
      this.#clients.delete(client);
    }
  }

  #hold(lock: ServerLock): void {
    lock.resource.grant(lock);
    const known = this.#known(lock.client);
    known.locks.set(lock.handle, lock);
    known.held[lock.type]++;
  }

  /** A client's granted lock goes. The caller settles the resource. */
  #drop(lock: ServerLock): void {
    lock.resource.remove(lock);
    if (lock.bast === 'said') this.#deadlines.stop(lock);
    const known = this.#known(lock.client);
    known.locks.delete(lock.handle);
    known.held[lock.type]--;
    this.#forgetIfIdle(lock.client);
  }

  /** A client's waiting lock goes. The caller settles the resource. */
  #withdraw(lock: ServerLock, error: FsError): void {
    const { waiter } = lock;
    lock.resource.unqueue(lock);
    this.#known(lock.client).locks.delete(lock.handle);
    this.#forgetIfIdle(lock.client);
    waiter?.rejected(error);
  }

  /** Something left the resource: grants what can be granted now, frees the resource when it is empty. */
  #settle(resource: Resource): void {
    if (resource.waiting.length > 0) {
      for (const lock of resource.pump(this.#callBack)) {
        const { waiter } = lock;
        lock.waiter = undefined;
        waiter?.granted();
      }
    }
    if (resource.empty) this.#tableOf(resource.type).delete(resource.fid);
  }

  /** A lock was queued: calls back those in its way if it is in head position. */
  #block(lock: ServerLock): void {
    const blocked = lock.resource.blocked(lock, lock.resource.waiting.length - 1, this.#callBack);
    assert(blocked, 'a lock waits for nothing');
  }

  readonly #callBack = (holder: ServerLock): void => {
    if (holder.operation || holder.bast !== 'none') return;
    holder.bast = 'wanted';
    if (!holder.fresh) this.#outbox.push(holder);
  };

  /** The replies that tell of these grants have left: their BASTs may follow. */
  #ripen(): void {
    const ripe = this.#fresh;
    this.#fresh = [];
    for (const lock of ripe) {
      lock.fresh = false;
      if (lock.bast === 'wanted') this.#outbox.push(lock);
    }
    this.#flush();
  }

  #flush(): void {
    if (this.#flushing || this.#outbox.length === 0) return;
    this.#flushing = true;
    try {
      for (const lock of this.#outbox) {
        if (lock.state !== 'granted' || lock.bast !== 'wanted') continue;
        lock.bast = 'said';
        this.#deadlines.start(lock);
        this.#callbacks.bast(lock);
      }
      this.#outbox.length = 0;
    } finally {
      this.#flushing = false;
    }
  }

  #releaser(held: readonly ServerLock[]): () => void {
    let released = false;
    return () => {
      assert(!released, 'operation locks are released twice');
      released = true;
      this.#release(held);
      this.#flush();
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
      const abort = (): void => {
        for (const lock of operation.abandon(cancelled('the operation was given up'))) {
          this.#settle(lock.resource);
        }
        this.#flush();
      };
      const ended = (): void => {
        signal?.removeEventListener('abort', abort);
        if (client === undefined) return;
        this.#known(client).operations.delete(operation);
        this.#forgetIfIdle(client);
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
      if (client !== undefined) this.#known(client).operations.add(operation);
      signal?.addEventListener('abort', abort, { once: true });
      operation.wait(first);
      this.#flush();
    });
  }
}
