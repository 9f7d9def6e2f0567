/**
 * The table of exports, and which clients were evicted lately and why.
 *
 * Invariant: a client in the table was neither evicted nor has it said goodbye.
 */

import { assert } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import type { ClientUuid } from '../../base/ids.js';
import type { ClientExport } from './export.js';

export interface EvictedClient {
  readonly uuid: string;
  readonly name: string;
  readonly reason: string;
}

/** Most evictions that STATUS shows. */
const SHOWN_MAX = 16;
/** Number of reasons that are kept for clients that come back and ask. */
const REASONS_MAX = 4096;

export class ExportTable {
  readonly #exports = new Map<ClientUuid, ClientExport>();
  #evictedCount = 0;
  /** In the order of eviction. */
  readonly #evicted = new Map<ClientUuid, EvictedClient>();

  get size(): number {
    return this.#exports.size;
  }

  [Symbol.iterator](): IterableIterator<ClientExport> {
    return this.#exports.values();
  }

  get(uuid: ClientUuid): ClientExport | undefined {
    return this.#exports.get(uuid);
  }

  add(client: ClientExport): void {
    this.#exports.set(client.uuid, client);
  }

  remove(client: ClientExport): void {
    if (this.#exports.get(client.uuid) === client) this.#exports.delete(client.uuid);
  }

  /** Evictions of this instance so far. */
  get evictedCount(): number {
    return this.#evictedCount;
  }

  /** Of the last `count` evictions those that the table remembers, newest last. */
  lastEvicted(count: number): EvictedClient[] {
    return count <= 0 ? [] : [...this.#evicted.values()].slice(-count);
  }

  rememberEvicted(uuid: ClientUuid, name: string, reason: string): void {
    this.#evictedCount += 1;
    this.#evicted.delete(uuid);
    this.#evicted.set(uuid, { uuid, name, reason });
    if (this.#evicted.size <= REASONS_MAX) return;
    for (const oldest of this.#evicted.keys()) {
      this.#evicted.delete(oldest);
      return;
    }
  }

  evictionReason(uuid: ClientUuid): string | undefined {
    return this.#evicted.get(uuid)?.reason;
  }

  /** Newest last. */
  evicted(): EvictedClient[] {
    return this.lastEvicted(SHOWN_MAX);
  }

  checkInvariants(): void {
    for (const [uuid, client] of this.#exports) {
      assert(client.uuid === uuid, `client ${client.uuid} stands as ${uuid}`);
      assert(!client.life.isOverAlone, `client ${client.label} is gone, and in the table`);
      client.checkInvariants();
    }
    const { size } = this.#evicted;
    assert(
      size <= REASONS_MAX && size <= this.#evictedCount,
      `${size} evictions of ${this.#evictedCount} are kept`,
    );
  }
}

/**
 * Finds a client by UUID, prefix of a UUID, or name.
 * @throws FsError ENOENT, or EINVAL if more than one fits.
 */
export function findClient<C extends { readonly uuid: ClientUuid; readonly name: string }>(
  clients: readonly C[],
  idOrName: string,
): C {
  const wanted = idOrName.toLowerCase();
  const fitting = clients.filter(
    (one) => one.name === idOrName || (wanted !== '' && one.uuid.startsWith(wanted)),
  );
  const [first] = fitting;
  if (first === undefined)
    throw new FsError('ENOENT', `no client ${JSON.stringify(idOrName)}; see holdfast status`);
  if (fitting.length > 1) {
    throw new FsError(
      'EINVAL',
      `${fitting.length} clients fit ${JSON.stringify(idOrName)}: name one by UUID`,
    );
  }
  return first;
}
