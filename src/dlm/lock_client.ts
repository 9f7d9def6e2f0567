/**
 * The cache locks that one client holds on one target.
 *
 * A lock's life: held -> cancelling (called back, chosen by the LRU, drained or forgotten) -> given back. release()
 * runs once, when the lock becomes cancelling. The client gives the lock back when release() has ended and no reference
 * is held.
 *
 * Invariants:
 * - match() never finds a lock that is cancelling; find() does, until it is given back.
 * - The client sends a handle back to the server once, through callbacks.cancel or through what cancelAll() returns,
 *   and never after forgetAll().
 * - The LRU holds exactly the locks that are not cancelling.
 * - A handle is valid for one instance of the server. When another instance takes over, each lock is nameless until
 *   that instance has granted or refused it. If the client gives a nameless lock back, it sends no CANCEL. A lock that was
 *   added ahead of its grant is nameless too, and no other instance is asked for it before it has had its grant.
 * - The chains hold exactly the locks with a handle, the nameless ones, and the forgotten ones that are not released
 *   yet.
 * - A lock whose release() has ended stays only while a reference is held.
 */

import { assert } from '../base/assert.js';
import type { Fid, LockHandle } from '../base/ids.js';
import { logger } from '../base/log.js';
import { isPromise, type MaybePromise } from '../base/maybe_promise.js';
import { Deferred } from '../base/wait.js';
import type { CachedLock, LockClientApi, LockClientCallbacks, LockSpec, Mode } from './api.js';
import { type Linked, LockLru } from './lock_lru.js';
import { CONFLICT_MASK } from './modes.js';

const log = logger('dlm:client');

export interface LockClientOptions {
  readonly callbacks: LockClientCallbacks;
  /** Locks held at most, if enough of them are unused. */
  readonly maxLocks: number;
  /** Schedules the CANCEL of a batch of locks: by default at the end of the turn. */
  readonly soon?: (fn: () => void) => void;
}

/** Handles in one CANCEL: the limit of its schema. */
export const CANCEL_BATCH_MAX = 50_000;
/**
 * BASTs remembered for locks whose grant has not arrived. Most name locks that were just given back, for which no grant
 * will come.
 */
const EARLY_MAX = 4096;
/** How many locks in use an LRU search passes before it stops. */
const LRU_SEARCH_MAX = 256;
/** The LRU releases this share of maxLocks at once, so that the cancels of a long scan travel in batches. */
const LRU_BATCH_SHARE = 32;
/** Of a nameless lock that never had one. */
const NO_HANDLE = 0 as LockHandle;
const DONE: Promise<void> = Promise.resolve();

class Lock implements CachedLock, Linked<Lock> {
  handle: LockHandle;
  readonly type: 'inode' | 'data';
  readonly fid: Fid;
  readonly mode: Mode;
  readonly bits: number;
  readonly conflictMask: number;
  cancelling = false;
  /** The server no longer knows this lock, so the client does not send its handle back. */
  forgotten = false;
  refs = 0;
  /** release() has ended. */
  released = false;
  /** Given back, or forgotten and released: nobody may use it any more. */
  gone = false;
  /** The server has not granted it yet, and will: see addAhead(). */
  ahead = false;
  /** Resolves when release() has ended. Defined only while release() waits for something. */
  releasing: Promise<void> | undefined = undefined;
  unused: Deferred<void> | undefined = undefined;
  older: Lock | undefined = undefined;
  younger: Lock | undefined = undefined;
  /** Another lock on the same thing. */
  next: Lock | undefined = undefined;

  constructor(spec: LockSpec & { readonly handle: LockHandle }) {
    assert(spec.type !== 'active' && spec.fid !== 0, 'the active lock is kept by the gate');
    this.handle = spec.handle;
    this.type = spec.type;
    this.fid = spec.fid;
    this.mode = spec.mode;
    this.bits = spec.bits;
    this.conflictMask = CONFLICT_MASK[spec.mode];
  }

