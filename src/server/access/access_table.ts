/**
 * The access table of a served target: who may connect, and what they may do. It lies on the target, so that both servers of a
 * pair have it; this is its copy in memory, and the only place that changes it.
 *
 * Invariants:
 * - A name has one entry, and a key's id belongs to one entry.
 * - A change counts from the moment in which it is executed, also before it is durable: a removed key opens nothing any more.
 * - A secret leaves this object only for a handshake, or once to whoever had it made.
 */

import { AddressRange } from '../../base/address_range.js';
import { assert } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import { type Clock, type Rng, wallMs } from '../../runtime/ports.js';
import {
  ACCESS_KEYS_MAX,
  ACCESS_NAME,
  ACCESS_NETWORKS_MAX,
  type AccessKey,
  type AccessRecord,
  type TargetStore,
  TICKET_SECRET_BYTES,
} from '../../storage/api.js';

const KEY_BYTES = 32;
const ID_BYTES = 8;

/** What an administrator chooses of an entry. */
export type AccessWish = Omit<AccessRecord, 'keys' | 'createdMs'>;

export interface MadeKey {
  readonly entry: AccessRecord;
  readonly key: AccessKey;
}

type Store = Pick<TargetStore, 'access' | 'execute' | 'sync' | 'ticketSecret'>;
type Around = { readonly clock: Clock; readonly rng: Pick<Rng, 'u32'> };

export class AccessTable {
  readonly #store: Store;
  readonly #around: Around;
  readonly #entries = new Map<string, AccessRecord>();
  readonly #byKey = new Map<string, MadeKey>();
  /** The one of the store. */
  #ticketSecret: Buffer | undefined;
  /** Ranges of each entry, parsed once. */
  readonly #from = new Map<string, readonly AddressRange[]>();

  constructor(store: Store, around: Around) {
    this.#store = store;
    this.#around = around;
    for (const entry of store.access()) this.#put(entry);
    // A server that could not read it would lose the open files of its clients one by one: fsck has to look at it first.
    this.#ticketSecret = store.ticketSecret();
  }

  get isEmpty(): boolean {
    return this.#entries.size === 0;
  }

