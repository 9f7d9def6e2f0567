/**
 * The lock manager as server and client use it. Rules and hazards: docs/LOCKING.md.
 *
 * Clients hold cache locks: inode PR (bits), data PR or PW, active PR. They are called back by a BAST and given back by
 * CANCEL. Operations that the server executes for a client take server locks for their duration; those pass over the
 * locks of the client they are for, because its caches follow the replies of its own operations.
 */

import type { Checked } from '../base/assert.js';
import type { ClientUuid, Fid, LockHandle, Transno } from '../base/ids.js';
import type { MaybePromise } from '../base/maybe_promise.js';
import type { FlockRangeMessage, LockModeName, ResourceTypeName } from '../wire/lock.js';

export type Mode = LockModeName;
export type ResourceType = ResourceTypeName;

/** What a lock covers. */
export interface LockSpec {
  readonly type: 'active' | 'inode' | 'data';
  /** 0 for active. */
  readonly fid: Fid | 0;
  readonly mode: Mode;
  /** Inodebits; 0 for the other types. */
  readonly bits: number;
}

export interface HeldLock extends LockSpec {
  readonly handle: LockHandle;
  readonly client: ClientUuid;
}

export interface LockServerCallbacks {
  /** A holder must be told. Once for each lock, again at half of lockTimeoutMs if it is not given back, and after resend(client). */
  bast(lock: HeldLock): void;
  /** A waiting flock was granted; errno (EDEADLK) when it never will be. */
  cast(client: ClientUuid, handle: LockHandle, errno?: number): void;
  /** A holder did not answer a BAST within lockTimeoutMs. The owner evicts it (and calls dropClient). */
  expired(client: ClientUuid, lock: HeldLock): void;
  /** Somebody waits for changes of another client to be durable: commit what was executed, then say committed(). */
  commit(): void;
}

export interface FlockGrant {
  readonly handle: LockHandle;
  readonly granted: boolean;
  readonly sequence: number;
}

/** Class LockServer in lock_server.ts. */
export interface LockServerApi extends Checked {
  /**
   * For a client's cache lock: calls back whoever conflicts, waits its turn (FIFO), grants.
   * Answers at once when nothing conflicts. Covered already by a lock of this client: another lock is granted.
   * @throws FsError ECANCELED when the signal aborts, or the client is dropped.
   */
  enqueue(client: ClientUuid, spec: LockSpec, signal?: AbortSignal): MaybePromise<LockHandle>;
  /** Grants only if nothing conflicts, held or waiting; calls nobody back. */
  tryEnqueue(client: ClientUuid, spec: LockSpec): LockHandle | undefined;
  /**
   * Server locks for one operation, all of them in a fixed order, passing over the locks that `client` holds.
   * @param signal ends the wait (a shutdown that is taken back, a request that is given up).
   * @returns the release, to be called exactly once.
   * @throws FsError ECANCELED when the signal aborts or the client is dropped while it waits; nothing is held then.
   */
  acquire(
    client: ClientUuid | undefined,
    specs: readonly LockSpec[],
    signal?: AbortSignal,
  ): MaybePromise<() => void>;
  /** Gives back cache locks and application locks, granted or waiting; unknown handles are ignored. A flock granted in the
   * meantime is undone: what the owner had there before comes back (docs/LOCKING.md). */
  cancel(client: ClientUuid, handles: readonly LockHandle[]): void;
  /** Who holds cache locks on an inode or its data. */
  clientsOn(fid: Fid): ReadonlySet<ClientUuid>;
  /** The client's PW data lock holder of a file, if it is another than `except`: whom to glimpse. */
  dataWriter(fid: Fid, except: ClientUuid | undefined): HeldLock | undefined;
  /** Application locks. wait false and in conflict: FsError EAGAIN. EDEADLK at once where it would close a cycle. */
  flock(client: ClientUuid, fid: Fid, range: FlockRangeMessage, wait: boolean, sequence?: number): FlockGrant;
  testFlock(client: ClientUuid, fid: Fid, range: FlockRangeMessage): FlockRangeMessage | undefined;
  unflock(client: ClientUuid, fid: Fid, range: FlockRangeMessage): void;
  /**
   * true: requests with wait are queued and not granted. For lock replay: a lock that waited must not be granted before
   * the client that held it has replayed. false: those that can be are granted now, in order.
   */
  holdFlockGrants(hold: boolean): void;
  /**
   * Lock replay: grants the lock as an earlier instance did, if no other client's lock is in the way. Calls nobody back, and
   * passes over what is uncommitted: the client held this lock when those changes were made.
   * @returns undefined: refused.
   */
  adopt(client: ClientUuid, spec: LockSpec): LockHandle | undefined;
  /** The client's granted inode and data locks. */
  cacheLocks(client: ClientUuid): HeldLock[];
  /** The client has a lock that covers this and is not called back. */
  covers(client: ClientUuid, spec: LockSpec): boolean;
  /** The client has a data lock of this mode or a stronger one, whether it is called back or not. */
  holdsData(client: ClientUuid, fid: Fid, mode: 'PR' | 'PW'): boolean;
  /** tryEnqueue() would grant it. */
  isFree(client: ClientUuid, spec: LockSpec): boolean;
  /** Somebody waits for an inode or data lock that the client holds. */
  isWanted(client: ClientUuid): boolean;
  /**
   * Commit on sharing (docs/RECOVERY.md): an operation of the client has changed what the spec covers. Until committed()
   * says that this transno is durable, other clients get no lock on it, and their operations wait.
   */
  changed(client: ClientUuid, spec: LockSpec, transno: Transno): void;
  /** All up to this transno is durable. */
  committed(transno: Transno): void;
  /** Another client has changed what the spec covers, and it is not durable. */
  isUncommitted(client: ClientUuid, spec: LockSpec): boolean;
  /** Another client has changed anything that is not durable. */
  hasUncommitted(client: ClientUuid): boolean;
  /** All BASTs of a client are said again (it reconnected; some may have been lost). */
  resend(client: ClientUuid): void;
  /** Nothing of the client waits for a cache lock or in an operation any more: the requests reject. What it holds stays. */
  abandonWaits(client: ClientUuid): void;
  /** Everything of the client is gone: locks, waiting requests (they reject), flocks. */
  dropClient(client: ClientUuid): void;
  count(client: ClientUuid): number;
  /** Locks of this type still held by clients: what a shutdown waits for. */
  holders(type: ResourceType): ClientUuid[];
  /** All that hold or wait for something. */
  clients(): ReadonlySet<ClientUuid>;
}

