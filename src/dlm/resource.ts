/**
 * One lockable thing on the server: the locks granted on it and those that wait.
 *
 * Invariants:
 * - No two granted locks conflict.
 * - A waiting lock conflicts with a granted one or with one that waits ahead of it.
 * - For a lock in head position (no lock that conflicts with it waits ahead of it), every holder in its way has been
 *   called back. A lock never loses head position: the locks ahead of it only become fewer, and no lock is granted past
 *   a waiting lock it conflicts with.
 * - No lock is granted over another client's uncommitted change. A waiting lock that meets such a change calls nobody
 *   back at first, and the client that made the change passes it (turns.ts). In the end the waiting lock asks for a
 *   commit too.
 * - A granted lock knows its slot in `granted`, and the count of exclusive locks is right.
 *
 * Locks of one client do not conflict, unless both belong to operations: a client may hold PR and PW of a file at once.
 * An operation does not conflict with the locks of its client, and the server may grant that client further locks while
 * the operation runs, because its caches follow the replies of its own operations. Two operations conflict even if they
 * are for one client.
 */

import { assert } from '../base/assert.js';
import type { FsError } from '../base/errno.js';
import type { ClientUuid, Fid, LockHandle, Transno } from '../base/ids.js';
import type { HeldLock, LockSpec, Mode } from './api.js';
import { CONFLICT_MASK, isShared, MODE_BIT, modeCovers, type Overlap, overlapOf } from './modes.js';

/** Hears how the wait for a lock ends. Exactly one of the two methods is called, once. */
export interface Waiter {
  granted(): void;
  rejected(error: FsError): void;
}

/** What a waiting lock asks of the lock server. */
export interface Wanted {
  /** Asks this holder to give its lock back. */
  callBack(holder: ServerLock): void;
  /** Asks for a commit of what was executed. */
  commit(): void;
  /** Whether the client that made this change may go on for now. If so, the lock server checks the resource again soon. */
  hasTurn(resource: Resource, change: Change): boolean;
}

/**
 * The changes of one resource that are not durable. One client made all of them; else `client` is NOBODY, and no client
 * may build on them.
 */
export interface Change {
  client: ClientUuid;
  bits: number;
  /** Transno of the last of them. */
  transno: Transno;
  /** A commit of this change was asked for. */
  asked: boolean;
  /** More than one operation made it. */
  several: boolean;
  /** When its client began to change the resource, and when it last did. */
  readonly sinceMs: number;
  lastMs: number;
}

/** Not the name of any client: several clients made the changes, or one that is gone. */
export const NOBODY = '*' as ClientUuid;

/** A lock of a client or of an operation. An operation's lock has handle 0, because no message names it. */
export class ServerLock implements HeldLock {
  readonly handle: LockHandle;
  /** '' for an operation that is for no client. */
  readonly client: ClientUuid;
  readonly type: LockSpec['type'];
  readonly fid: Fid | 0;
  readonly mode: Mode;
  readonly bits: number;
  readonly resource: Resource;
  readonly operation: boolean;
  readonly modeBit: number;
  readonly conflictMask: number;

  state: 'new' | 'waiting' | 'granted' | 'gone' = 'new';
  /** Index in resource.granted while granted. */
  slot = -1;
  waiter: Waiter | undefined = undefined;
  /** Its BAST: not wanted; wanted but not sent yet; sent; sent again at half of the time limit. */
  bast: 'none' | 'wanted' | 'said' | 'said again' = 'none';
  /** When it was granted, or asked for while it waits. Of an operation only while it waits. */
  sinceMs = 0;
  /** When its BAST was sent first. */
  calledBackMs = 0;
  /**
   * Granted to a waiting enqueue in this turn. The reply with the grant has not left yet, and a BAST must not overtake
   * it.
   */
  fresh = false;
  /** The client was asked for it because it has many: see lock_limits.ts. */
  asked = false;
  /** While waiting, in head position: the holders in its way were called back, or the turn it waited for is over. */
  calledBack = false;
  /** While waiting: a lock it conflicts with, and the state in which that lock is in its way. */
  blocker: ServerLock | undefined = undefined;
  blockerState: ServerLock['state'] = 'new';

  constructor(
    handle: LockHandle,
    client: ClientUuid,
    spec: LockSpec,
    resource: Resource,
    operation: boolean,
  ) {
    this.handle = handle;
    this.client = client;
    this.type = spec.type;
    this.fid = spec.fid;
    this.mode = spec.mode;
    this.bits = spec.bits;
    this.resource = resource;
    this.operation = operation;
    this.modeBit = MODE_BIT[spec.mode];
    this.conflictMask = CONFLICT_MASK[spec.mode];
  }
}

