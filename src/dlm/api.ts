/**
 * The lock manager as server and client use it. Rules and hazards: docs/LOCKING.md.
 *
 * Clients hold cache locks: inode PR (bits), inode EX on a directory (an own lock), data PR or PW, active PR. The server calls a lock back with a BAST, and
 * the client gives it back with CANCEL. An operation that the server executes for a client takes server locks for its
 * duration. A server lock does not conflict with the locks of that client, because the client's caches follow the
 * replies of its own operations.
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
  /**
   * The owner sends this lock's holder a BAST. Called once for each lock, again at half of lockTimeoutMs if the client
   * has not given the lock back, and again after resend(client).
   */
  bast(lock: HeldLock): void;
  /** The lock server has granted a waiting flock. With errno (EDEADLK): it will never grant it. */
  cast(client: ClientUuid, handle: LockHandle, errno?: number): void;
  /** A holder did not answer a BAST within lockTimeoutMs. The owner evicts it (and calls dropClient). */
  expired(client: ClientUuid, lock: HeldLock): void;
  /**
   * Somebody waits until another client's changes are durable. The owner commits what was executed, then calls
   * committed().
   */
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
   * Enqueues a client's cache lock: calls back the holders of conflicting locks, waits for its place in the queue
   * (FIFO), grants. Answers at once when nothing conflicts. If the client has a lock already that covers this one, it
   * gets a second lock.
   * @throws FsError ECANCELED when the signal aborts, or the client is dropped.
   */
  enqueue(client: ClientUuid, spec: LockSpec, signal?: AbortSignal): MaybePromise<LockHandle>;
  /** Grants the lock only if no held or waiting lock conflicts with it; calls nobody back. */
  tryEnqueue(client: ClientUuid, spec: LockSpec): LockHandle | undefined;
  /**
   * Takes all server locks of one operation, in a fixed order. Locks that `client` holds do not conflict with them.
   * @param signal ends the wait (a shutdown is cancelled, a request is given up).
   * @returns the release, to be called exactly once.
   * @throws FsError ECANCELED when the signal aborts or the client is dropped while it waits; nothing is held then.
   */
  acquire(
    client: ClientUuid | undefined,
    specs: readonly LockSpec[],
    signal?: AbortSignal,
  ): MaybePromise<() => void>;
  /**
   * Gives back cache locks and application locks, granted or waiting; ignores unknown handles. If a flock was granted
   * in the meantime, its grant is undone: the owner gets back what it had locked there before (docs/LOCKING.md).
   */
  cancel(client: ClientUuid, handles: readonly LockHandle[]): void;
  /** The clients that hold cache locks on an inode or its data. */
  clientsOn(fid: Fid): ReadonlySet<ClientUuid>;
  /** The PW data lock on a file, if a client other than `except` holds it: that client is the one to glimpse. */
  dataWriter(fid: Fid, except: ClientUuid | undefined): HeldLock | undefined;
  /**
   * Sets an application lock. @throws FsError EAGAIN if the lock conflicts and wait is false; EDEADLK, at once, if
   * waiting would close a cycle.
   */
  flock(client: ClientUuid, fid: Fid, range: FlockRangeMessage, wait: boolean, sequence?: number): FlockGrant;
  testFlock(client: ClientUuid, fid: Fid, range: FlockRangeMessage): FlockRangeMessage | undefined;
  unflock(client: ClientUuid, fid: Fid, range: FlockRangeMessage): void;
  /**
   * true: the server queues requests that may wait and grants none of them. Used during lock replay: a lock that waited
   * must not be granted before the client that held the range has replayed. false: grants now, in order, the requests
   * that can be granted.
   */
  holdFlockGrants(hold: boolean): void;
  /**
   * Lock replay: grants the lock as an earlier instance did, if no other client's lock is in the way. Calls nobody
   * back, and ignores uncommitted changes: the client held this lock when they were made.
   * @returns undefined if the lock is refused.
   */
  adopt(client: ClientUuid, spec: LockSpec): LockHandle | undefined;
  /** The client's granted inode and data locks. */
  cacheLocks(client: ClientUuid): HeldLock[];
  /** Whether the client has a lock that covers this one and was not called back. */
  covers(client: ClientUuid, spec: LockSpec): boolean;
  /** Whether the client has a lock that covers this one, called back or not. */
  holds(client: ClientUuid, spec: LockSpec): boolean;
  /**
   * Whether no other client has a lock in conflict with this one. Waiting locks do not count, nor do locks of operations:
   * an operation may have this lock and still wait for another, behind which the client works alone.
   */
  heldAlone(client: ClientUuid, spec: LockSpec): boolean;
  /** Whether the client has a data lock of this mode or a stronger one, called back or not. */
  holdsData(client: ClientUuid, fid: Fid, mode: 'PR' | 'PW'): boolean;
  /** Whether the client has a data lock of exactly this mode, called back or not. */
  holdsDataAs(client: ClientUuid, fid: Fid, mode: 'PR' | 'PW'): boolean;
  /** Whether tryEnqueue() would grant it. */
  isFree(client: ClientUuid, spec: LockSpec): boolean;
  /** Whether somebody waits for an inode or data lock that the client holds. */
  isWanted(client: ClientUuid): boolean;
  /**
   * Commit on sharing (docs/recovery/commit_on_sharing.md): an operation of the client has changed what the spec covers. Until
   * committed() reports this transno as durable, other clients get no lock on it, and their operations wait.
   */
  changed(client: ClientUuid, spec: LockSpec, transno: Transno): void;
  /** All changes up to this transno are durable. */
  committed(transno: Transno): void;
  /** Whether another client has changed what the spec covers, and that change is not durable. */
  isUncommitted(client: ClientUuid, spec: LockSpec): boolean;
  /** Whether any other client has made a change that is not durable. */
  hasUncommitted(client: ClientUuid): boolean;
  /** Sends all BASTs of a client again. It has reconnected, and some may have been lost. */
  resend(client: ClientUuid): void;
  /**
   * Cancels every wait of the client, for cache locks and in operations: those requests reject. The locks it holds
   * stay.
   */
  abandonWaits(client: ClientUuid): void;
  /** Drops everything of the client: its locks, waiting requests (they reject) and flocks. */
  dropClient(client: ClientUuid): void;
  count(client: ClientUuid): number;
  /** All locks, held and waited for, for people. It walks over them while they stay as they are. */
  view(): Iterable<LockView>;
  /** Clients that still hold locks of this type: a shutdown waits for them. */
  holders(type: ResourceType): ClientUuid[];
  /** All clients that hold a lock or wait for one. */
  clients(): ReadonlySet<ClientUuid>;
}