  /** In the order of their names. */
  list(): AccessRecord[] {
    return [...this.#entries.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  named(name: string): AccessRecord | undefined {
    return this.#entries.get(name);
  }

  /** @returns undefined if nobody has this key, or not any more. */
  withKey(id: string): MadeKey | undefined {
    const found = this.#byKey.get(id);
    return found !== undefined && this.#isValid(found.key) ? found : undefined;
  }

  /** The entry for a certificate: the first of its names that has one. */
  certified(names: readonly string[]): AccessRecord | undefined {
    for (const name of names) {
      const entry = this.#entries.get(name);
      if (entry?.kind === 'certificate') return entry;
    }
    return undefined;
  }

  rangesOf(entry: AccessRecord): readonly AddressRange[] {
    return this.#from.get(entry.name) ?? [];
  }

  /**
   * @returns the new entry, and its key if it has one.
   * @throws FsError EEXIST, EINVAL (name, networks, limits), ENOSPC.
   */
  add(wish: AccessWish): { readonly entry: AccessRecord; readonly key: AccessKey | undefined } {
    checkWish(wish);
    if (this.#entries.has(wish.name)) {
      throw new FsError(
        'EEXIST',
        `${wish.name} is in the access table; remove it first, or give it a new key with rotate`,
      );
    }
    const key = wish.kind === 'key' ? this.#makeKey() : undefined;
    const from = wish.from.map((text) => new AddressRange(text).text);
    const entry = { ...wish, from, keys: key === undefined ? [] : [key], createdMs: this.#nowMs() };
    this.#write(entry);
    return { entry, key };
  }

  /**
   * Makes a new key for an entry. The keys before it go on working for graceMs.
   * @throws FsError ENOENT, EINVAL (it has no keys), EBUSY (it has too many that still work), ENOSPC.
   */
  rotate(name: string, graceMs: number): MadeKey {
    const before = this.#given(name);
    if (before.kind !== 'key')
      throw new FsError('EINVAL', `${name} has a certificate: its CA makes a new one`);
    const untilMs = this.#nowMs() + graceMs;
    const valid = before.keys.filter((key) => this.#isValid(key));
    if (graceMs > 0 && valid.length >= ACCESS_KEYS_MAX) {
      throw new FsError(
        'EBUSY',
        `${name} has ${valid.length} keys that still work; wait, or rotate without a grace period`,
      );
    }
    const old =
      graceMs === 0
        ? []
        : valid.map((key) => ({ ...key, untilMs: Math.min(key.untilMs ?? untilMs, untilMs) }));
    const key = this.#makeKey();
    const entry = { ...before, keys: [...old, key] };
    this.#write(entry);
    return { entry, key };
  }

  /** @throws FsError ENOENT */
  remove(name: string): AccessRecord {
    const entry = this.#given(name);
    const isLast = this.#entries.size === 1;
    this.#store.execute(
      (tx) => {
        tx.removeAccess(name);
        if (isLast) tx.putTicketSecret(undefined);
      },
      { reserve: 'own' },
    );
    this.#drop(entry);
    if (isLast) this.#ticketSecret = undefined;
    return entry;
  }

  /**
   * With which the target's tickets are made. There is one from the first entry on; a target whose fsck has removed a damaged one
   * gets another.
   */
  ticketSecret(): Buffer {
    if (this.#ticketSecret !== undefined) return this.#ticketSecret;
    const secret = this.#random(TICKET_SECRET_BYTES);
    this.#store.execute((tx) => tx.putTicketSecret(secret), { reserve: 'own' });
    this.#ticketSecret = secret;
    return secret;
  }

  /** Resolves when all changes so far are durable. @throws FsError EIO */
  sync(): Promise<void> {
    return this.#store.sync();
  }

  #given(name: string): AccessRecord {
    const entry = this.#entries.get(name);
    if (entry === undefined) {
      throw new FsError('ENOENT', `nobody is called ${name} in the access table; see holdfast access list`);
    }
    return entry;
  }

  #isValid({ untilMs }: AccessKey): boolean {
    return untilMs === undefined || this.#nowMs() < untilMs;
  }

  #nowMs(): number {
    return wallMs(this.#around.clock);
  }

  #makeKey(): AccessKey {
    const id = this.#random(ID_BYTES).toString('hex');
    assert(!this.#byKey.has(id), 'a random id is used once');
    return { id, secret: this.#random(KEY_BYTES), createdMs: this.#nowMs(), untilMs: undefined };
  }

  #random(bytes: number): Buffer {
    const made = Buffer.alloc(bytes);
    for (let at = 0; at < bytes; at += 4) made.writeUInt32LE(this.#around.rng.u32(), at);
    return made;
  }

  #write(entry: AccessRecord): void {
    const before = this.#entries.get(entry.name);
    const secret = this.#ticketSecret ?? this.#random(TICKET_SECRET_BYTES);
    this.#store.execute(
      (tx) => {
        tx.putAccess(entry);
        if (secret !== this.#ticketSecret) tx.putTicketSecret(secret);
      },
      before === undefined ? {} : { reserve: 'replaces' },
    );
    this.#ticketSecret = secret;
    if (before !== undefined) this.#drop(before);
    this.#put(entry);
  }

  #put(entry: AccessRecord): void {
    this.#entries.set(entry.name, entry);
    this.#from.set(entry.name, entry.from.flatMap(rangeOf));
    for (const key of entry.keys) this.#byKey.set(key.id, { entry, key });
  }

  #drop(entry: AccessRecord): void {
    this.#entries.delete(entry.name);
    this.#from.delete(entry.name);
    for (const key of entry.keys) this.#byKey.delete(key.id);
  }

  checkInvariants(): void {
    let keys = 0;
    for (const [name, entry] of this.#entries) {
      assert(entry.name === name, `${entry.name} stands as ${name}`);
      for (const key of entry.keys)
        assert(this.#byKey.get(key.id)?.entry === entry, `key ${key.id} of ${name} is lost`);
      keys += entry.keys.length;
    }
    assert(keys === this.#byKey.size, `${this.#byKey.size} keys are known, entries have ${keys}`);
  }
}

/** A text that a later release understands, and this one does not, has no addresses. */
function rangeOf(text: string): AddressRange[] {
  try {
    return [new AddressRange(text)];
  } catch {
    return [];
  }
}

function checkWish({ name, from }: AccessWish): void {
  if (!ACCESS_NAME.test(name)) {
    throw new FsError(
      'EINVAL',
      `${JSON.stringify(name)} is no name: letters, digits, dots, _ and -, at most 64`,
    );
  }
  if (from.length > ACCESS_NETWORKS_MAX)
    throw new FsError('EINVAL', `at most ${ACCESS_NETWORKS_MAX} networks, not ${from.length}`);
}