export class Resource {
  readonly type: LockSpec['type'];
  readonly fid: Fid | 0;
  /** In no order: remove() moves the last lock into the gap, so a thousand holders leave in a thousand steps. */
  readonly granted: ServerLock[] = [];
  /** In order of arrival. */
  readonly waiting: ServerLock[] = [];
  /** Kept by UncommittedChanges. */
  change: Change | undefined = undefined;
  /** The client that made the last change, while the resource is known. Kept by Turns. */
  changedBy: ClientUuid | undefined = undefined;
  /**
   * Clients that asked for this resource again while others waited for their change. Kept by Turns; forgotten with the
   * resource.
   */
  eager: Set<ClientUuid> | undefined = undefined;
  readonly #overlap: Overlap;
  /** Number of granted locks in modes that are not shared. If it is 0, a shared request need not look at the holders. */
  #exclusive = 0;

  constructor(type: LockSpec['type'], fid: Fid | 0) {
    this.type = type;
    this.fid = fid;
    this.#overlap = overlapOf(type);
  }

  get empty(): boolean {
    return this.granted.length === 0 && this.waiting.length === 0 && this.change === undefined;
  }

  get shared(): boolean {
    return this.#exclusive === 0;
  }

  conflict(a: ServerLock, b: ServerLock): boolean {
    if ((a.conflictMask & b.modeBit) === 0) return false;
    if (!(a.operation && b.operation) && a.client === b.client) return false;
    return this.#overlap(a, b);
  }

  /** Whether no held lock, no waiting lock and no uncommitted change is in the way. */
  free(lock: ServerLock): boolean {
    return (
      this.holderInTheWay(lock) === undefined &&
      this.waiterInTheWay(lock, this.waiting.length) === undefined &&
      (this.change === undefined || !this.#changeInTheWay(lock, this.change))
    );
  }

  /** Whether another client has changed what the lock covers and a crash could still undo that change. */
  uncommittedFor(lock: ServerLock): boolean {
    return this.change !== undefined && this.#changeInTheWay(lock, this.change);
  }

  #changeInTheWay(lock: ServerLock, change: Change): boolean {
    if (change.client === lock.client || lock.conflictMask === 0) return false;
    return this.type !== 'inode' || (change.bits & lock.bits) !== 0;
  }

  /** A lock of this client that was not called back and allows everything this one would. */
  coveredBy(lock: ServerLock): ServerLock | undefined {
    return this.granted.find((held) => held.bast === 'none' && allows(held, lock));
  }

  /** A lock of this client, called back or not, that allows everything this one would. */
  heldAs(lock: ServerLock): ServerLock | undefined {
    return this.granted.find((held) => allows(held, lock));
  }