/** One lock, as people see it. */
export interface LockView {
  readonly kind: LockSpec['type'] | FlockRangeMessage['kind'];
  readonly fid: Fid | 0;
  readonly mode: string;
  /** undefined: the server's own operation. */
  readonly client: ClientUuid | undefined;
  /** When it was granted; of one that waits, when it was asked for. */
  readonly sinceMs: number;
  readonly waits: boolean;
  /** How many wait on the same inode, or its data. */
  readonly waiters: number;
  /** The client was asked to give it back. */
  readonly calledBack: boolean;
}

export interface CachedLock extends LockSpec {
  readonly handle: LockHandle;
  /** The lock was called back or given up. match() no longer finds it; operations that hold a reference go on under it. */
  readonly cancelling: boolean;
}

export interface LockClientCallbacks {
  /**
   * Drops what the lock protects: flushes, drops the client's caches and the kernel's. Called once, when the server has
   * called the lock back or the LRU has chosen it. Operations may still hold references. The callback itself may wait
   * for unused(), because reads that hold folio locks are served under the lock. Most locks have nothing to drop; then
   * the callback returns no promise.
   */
  release(lock: CachedLock): MaybePromise<void>;
  /** No lock is left on this inode or its data, called back or not. */
  gone(type: 'inode' | 'data', fid: Fid): void;
  /** Sends a batch of handles to give back to the server. Never called for locks of a dropped connection. */
  cancel(handles: readonly LockHandle[]): void;
}

