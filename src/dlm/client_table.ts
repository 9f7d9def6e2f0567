/**
 * The locks that each client holds and waits for, except application locks. A client is known while it has any.
 *
 * Invariant: the counts of a client are those of its locks, and lockCount is that of all.
 */

import { assert } from '../base/assert.js';
import type { ClientUuid, LockHandle } from '../base/ids.js';
import type { Acquisition } from './acquisition.js';
import type { LockSpec } from './api.js';
import type { ServerLock } from './resource.js';

export interface ClientLocks {
  /** Cache locks, granted and waiting. */
  readonly locks: Map<LockHandle, ServerLock>;
  /** Operations for this client that wait for locks. */
  readonly operations: Set<Acquisition>;
  /** Number of its granted locks, by type. */
  readonly held: Record<LockSpec['type'], number>;
  /** Number of its granted locks that were called back. The active lock does not count: a drain has its own limit. */
  calledBack: number;
  /** Number of its granted locks that it was asked for because it has many, and where the look for more goes on. */
  asked: number;
  oldest: Iterator<ServerLock> | undefined;
}

export class ClientTable {
  readonly #clients = new Map<ClientUuid, ClientLocks>();
  /** Cache locks of all clients, granted and waiting. */
  lockCount = 0;

  get size(): number {
    return this.#clients.size;
  }

  find(client: ClientUuid): ClientLocks | undefined {
    return this.#clients.get(client);
  }

  /** The client's entry, made if there is none. The caller adds a lock or operation to it at once. */
  of(client: ClientUuid): ClientLocks {
    let known = this.#clients.get(client);
    if (known === undefined) {
      known = {
        locks: new Map(),
        operations: new Set(),
        held: { active: 0, inode: 0, data: 0 },
        calledBack: 0,
        asked: 0,
        oldest: undefined,
      };
      this.#clients.set(client, known);
    }
    return known;
  }

  forgetIfIdle(client: ClientUuid): void {
    const known = this.#clients.get(client);
    if (known !== undefined && known.locks.size === 0 && known.operations.size === 0) {
      this.#clients.delete(client);
    }
  }

  waits(lock: ServerLock): void {
    this.of(lock.client).locks.set(lock.handle, lock);
    this.lockCount++;
  }

  granted(lock: ServerLock): void {
    const known = this.of(lock.client);
    if (!known.locks.has(lock.handle)) this.lockCount++;
    known.locks.set(lock.handle, lock);
    known.held[lock.type]++;
  }

  calledBack(lock: ServerLock): void {
    if (lock.type !== 'active') this.of(lock.client).calledBack++;
  }

  /** A granted lock was removed. */
  gone(lock: ServerLock): void {
    const known = this.of(lock.client);
    known.locks.delete(lock.handle);
    this.lockCount--;
    known.held[lock.type]--;
    if (lock.asked) known.asked--;
    if (lock.bast !== 'none' && lock.type !== 'active') known.calledBack--;
    this.forgetIfIdle(lock.client);
  }

  /** A waiting lock was removed. */
  withdrawn(lock: ServerLock): void {
    this.of(lock.client).locks.delete(lock.handle);
    this.lockCount--;
    this.forgetIfIdle(lock.client);
  }

  holders(type: LockSpec['type']): ClientUuid[] {
    const found: ClientUuid[] = [];
    for (const [client, { held }] of this.#clients) if (held[type] > 0) found.push(client);
    return found;
  }

  *locks(): Iterable<ServerLock> {
    for (const { locks } of this.#clients.values()) yield* locks.values();
  }

  clients(): Iterable<ClientUuid> {
    return this.#clients.keys();
  }

  checkInvariants(): void {
    let lockCount = 0;
    for (const [client, known] of this.#clients) {
      lockCount += known.locks.size;
      assert(known.locks.size + known.operations.size > 0, `client ${client} is known, and has nothing`);
      const held = { active: 0, inode: 0, data: 0 };
      let calledBack = 0;
      let asked = 0;
      for (const [handle, lock] of known.locks) {
        assert(
          lock.handle === handle && lock.client === client,
          `lock ${handle} of ${client} is another one`,
        );
        assert(lock.state === 'granted' || lock.state === 'waiting', `lock ${handle} is '${lock.state}'`);
        if (lock.state !== 'granted') continue;
        held[lock.type] += 1;
        if (lock.asked) asked += 1;
        if (lock.bast !== 'none' && lock.type !== 'active') calledBack += 1;
      }
      for (const type of ['active', 'inode', 'data'] as const) {
        assert(
          held[type] === known.held[type],
          `${client} holds ${held[type]} ${type} locks, counted ${known.held[type]}`,
        );
      }
      assert(asked === known.asked, `${client} was asked for ${asked} locks, counted ${known.asked}`);
      assert(
        calledBack === known.calledBack,
        `${calledBack} locks of ${client} are called back, counted ${known.calledBack}`,
      );
    }
    assert(lockCount === this.lockCount, `${lockCount} locks are known, counted ${this.lockCount}`);
  }
}