  holderInTheWay(lock: ServerLock): ServerLock | undefined {
    const { granted } = this;
    if (granted.length === 0 || (this.#exclusive === 0 && isShared(lock.mode))) return undefined;
    for (const holder of granted) if (this.conflict(lock, holder)) return holder;
    return undefined;
  }

  /**
   * The first conflicting lock among the first `ahead` of the queue. Locks that wait for the turn of this lock's client
   * to end do not count.
   */
  waiterInTheWay(lock: ServerLock, ahead: number): ServerLock | undefined {
    const turn = this.change?.client === lock.client ? this.change : undefined;
    for (let i = 0; i < ahead; i++) {
      const other = this.waiting[i];
      if (other === undefined || !this.conflict(lock, other)) continue;
      if (turn === undefined || other.calledBack || !this.#changeInTheWay(other, turn)) return other;
    }
    return undefined;
  }

  grant(lock: ServerLock): void {
    lock.state = 'granted';
    lock.slot = this.granted.length;
    lock.blocker = undefined;
    this.granted.push(lock);
    if (!isShared(lock.mode)) this.#exclusive++;
  }

  /** Removes a granted lock. */
  remove(lock: ServerLock): void {
    assert(
      lock.state === 'granted' && this.granted[lock.slot] === lock,
      'removes a lock that is not granted',
    );
    const last = this.granted.pop();
    if (last !== undefined && last !== lock) {
      this.granted[lock.slot] = last;
      last.slot = lock.slot;
    }
    lock.state = 'gone';
    lock.slot = -1;
    if (!isShared(lock.mode)) this.#exclusive--;
  }

  queue(lock: ServerLock, waiter: Waiter): void {
    lock.state = 'waiting';
    lock.waiter = waiter;
    this.waiting.push(lock);
  }

  /** Removes a waiting lock from the queue. */
  unqueue(lock: ServerLock): void {
    const index = this.waiting.indexOf(lock);
    assert(lock.state === 'waiting' && index >= 0, 'unqueues a lock that does not wait');
    this.waiting.splice(index, 1);
    lock.state = 'gone';
    lock.waiter = undefined;
    lock.blocker = undefined;
  }

  /**
   * Whether the lock still has to wait, behind the first `ahead` of the queue. The first time it is in head position
   * and no client has a turn before it, it calls back every holder in its way.
   */
  blocked(lock: ServerLock, ahead: number, wanted: Wanted): boolean {
    // The lock that was in the way last time usually still is: with thousands of holders a cancel costs one look, not a
    // scan.
    if (lock.blocker !== undefined && lock.blocker.state === lock.blockerState) return true;
    lock.blocker = this.waiterInTheWay(lock, ahead);
    lock.blockerState = 'waiting';
    if (lock.blocker !== undefined) return true;
    const change =
      this.change !== undefined && this.#changeInTheWay(lock, this.change) ? this.change : undefined;
    if (!lock.calledBack) {
      if (change !== undefined && wanted.hasTurn(this, change)) return true;
      // Stays false without a change: an operation that runs just now may be the beginning of a turn.
      lock.calledBack = change !== undefined;
      for (const holder of this.granted) {
        if (holder.operation || !this.conflict(lock, holder)) continue;
        lock.calledBack = true;
        wanted.callBack(holder);
      }
    }
    lock.blocker = this.holderInTheWay(lock);
    lock.blockerState = 'granted';
    // A client that gives a data lock back writes first, and the commit should include that write.
    if (change !== undefined && !change.asked && (lock.blocker === undefined || this.type === 'inode')) {
      change.asked = true;
      wanted.commit();
    }
    return lock.blocker !== undefined || change !== undefined;
  }

  /** Grants, in order, the waiting locks that need not wait any longer, and removes them from the queue. */
  pump(wanted: Wanted): readonly ServerLock[] {
    const { waiting } = this;
    const granted: ServerLock[] = [];
    let kept = 0;
    for (let i = 0; i < waiting.length; i++) {
      const lock = waiting[i] as ServerLock;
      if (this.blocked(lock, kept, wanted)) {
        waiting[kept++] = lock;
      } else {
        this.grant(lock);
        lock.fresh = !lock.operation;
        granted.push(lock);
      }
    }
    waiting.length = kept;
    return granted;
  }

  /** Checks the header's invariants. A waiting lock may also wait for an uncommitted change. */
  checkInvariants(): void {
    const what = `${this.type} ${this.fid}`;
    this.#checkGranted(what);
    this.waiting.forEach((lock, index) => {
      assert(lock.resource === this && lock.state === 'waiting', `${what}: a lock waits as '${lock.state}'`);
      assert(lock.waiter !== undefined && lock.bast === 'none', `${what}: a lock waits for nobody`);
      const blocker =
        this.holderInTheWay(lock) ?? this.waiting.slice(0, index).find((w) => this.conflict(lock, w));
      assert(
        blocker !== undefined || this.uncommittedFor(lock),
        `${what}: ${lock.mode} of ${lock.client} waits for nothing`,
      );
      if (!lock.calledBack) return;
      for (const holder of this.granted) {
        assert(
          holder.operation || holder.bast !== 'none' || !this.conflict(lock, holder),
          `${what}: lock ${holder.handle} is in the way, and was not called back`,
        );
      }
    });
  }

  #checkGranted(what: string): void {
    const { granted } = this;
    let exclusive = 0;
    granted.forEach((lock, slot) => {
      assert(lock.resource === this && lock.slot === slot, `${what}: lock ${lock.handle} is not at ${slot}`);
      assert(lock.state === 'granted', `${what}: lock ${lock.handle} is held as '${lock.state}'`);
      if (!isShared(lock.mode)) exclusive += 1;
    });
    assert(
      exclusive === this.#exclusive,
      `${what}: ${exclusive} exclusive locks, counted ${this.#exclusive}`,
    );
    if (exclusive === 0) return;
    for (const [index, lock] of granted.entries()) {
      for (const other of granted.slice(index + 1)) {
        assert(
          !this.conflict(lock, other),
          `${what}: ${lock.mode} of ${lock.client} and ${other.mode} of ${other.client} are both granted`,
        );
      }
    }
  }
}

function allows(held: ServerLock, lock: ServerLock): boolean {
  return (
    held.client === lock.client &&
    !held.operation &&
    modeCovers(held.mode, lock.mode) &&
    (held.bits & lock.bits) === lock.bits
  );
}