/** Class LockClient in lock_client.ts: the locks that one client holds on one target. */
export interface LockClientApi extends Checked {
  /** Whether a lock has this handle. */
  knows(handle: LockHandle): boolean;
  /** Finds a lock that covers this and is not being cancelled; PW covers PR. Moves the lock to the young end of the LRU. */
  match(type: 'inode' | 'data', fid: Fid, mode: Mode, bits: number): CachedLock | undefined;
  /**
   * As match(), but finds locks that are being cancelled too, and leaves the LRU alone: for READs of the kernel that
   * hold folio locks an invalidation needs, and for the writes that it brings back.
   */
  find(type: 'inode' | 'data', fid: Fid, mode: Mode, bits: number): CachedLock | undefined;
  /** Whether a lock on it was forgotten while the client is still dropping what that lock covered. */
  forgets(type: 'inode' | 'data', fid: Fid): boolean;
  /** Whether any lock on it is held, being cancelled or not. */
  holds(type: 'inode' | 'data', fid: Fid): boolean;
  /** Whether this is the last lock on its inode or data: release() has ended for every other one, called back or not. */
  isLast(lock: CachedLock): boolean;
  /**
   * Adds an inode or data lock that the server has granted. An operation that will use it takes a reference in the same
   * turn: the server may have called the lock back already, and then the client gives it back soon. The active lock is
   * not kept here: it belongs to the gate.
   */
  add(lock: LockSpec & { readonly handle: LockHandle }): CachedLock;
  /**
   * Adds an inode or data lock on a new inode that no other client can know of. The server grants it later: then call
   * granted(), or forget() if it never will.
   */
  addAhead(lock: LockSpec): CachedLock;
  /** While at least one reference is held, the client does not give the lock back (release() may already be under way). */
  addRef(lock: CachedLock): void;
  dropRef(lock: CachedLock): void;
  /** Resolves when no reference is held. */
  unused(lock: CachedLock): MaybePromise<void>;
  /**
   * The client has received a BAST. If the handle is unknown, the grant may still be on its way: the BAST is
   * remembered, and obeyed when add() is called.
   */
  called(handle: LockHandle): void;
  /**
   * Gives back up to `count` locks that nobody uses, least recently used first. Resolves when their release() has
   * ended.
   * @returns how many locks that were.
   */
  giveBackOldest(count: number): Promise<number>;
  /**
   * Releases all locks (drain). Resolves when release() of every lock has ended and no reference is held; this includes
   * locks granted meanwhile. @returns the handles, for one CANCEL by the caller: callbacks.cancel is not called for
   * them.
   */
  cancelAll(): Promise<readonly LockHandle[]>;
  /** Ends a cancelAll() under way, which returns nothing then. What it has released goes back by CANCEL. */
  cancelNoMore(): void;
  /** Gives a lock back as if it were called back; nothing happens if it goes back already. */
  handBack(lock: CachedLock): void;
  /** Gives back all locks on an inode that is gone. release() is not called: they protect nothing any more. */
  giveBackUnused(fid: Fid): void;
  /** Forgets all locks without telling the server (eviction). release() is still called for each. */
  forgetAll(): Promise<void>;
  /**
   * Another instance of the server takes over and lets its clients keep their locks: messages that were still to be
   * sent to the old one are void, and so is a cancelAll() under way.
   */
  newInstance(): void;
  /**
   * The locks that the new instance must grant again. Locks that are being given back are among them: they still
   * protect data that is not flushed yet. Each has no handle until granted() or forget() is called for it. Each call
   * starts the replay anew. Locks that were added ahead and not granted yet are not among them.
   */
  toReplay(): readonly CachedLock[];
  /**
   * The server has granted the lock, again or for the first time, under this handle. If the client has given the lock back
   * meanwhile, it gives this handle back too.
   */
  granted(lock: CachedLock, handle: LockHandle): void;
  /** The server has not granted it. release() is called unless it was already. */
  forget(lock: CachedLock): void;
  readonly size: number;
}
