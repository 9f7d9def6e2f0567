/** What each client holds and waits for, application locks aside. A client is known while there is something. */

import { assert } from '../base/assert.js';
import type { ClientUuid, LockHandle } from '../base/ids.js';
import type { Acquisition } from './acquisition.js';
import type { LockSpec } from './api.js';
import type { ServerLock } from './resource.js';

export interface ClientLocks {
  /** Cache locks, granted and waiting. */
  readonly locks: Map<LockHandle, ServerLock>;
  /** Operations for it that wait. */
  readonly operations: Set<Acquisition>;
  /** Those granted, by type. */
  readonly held: Record<LockSpec['type'], number>;
  /** Of those granted, how many were called back. Not the active lock: a drain has its own limit. */
  calledBack: number;
}

export class ClientTable {
  readonly #clients = new Map<ClientUuid, ClientLocks>();

  get size(): number {
    return this.#clients.size;
  }

  find(client: ClientUuid): ClientLocks | undefined {
    return this.#clients.get(client);
  }

  /** Made known; the caller enters something at once. */
  of(client: ClientUuid): ClientLocks {
    let known = this.#clients.get(client);
    if (known === undefined) {
      known = {
        locks: new Map(),
        operations: new Set(),
        held: { active: 0, inode: 0, data: 0 },
        calledBack: 0,
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

  granted(lock: ServerLock): void {
    const known = this.of(lock.client);
    known.locks.set(lock.handle, lock);
    known.held[lock.type]++;
  }

  calledBack(lock: ServerLock): void {
    if (lock.type !== 'active') this.of(lock.client).calledBack++;
  }

  /** A granted lock went. */
  gone(lock: ServerLock): void {
    const known = this.of(lock.client);
    known.locks.delete(lock.handle);
    known.held[lock.type]--;
    if (lock.bast !== 'none' && lock.type !== 'active') known.calledBack--;
    this.forgetIfIdle(lock.client);
  }

  /** A waiting lock went. */
  withdrawn(lock: ServerLock): void {
    this.of(lock.client).locks.delete(lock.handle);
    this.forgetIfIdle(lock.client);
  }

  holders(type: LockSpec['type']): ClientUuid[] {
    const found: ClientUuid[] = [];
    for (const [client, { held }] of this.#clients) if (held[type] > 0) found.push(client);
    return found;
  }

  /** Known clients have something, and what they have is counted. */
  checkInvariants(): void {
    for (const [client, { locks, operations, held, calledBack }] of this.#clients) {
      assert(locks.size + operations.size > 0, `client ${client} is known with nothing`);
      const counted = { active: 0, inode: 0, data: 0 };
      let called = 0;
      for (const [handle, lock] of locks) {
        assert(
          lock.handle === handle && lock.client === client,
          `lock ${lock.handle} of ${lock.client} lies at ${handle} of ${client}`,
        );
        assert(lock.state === 'granted' || lock.state === 'waiting', `lock ${handle} is ${lock.state}`);
        if (lock.state !== 'granted') continue;
        counted[lock.type] += 1;
        if (lock.bast !== 'none' && lock.type !== 'active') called += 1;
      }
      for (const type of ['active', 'inode', 'data'] as const) {
        assert(
          counted[type] === held[type],
          `client ${client} holds ${held[type]} ${type} locks, ${counted[type]} in the table`,
        );
      }
      assert(
        called === calledBack,
        `${calledBack} locks of ${client} are called back, ${called} in the table`,
      );
    }
  }
}
