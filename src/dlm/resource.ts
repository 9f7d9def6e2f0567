/**
 * One lockable thing on the server: who holds it, who waits for it.
 *
 * Invariants:
 * - No two granted locks conflict.
 * - A waiting lock conflicts with a granted one or with one that waits ahead of it.
 * - A lock in head position (nobody it conflicts with waits ahead of it) has had every holder in its way called back.
 *   Head position is never lost: those ahead only become fewer, and nothing is granted past a lock it conflicts with.
 * - No lock is granted over another client's uncommitted change. A lock that meets one calls
 *   nobody back for now, and the client of the change passes it (turns.ts). In the end it asks for a commit as well.
 * - A granted lock knows its place in `granted`; the count of exclusive ones is that of the granted locks.
 *
 * Locks of one client do not conflict, unless both belong to operations: a client may hold PR and PW of a file at once,
 * an operation passes over the locks of the client it is for, and that client is granted locks beside it. Its caches
 * follow the replies of its own operations. Two operations conflict even when they are for one client.
 */

import { assert } from '../base/assert.js';
import type { FsError } from '../base/errno.js';
import type { ClientUuid, Fid, LockHandle, Transno } from '../base/ids.js';
import type { HeldLock, LockSpec, Mode } from './api.js';
import { CONFLICT_MASK, isShared, MODE_BIT, modeCovers, type Overlap, overlapOf } from './modes.js';

/** Whoever waits for a lock. Exactly one of the two is called, once. */
export interface Waiter {
  granted(): void;
  rejected(error: FsError): void;
}

/** What a waiting lock asks for. */
export interface Wanted {
  /** That this holder gives back. */
  callBack(holder: ServerLock): void;
  /** That what was executed is committed. */
  commit(): void;
  /** Whether the client that made this change may go on for now. The resource is looked at again soon. */
  hasTurn(resource: Resource, change: Change): boolean;
}

/** The changes of one thing that are not durable: all of them are one client's, or nobody may build on them. */
export interface Change {
  client: ClientUuid;
  bits: number;
  /** Of the last of them. */
  transno: Transno;
  /** Somebody waits for it, and has asked for the commit. */
  asked: boolean;
  /** It is of more than one operation. */
  several: boolean;
  /** When its client began to change the thing, and when it last did. */
  readonly sinceMs: number;
  lastMs: number;
}

/** No client is called so: the changes are of several, or of one that is gone. */
export const NOBODY = '*' as ClientUuid;

/** A client's lock, or an operation's. The handle of an operation's is 0: nobody else names it. */
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
  /** Its BAST: not wanted; wanted, but not said yet; said, and once more at half of the time. */
  bast: 'none' | 'wanted' | 'said' | 'said again' = 'none';
  /** Granted to a waiting enqueue in this turn: the reply that tells of it is still to leave, a BAST must not overtake it. */
  fresh = false;
  /** While waiting, in head position: holders in its way were called back, if there were any. */
  calledBack = false;
  /** While waiting: a lock it conflicts with, and the state in which that one is in its way. */
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
  /** In no order: removal moves the last into the gap, so a thousand holders leave in a thousand steps. */
  readonly granted: ServerLock[] = [];
  /** In order of arrival. */
  readonly waiting: ServerLock[] = [];
  /** Kept by UncommittedChanges. */
  change: Change | undefined = undefined;
  /** The client that made the last change, while the resource is known. Kept by Turns. */
  changedBy: ClientUuid | undefined = undefined;
  /** Clients that are busy here, as far as is known. Kept by Turns; forgotten with the resource. */
  eager: Set<ClientUuid> | undefined = undefined;
  readonly #overlap: Overlap;
  /** Granted locks of modes that are not shared. At 0 a shared request needs no look at the holders. */
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

  /** Nothing held, nothing waiting and nothing uncommitted is in the way. */
  free(lock: ServerLock): boolean {
    return (
      this.holderInTheWay(lock) === undefined &&
      this.waiterInTheWay(lock, this.waiting.length) === undefined &&
      (this.change === undefined || !this.#changeInTheWay(lock, this.change))
    );
  }

  /** Another client has changed what the lock covers, and a crash could still undo it. */
  uncommittedFor(lock: ServerLock): boolean {
    return this.change !== undefined && this.#changeInTheWay(lock, this.change);
  }

  #changeInTheWay(lock: ServerLock, change: Change): boolean {
    if (change.client === lock.client || lock.conflictMask === 0) return false;
    return this.type !== 'inode' || (change.bits & lock.bits) !== 0;
  }

  /** A lock of this client that is not called back and allows all that this one would. */
  coveredBy(lock: ServerLock): ServerLock | undefined {
    return this.granted.find(
      (held) =>
        held.client === lock.client &&
        !held.operation &&
        held.bast === 'none' &&
        modeCovers(held.mode, lock.mode) &&
        (held.bits & lock.bits) === lock.bits,
    );
  }

  holderInTheWay(lock: ServerLock): ServerLock | undefined {
    const { granted } = this;
    if (granted.length === 0 || (this.#exclusive === 0 && isShared(lock.mode))) return undefined;
    for (const holder of granted) if (this.conflict(lock, holder)) return holder;
    return undefined;
  }

  /** Among the first `ahead` of the queue. Those that wait for the turn of the lock's own client are passed. */
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

  /** Takes a granted lock out. */
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

  /** Takes a waiting lock out. */
  unqueue(lock: ServerLock): void {
    const index = this.waiting.indexOf(lock);
    assert(lock.state === 'waiting' && index >= 0, 'unqueues a lock that does not wait');
    this.waiting.splice(index, 1);
    lock.state = 'gone';
    lock.waiter = undefined;
    lock.blocker = undefined;
  }

  /**
   * Whether the lock still has to wait, with `ahead` of the queue in front of it. The first time it is in head position,
   * and those whose turn it is have had theirs, every holder in its way is called back.
   */
  blocked(lock: ServerLock, ahead: number, wanted: Wanted): boolean {
    // What was in the way last time usually still is: with thousands of holders each cancel costs one look, not a scan.
    if (lock.blocker !== undefined && lock.blocker.state === lock.blockerState) return true;
    lock.blocker = this.waiterInTheWay(lock, ahead);
    lock.blockerState = 'waiting';
    if (lock.blocker !== undefined) return true;
    const change =
      this.change !== undefined && this.#changeInTheWay(lock, this.change) ? this.change : undefined;
    if (!lock.calledBack) {
      if (change !== undefined && wanted.hasTurn(this, change)) return true;
      // An operation that is executed just now may be the beginning of a turn.
      lock.calledBack = change !== undefined;
      for (const holder of this.granted) {
        if (holder.operation || !this.conflict(lock, holder)) continue;
        lock.calledBack = true;
        wanted.callBack(holder);
      }
    }
    lock.blocker = this.holderInTheWay(lock);
    lock.blockerState = 'granted';
    // Who gives a data lock back writes first, and that belongs into the commit.
    if (change !== undefined && !change.asked && (lock.blocker === undefined || this.type === 'inode')) {
      change.asked = true;
      wanted.commit();
    }
    return lock.blocker !== undefined || change !== undefined;
  }

  /** Takes those that need not wait any longer out of the queue, in order, and grants them. */
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

  /** As the header says. An uncommitted change may be in the way of a waiting lock, too. */
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
