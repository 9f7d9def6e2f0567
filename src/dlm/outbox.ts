/**
 * The messages that the lock server sends when its state is consistent again: BASTs to holders, and the request for a
 * commit. Their receivers may call back into the lock server.
 *
 * If a waiting enqueue was granted a lock in this turn, the BAST of that lock is put off: the reply with the grant has
 * not left yet, and the BAST must not overtake it. The time limit runs from when the BAST is sent. At half of the limit
 * it is sent once more, in case it was lost although the connection holds.
 *
 * Invariants, between two calls of the lock server: everything wanted was sent, except the BASTs of fresh locks. Only
 * granted locks whose BAST was sent have a time limit, and a lock whose BAST was sent once has one.
 */

import { assert } from '../base/assert.js';
import type { Clock, LimitTime, Timers } from '../runtime/ports.js';
import type { HeldLock } from './api.js';
import { BastDeadlines } from './bast_deadlines.js';
import type { ServerLock } from './resource.js';

export interface OutboxOptions {
  readonly timers: Pick<Timers, 'soon'>;
  readonly limits: LimitTime;
  readonly lockTimeoutMs: number;
  bast(lock: HeldLock): void;
  expired(lock: HeldLock): void;
  commit(): void;
  /** Hears how long clients take to give back what was called back. */
  readonly givenBack: { observe(seconds: number): void };
  readonly clock: Pick<Clock, 'nowMs'>;
}

export class Outbox {
  readonly #options: OutboxOptions;
  readonly #deadlines: BastDeadlines<ServerLock>;
  readonly #basts: ServerLock[] = [];
  /** Locks granted to waiting enqueues in this turn. */
  #fresh: ServerLock[] = [];
  #commitWanted = false;
  #flushing = false;

  constructor(options: OutboxOptions) {
    this.#options = options;
    this.#deadlines = new BastDeadlines(options.limits, options.lockTimeoutMs / 2, (lock) => {
      if (lock.state !== 'granted') return;
      if (lock.bast === 'said') this.#say(lock, 'said again');
      else options.expired(lock);
    });
  }

  /** Number of BASTs whose time limit runs. */
  get deadlines(): number {
    return this.#deadlines.size;
  }

  /** @param lock the lock to call back. */
  callBack(lock: ServerLock): void {
    lock.bast = 'wanted';
    if (!lock.fresh) this.#basts.push(lock);
  }

  wantCommit(): void {
    this.#commitWanted = true;
  }

  /** A waiting enqueue was granted. */
  grantedLate(lock: ServerLock): void {
    this.#fresh.push(lock);
    if (this.#fresh.length === 1) this.#options.timers.soon(() => this.#ripen());
  }

  /** The lock was given back. */
  gone(lock: ServerLock): void {
    if (lock.bast === 'said' || lock.bast === 'said again') {
      const { clock, givenBack } = this.#options;
      givenBack.observe((clock.nowMs() - lock.calledBackMs) / 1000);
    }
    this.#deadlines.stop(lock);
  }

  flush(): void {
    if (this.#flushing || (this.#basts.length === 0 && !this.#commitWanted)) return;
    this.#flushing = true;
    try {
      for (const lock of this.#basts) {
        if (lock.state === 'granted' && lock.bast === 'wanted') this.#say(lock, 'said');
      }
      this.#basts.length = 0;
      if (this.#commitWanted) {
        this.#commitWanted = false;
        this.#options.commit();
      }
    } finally {
      this.#flushing = false;
    }
  }

  #say(lock: ServerLock, bast: ServerLock['bast']): void {
    if (bast === 'said') lock.calledBackMs = this.#options.clock.nowMs();
    lock.bast = bast;
    this.#deadlines.start(lock);
    this.#options.bast(lock);
  }

  /** The replies with these grants have left, so their BASTs may follow. */
  #ripen(): void {
    const ripe = this.#fresh;
    this.#fresh = [];
    for (const lock of ripe) {
      lock.fresh = false;
      if (lock.bast === 'wanted') this.#basts.push(lock);
    }
    this.flush();
  }

  /** @param locks all locks of all clients. */
  checkInvariants(locks: Iterable<ServerLock>): void {
    assert(this.#basts.length === 0 && !this.#commitWanted, `${this.#basts.length} BASTs were not said`);
    this.#deadlines.checkInvariants();
    for (const lock of this.#fresh) assert(lock.fresh, `lock ${lock.handle} is fresh, and does not know it`);
    for (const { handle, state, bast } of this.#deadlines.locks()) {
      const isSaid = bast === 'said' || bast === 'said again';
      assert(state === 'granted' && isSaid, `the time of lock ${handle} runs: ${state}, BAST ${bast}`);
    }
    for (const lock of locks) {
      const { handle, bast } = lock;
      assert(!lock.fresh || this.#fresh.includes(lock), `lock ${handle} stays fresh`);
      assert(bast !== 'wanted' || lock.fresh, `the BAST of lock ${handle} was not said`);
      assert(bast !== 'said' || this.#deadlines.has(lock), `the time of lock ${handle} does not run`);
    }
  }
}
