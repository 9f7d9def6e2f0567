/**
 * How many cache locks a client may have. A lock costs the server memory, whoever needs it.
 *
 * - Up to its limit a client gets what it asks for. Beyond it, it gets no lock that it can do without (one that would come with an
 *   answer), and the server asks for the locks back that the client has had for the longest time. A client that needs a lock (ENQUEUE)
 *   gets it, up to twice its limit, then ENOLCK.
 * - To ask a lock back for this reason has no time limit, and nobody is evicted for it: nobody waits for this lock. It is a BAST like
 *   others for the client.
 * - If all clients together have more than the server has memory for, the limit of each is its equal share.
 * - Locks that a client had before a crash are granted again, whatever their number was.
 *
 * Invariant: the number of locks that a client was asked for is counted, and the lock says that it was asked.
 */

import type { ClientUuid } from '../base/ids.js';
import type { Timers } from '../runtime/ports.js';
import type { ClientLocks, ClientTable } from './client_table.js';
import type { ServerLock } from './resource.js';

/** Several times as many locks as our client keeps. */
export const CACHE_LOCKS_MAX = 500_000;
/** Of all clients: about 2.6 GiB, see docs/OPERATIONS.md. */
export const ALL_LOCKS_MAX = 4_000_000;
/** What a client needs to work at all. */
const LIMIT_MIN = 64;
/** Of its limit a client that has reached it is asked for one in so many: then answers carry locks again. */
const ROOM_SHARE = 16;
/** How many locks are asked for at one time, and looked at for that. */
const ASKED_AT_ONCE = 32;
const LOOKED_AT = 128;

export interface LockLimitOptions {
  /** Default CACHE_LOCKS_MAX for each client. */
  readonly limitOf?: ((client: ClientUuid) => number | undefined) | undefined;
  /** Of one client, whatever its own limit is. Default 2 * CACHE_LOCKS_MAX. */
  readonly maxCacheLocks?: number | undefined;
  /** Default ALL_LOCKS_MAX. */
  readonly maxAllLocks?: number | undefined;
}

export class LockLimits {
  readonly #options: LockLimitOptions;
  readonly #timers: Pick<Timers, 'soon'>;
  readonly #clients: ClientTable;
  readonly #bast: (lock: ServerLock) => void;
  /** Locks to ask for when the events under way are over: the answers that carry them leave first. */
  #toAsk: ServerLock[] = [];

  constructor(
    options: LockLimitOptions,
    timers: Pick<Timers, 'soon'>,
    clients: ClientTable,
    bast: (lock: ServerLock) => void,
  ) {
    this.#options = options;
    this.#timers = timers;
    this.#clients = clients;
    this.#bast = bast;
  }

  /** Beyond it a client gets only what it needs. */
  #limit(client: ClientUuid): number {
    const { limitOf, maxAllLocks = ALL_LOCKS_MAX } = this.#options;
    const own = Math.min(limitOf?.(client) ?? CACHE_LOCKS_MAX, CACHE_LOCKS_MAX);
    const share = this.#clients.lockCount < maxAllLocks ? own : Math.floor(maxAllLocks / this.#clients.size);
    return Math.max(LIMIT_MIN, Math.min(own, share));
  }

  get #hardMax(): number {
    return this.#options.maxCacheLocks ?? 2 * CACHE_LOCKS_MAX;
  }

  /** Whether it may have one more that it had before. */
  mayHaveAgain(client: ClientUuid): boolean {
    return this.#held(client) < this.#hardMax;
  }

  /** Whether it may have one more that it needs. */
  mayHave(client: ClientUuid): boolean {
    const held = this.#held(client);
    return held < LIMIT_MIN ? held < this.#hardMax : held < Math.min(this.#hardMax, 2 * this.#limit(client));
  }

  /** Whether it may have one more that it can do without. */
  hasRoom(client: ClientUuid): boolean {
    const held = this.#held(client);
    return held < Math.min(this.#hardMax, held < LIMIT_MIN ? LIMIT_MIN : this.#limit(client));
  }

  #held(client: ClientUuid): number {
    return this.#clients.find(client)?.locks.size ?? 0;
  }

  /** Asks for old locks, if the client has as many as it may. */
  makeRoom(client: ClientUuid): void {
    const known = this.#clients.find(client);
    if (known === undefined || known.locks.size < LIMIT_MIN) return;
    const limit = this.#limit(client);
    if (known.locks.size < limit) return;
    const surplus = known.locks.size - limit + Math.ceil(limit / ROOM_SHARE) - known.asked;
    for (
      let left = Math.min(surplus, ASKED_AT_ONCE), looked = 0;
      left > 0 && looked < LOOKED_AT;
      looked += 1
    ) {
      const lock = nextOldest(known);
      if (lock === undefined) return;
      if (lock.state !== 'granted' || lock.type === 'active' || lock.asked || lock.bast !== 'none') continue;
      lock.asked = true;
      known.asked += 1;
      left -= 1;
      this.#ask(lock);
    }
  }

  /** The client may not have heard of some. */
  askAgain(client: ClientUuid): void {
    for (const lock of this.#clients.find(client)?.locks.values() ?? []) if (lock.asked) this.#ask(lock);
  }

  #ask(lock: ServerLock): void {
    if (this.#toAsk.push(lock) > 1) return;
    this.#timers.soon(() => {
      const locks = this.#toAsk;
      this.#toAsk = [];
      for (const one of locks) if (one.state === 'granted' && one.bast === 'none') this.#bast(one);
    });
  }
}

/** Goes round through the locks in the order of their grants. */
function nextOldest(known: ClientLocks): ServerLock | undefined {
  const next = known.oldest?.next();
  if (next?.done === false) return next.value;
  known.oldest = known.locks.values();
  const first = known.oldest.next();
  return first.done === true ? undefined : first.value;
}