export interface CachedLock extends LockSpec {
  readonly handle: LockHandle;
  /** Called back, or given up: match() no longer finds it; users that hold a reference go on under it. */
  readonly cancelling: boolean;
}

export interface LockClientCallbacks {
  /**
   * What the lock protects must go: flush, drop caches, kernel's too. Called once, when the lock was called back or
   * chosen by the LRU. References may still be held: the callback may wait for unused() itself, because reads that
   * hold folio locks are served under the lock. Of most locks there is nothing to drop, and then it is done at once.
   */
  release(lock: CachedLock): MaybePromise<void>;
  /** No lock on it is left, called back or not. */
  gone(type: 'inode' | 'data', fid: Fid): void;
  /** Locks to give back to the server, batched. Never for locks of a dropped connection. */
  cancel(handles: readonly LockHandle[]): void;
}

/** Class LockClient in lock_client.ts: the locks that one client holds on one target. */
export interface LockClientApi extends Checked {
  /** A lock has this handle. */
  knows(handle: LockHandle): boolean;
  /** A lock that covers this and is not being cancelled. PW covers PR. Moves it to the young end of the LRU. */
  match(type: 'inode' | 'data', fid: Fid, mode: Mode, bits: number): CachedLock | undefined;
  /**
   * As match(), but finds locks that are being cancelled too, and leaves the LRU alone: for READs of the kernel that
   * hold folio locks an invalidation needs, and for the writes that it brings back.
   */
  find(type: 'inode' | 'data', fid: Fid, mode: Mode, bits: number): CachedLock | undefined;
  /** A lock on it was forgotten, and what it covered is still being dropped. */
  forgets(type: 'inode' | 'data', fid: Fid): boolean;
  /** Any lock on it, being cancelled or not. */
  holds(type: 'inode' | 'data', fid: Fid): boolean;
  /** No other lock on the same thing is held, called back or not, whose release() has not ended. */
  isLast(lock: CachedLock): boolean;
  /**
   * An inode or data lock was granted. Whoever is to use it takes a reference in the same turn: it may have been called
   * back already, and is then given back soon. The active lock is not kept here: it belongs to the gate.
   */
  add(lock: LockSpec & { readonly handle: LockHandle }): CachedLock;
  /** While at least one reference is held the lock is not given back (release may already be under way). */
  addRef(lock: CachedLock): void;
  dropRef(lock: CachedLock): void;
  /** Resolves when no reference is held. */
  unused(lock: CachedLock): MaybePromise<void>;
  /** A BAST came. Unknown handle: the grant may still be on its way; remembered, and honoured when add() comes. */
  called(handle: LockHandle): void;
  /**
   * Gives back so many of those that nobody uses, the longest unused ones first. Resolves when their release() has ended.
   * @returns how many there were.
   */
  giveBackOldest(count: number): Promise<number>;
  /**
   * Releases all (drain). Resolves when release() of every lock has and no reference is held; locks that came meanwhile
   * are among them. @returns the handles, for one CANCEL by the caller: callbacks.cancel is not called for them.
   */
  cancelAll(): Promise<readonly LockHandle[]>;
  /** Gives back all locks on an inode that is gone. There is nothing left to release. */
  giveBackUnused(fid: Fid): void;
  /** Forgets all without telling the server (eviction); release() is still called for each. */
  forgetAll(): Promise<void>;
  /**
   * Another instance of the server takes over and lets its clients keep their locks: what was to be sent to the old one
   * is void, and so is a cancelAll() under way.
   */
  newInstance(): void;
  /**
   * The locks to be granted again, those that are being given back too: they still protect what is not yet flushed. They
   * have no handle until replayed() or forget() was called for each. Begins anew each time it is called.
   */
  toReplay(): readonly CachedLock[];
  /** The new instance has granted the lock, under this handle. If it was given back meanwhile: that goes back too. */
  replayed(lock: CachedLock, handle: LockHandle): void;
  /** The new instance has not granted it. release() is called unless it was already. */
  forget(lock: CachedLock): void;
  readonly size: number;
}