  covers(conflictMask: number, bits: number): boolean {
    return (conflictMask & ~this.conflictMask) === 0 && (bits & ~this.bits) === 0;
  }
}

export class LockClient implements LockClientApi {
  readonly #callbacks: LockClientCallbacks;
  readonly #maxLocks: number;
  readonly #soon: (fn: () => void) => void;
  readonly #byHandle = new Map<LockHandle, Lock>();
  /** Locks that an earlier instance of the server granted and this one has not granted again yet. */
  readonly #nameless = new Set<Lock>();
  /** Heads of the chains of locks on one inode, cancelling ones included; the same for data below. */
  readonly #inodes = new Map<Fid, Lock>();
  readonly #data = new Map<Fid, Lock>();
  readonly #lru = new LockLru<Lock>();
  /** Handles that were called back before their grant arrived, oldest first. */
  readonly #early = new Set<LockHandle>();
  /** Handles to give back at the end of this turn. */
  #batch: LockHandle[] = [];
  /** Where given-back handles go while a drain collects them. */
  #drained: LockHandle[] | undefined = undefined;

  constructor(options: LockClientOptions) {
    this.#callbacks = options.callbacks;
    this.#maxLocks = options.maxLocks;
    this.#soon = options.soon ?? queueMicrotask;
  }

  /** Number of locks not given back yet. */
  get size(): number {
    return this.#byHandle.size + this.#nameless.size;
  }

  /** All locks held, called back or not: for checks from outside. */
  held(): readonly CachedLock[] {
    return [...this.#byHandle.values(), ...this.#nameless];
  }

  knows(handle: LockHandle): boolean {
    return this.#byHandle.has(handle);
  }

  match(type: 'inode' | 'data', fid: Fid, mode: Mode, bits: number): CachedLock | undefined {
    const conflictMask = CONFLICT_MASK[mode];
    for (let lock = this.#chains(type).get(fid); lock !== undefined; lock = lock.next) {
      if (lock.cancelling || !lock.covers(conflictMask, bits)) continue;
      this.#lru.touch(lock);
      return lock;
    }
    return undefined;
  }

  find(type: 'inode' | 'data', fid: Fid, mode: Mode, bits: number): CachedLock | undefined {
    const conflictMask = CONFLICT_MASK[mode];
    let found: Lock | undefined;
    for (let lock = this.#chains(type).get(fid); lock !== undefined; lock = lock.next) {
      if (lock.forgotten || !lock.covers(conflictMask, bits)) continue;
      if (!lock.cancelling) return lock;
      found ??= lock;
    }
    return found;
  }

  holds(type: 'inode' | 'data', fid: Fid): boolean {
    return this.#chains(type).has(fid);
  }

  forgets(type: 'inode' | 'data', fid: Fid): boolean {
    for (let lock = this.#chains(type).get(fid); lock !== undefined; lock = lock.next) {
      if (lock.forgotten) return true;
    }
    return false;
  }

  isLast(lock: CachedLock): boolean {
    const mine = this.#own(lock);
    for (let other = this.#chains(mine.type).get(mine.fid); other !== undefined; other = other.next) {
      if (other !== mine && !other.released) return false;
    }
    return true;
  }

  add(spec: LockSpec & { readonly handle: LockHandle }): CachedLock {
    const lock = new Lock(spec);
    assert(!this.#byHandle.has(lock.handle), 'a lock is added twice');
    this.#byHandle.set(lock.handle, lock);
    this.#chain(lock);
    if (this.#early.delete(lock.handle)) {
      // No other operation may use the lock. The operation that asked for it still can: it takes its reference in this
      // turn.
      void this.#cancelling(lock, DONE);
    } else if (this.#lru.size > this.#maxLocks) {
      this.#shrink(lock);
    }
    return lock;
  }

  addAhead(spec: LockSpec): CachedLock {
    const lock = new Lock({ ...spec, handle: NO_HANDLE });
    lock.ahead = true;
    this.#nameless.add(lock);
    this.#chain(lock);
    if (this.#lru.size > this.#maxLocks) this.#shrink(lock);
    return lock;
  }

  #chain(lock: Lock): void {
    const chains = this.#chains(lock.type);
    lock.next = chains.get(lock.fid);
    chains.set(lock.fid, lock);
    this.#lru.add(lock);
  }

  addRef(lock: CachedLock): void {
    const mine = this.#own(lock);
    assert(!mine.gone, 'a reference to a lock that was given back');
    mine.refs++;
  }

  dropRef(lock: CachedLock): void {
    const mine = this.#own(lock);
    assert(mine.refs > 0, 'a reference is dropped twice');
    mine.refs--;
    if (mine.refs > 0) return;
    mine.unused?.resolve();
    mine.unused = undefined;
    if (mine.released && !mine.gone) this.#giveBack(mine);
  }

  unused(lock: CachedLock): MaybePromise<void> {
    const mine = this.#own(lock);
    if (mine.refs === 0) return undefined;
    mine.unused ??= new Deferred<void>();
    return mine.unused.promise;
  }

  called(handle: LockHandle): void {
    const lock = this.#byHandle.get(handle);
    if (lock !== undefined) {
      if (!lock.cancelling) void this.#cancelling(lock);
      return;
    }
    this.#early.add(handle);
    if (this.#early.size <= EARLY_MAX) return;
    for (const oldest of this.#early) {
      this.#early.delete(oldest);
      return;
    }
  }

  handBack(lock: CachedLock): void {
    const mine = this.#own(lock);
    if (!mine.cancelling) void this.#cancelling(mine);
  }

  giveBackUnused(fid: Fid): void {
    const unused: Lock[] = [];
    for (const type of ['inode', 'data'] as const) {
      for (let lock = this.#chains(type).get(fid); lock !== undefined; lock = lock.next) {
        if (lock.cancelling) continue;
        lock.cancelling = true;
        this.#lru.remove(lock);
        lock.released = true;
        unused.push(lock);
      }
    }
    for (const lock of unused) if (lock.refs === 0) this.#giveBack(lock);
  }

  newInstance(): void {
    this.#early.clear();
    this.#batch = [];
    this.#drained = undefined;
    this.toReplay();
  }

  toReplay(): readonly CachedLock[] {
    for (const lock of this.#byHandle.values()) this.#nameless.add(lock);
    this.#byHandle.clear();
    return [...this.#nameless].filter(({ ahead }) => !ahead);
  }

  granted(lock: CachedLock, handle: LockHandle): void {
    const mine = this.#own(lock);
    mine.ahead = false;
    if (mine.forgotten) return;
    if (mine.gone) {
      this.#sendBack(handle);
      return;
    }
    assert(this.#nameless.delete(mine), 'a lock was granted that had a name');
    assert(!this.#byHandle.has(handle), 'one handle for two locks');
    mine.handle = handle;
    this.#byHandle.set(handle, mine);
    if (this.#early.delete(handle) && !mine.cancelling) void this.#cancelling(mine);
  }

  forget(lock: CachedLock): void {
    const mine = this.#own(lock);
    if (mine.gone || mine.forgotten) return;
    this.#nameless.delete(mine);
    mine.forgotten = true;
    if (!mine.cancelling) void this.#cancelling(mine);
    else if (mine.released) this.#giveBack(mine);
  }

  async giveBackOldest(count: number): Promise<number> {
    const locks: Lock[] = [];
    for (let lock = this.#lru.oldest; lock !== undefined && locks.length < count; lock = lock.younger) {
      if (lock.refs === 0) locks.push(lock);
    }
    await this.#releaseAll(locks);
    return locks.length;
  }

  async cancelAll(): Promise<readonly LockHandle[]> {
    assert(this.#drained === undefined, 'two drains at once');
    const drained = this.#batch;
    this.#batch = [];
    this.#drained = drained;
    // Grants that were under way when the drain began arrive while it waits. So repeat until no lock is left.
    while (this.#drained === drained && this.size > 0) {
      const locks = [...this.#byHandle.values(), ...this.#nameless];
      await this.#releaseAll(locks);
      for (const lock of locks) {
        const unused = this.unused(lock);
        if (unused !== undefined) await unused;
      }
    }
    if (this.#drained !== drained) return []; // the locks were forgotten meanwhile, or stay
    this.#drained = undefined;
    return drained;
  }

  cancelNoMore(): void {
    const drained = this.#drained;
    this.#drained = undefined;
    for (const handle of drained ?? []) this.#sendBack(handle);
  }

  async forgetAll(): Promise<void> {
    this.#early.clear();
    this.#batch = [];
    this.#drained = undefined;
    const locks = [...this.#byHandle.values(), ...this.#nameless];
    // The next instance of the server may give out the same handles.
    this.#byHandle.clear();
    this.#nameless.clear();
    for (const lock of locks) {
      lock.forgotten = true;
      // Its release() has ended before; only a reference kept it.
      if (lock.released) this.#giveBack(lock);
    }
    await this.#releaseAll(locks);
  }

  #chains(type: 'inode' | 'data'): Map<Fid, Lock> {
    return type === 'inode' ? this.#inodes : this.#data;
  }

  #own(lock: CachedLock): Lock {
    assert(lock instanceof Lock, 'not a lock of a LockClient');
    return lock;
  }

  /** Releases locks. Resolves when release() has ended for each, also where it was under way already. */
  async #releaseAll(locks: readonly Lock[]): Promise<void> {
    const releasing: Promise<void>[] = [];
    for (const lock of locks) {
      if (lock.released) continue;
      const wait = lock.releasing ?? this.#cancelling(lock);
      if (wait !== undefined) releasing.push(wait);
    }
    await Promise.all(releasing);
  }

  /**
   * Starts giving a lock back, at once or after a turn. @returns a promise that resolves when release() has ended, if
   * it waits.
   */
  #cancelling(lock: Lock, after?: Promise<void>): MaybePromise<void> {
    assert(!lock.cancelling, 'a lock is released twice');
    lock.cancelling = true;
    this.#lru.remove(lock);
    if (after !== undefined) {
      lock.releasing = after.then(() => this.#release(lock));
      return lock.releasing;
    }
    const releasing = this.#release(lock);
    if (releasing !== undefined) lock.releasing = releasing;
    return releasing;
  }

  #release(lock: Lock): MaybePromise<void> {
    try {
      const releasing = this.#callbacks.release(lock);
      if (isPromise(releasing)) return this.#awaitRelease(lock, releasing);
    } catch (error) {
      releaseFailed(lock, error);
    }
    this.#released(lock);
  }

  async #awaitRelease(lock: Lock, releasing: Promise<void>): Promise<void> {
    try {
      await releasing;
    } catch (error) {
      releaseFailed(lock, error);
    }
    this.#released(lock);
  }

  #released(lock: Lock): void {
    lock.released = true;
    // A forgotten lock protects nothing. Operations that still run under it learn that by other means.
    if (lock.refs === 0 || lock.forgotten) this.#giveBack(lock);
  }

  #giveBack(lock: Lock): void {
    lock.gone = true;
    this.#unchain(lock);
    // A nameless lock needs no CANCEL here: if its replay is on the way, granted() gives the new handle back.
    if (!lock.forgotten && !this.#nameless.delete(lock)) {
      this.#byHandle.delete(lock.handle);
      this.#sendBack(lock.handle);
    }
    if (!this.holds(lock.type, lock.fid)) this.#callbacks.gone(lock.type, lock.fid);
  }

  #sendBack(handle: LockHandle): void {
    if (this.#drained !== undefined) {
      this.#drained.push(handle);
      return;
    }
    this.#batch.push(handle);
    if (this.#batch.length === 1) this.#soon(() => this.#sendBatch());
  }

  #unchain(lock: Lock): void {
    const chains = this.#chains(lock.type);
    const head = chains.get(lock.fid);
    if (head === lock) {
      if (lock.next === undefined) chains.delete(lock.fid);
      else chains.set(lock.fid, lock.next);
    } else {
      let before = head;
      while (before !== undefined && before.next !== lock) before = before.next;
      assert(before !== undefined, 'a lock is missing from its chain');
      before.next = lock.next;
    }
    lock.next = undefined;
  }

  #sendBatch(): void {
    const handles = this.#batch;
    this.#batch = [];
    for (let start = 0; start < handles.length; start += CANCEL_BATCH_MAX) {
      this.#callbacks.cancel(handles.slice(start, start + CANCEL_BATCH_MAX));
    }
  }

  /**
   * Releases the oldest unused locks. @param spare the lock just added: the operation that asked for it has not used it
   * yet.
   */
  #shrink(spare: Lock): void {
    const target = this.#maxLocks - Math.floor(this.#maxLocks / LRU_BATCH_SHARE);
    let searched = 0;
    let lock = this.#lru.oldest;
    while (lock !== undefined && this.#lru.size > target && searched < LRU_SEARCH_MAX) {
      const { younger } = lock;
      // A turn later: the operation that asked for the added lock may be using what this lock caches.
      if (lock.refs === 0 && lock !== spare) void this.#cancelling(lock, DONE);
      else searched++;
      lock = younger;
    }
  }

  checkInvariants(): void {
    this.#lru.checkInvariants();
    const chained = new Set<Lock>();
    let forgotten = 0;
    let usable = 0;
    for (const lock of this.#chained()) {
      const what = `lock ${lock.handle} on ${lock.type} ${lock.fid}`;
      assert(!chained.has(lock), `${what} is in its chain twice`);
      chained.add(lock);
      assert(!lock.gone && lock.refs >= 0, `${what} is kept: gone ${lock.gone}, ${lock.refs} references`);
      assert(lock.refs > 0 || lock.unused === undefined, `${what} is waited for, and not in use`);
      assert(
        !lock.released || (lock.cancelling && !lock.forgotten && lock.refs > 0),
        `${what} is not given back`,
      );
      if (!lock.cancelling) usable += 1;
      if (lock.forgotten) forgotten += 1;
      const isNamed = this.#byHandle.get(lock.handle) === lock;
      const homes = Number(isNamed) + Number(this.#nameless.has(lock)) + Number(lock.forgotten);
      assert(homes === 1, `${what} is named, nameless or forgotten: ${homes} of the three`);
    }
    const { size } = this;
    assert(
      chained.size === size + forgotten,
      `${chained.size} locks in chains, ${size} held, ${forgotten} forgotten`,
    );
    assert(
      usable === this.#lru.size,
      `${usable} locks are not being given back, the LRU has ${this.#lru.size}`,
    );
    for (const lock of this.#lru) {
      assert(chained.has(lock) && !lock.cancelling, `lock ${lock.handle} is in the LRU, and is given back`);
    }
    assert(this.#early.size <= EARLY_MAX, `${this.#early.size} early BASTs are kept`);
    for (const list of [this.#early, this.#batch, this.#drained ?? []]) {
      for (const handle of list) assert(!this.#byHandle.has(handle), `lock ${handle} is held, and goes back`);
    }
  }

  *#chained(): Iterable<Lock> {
    for (const type of ['inode', 'data'] as const) {
      for (const [fid, head] of this.#chains(type)) {
        for (let lock: Lock | undefined = head; lock !== undefined; lock = lock.next) {
          assert(
            lock.type === type && lock.fid === fid,
            `lock ${lock.handle} is in the chain of ${type} ${fid}`,
          );
          yield lock;
        }
      }
    }
  }
}

/**
 * A failed release() is a bug of the owner. If the client kept the lock, the server would evict it, so the lock goes
 * all the same.
 */
function releaseFailed({ type, handle, fid }: CachedLock, error: unknown): void {
  log('release of %s lock %d on %d failed: %O', type, handle, fid, error);
}
