/**
 * Turns: how clients share a directory that they change at the same time.
 *
 * Each handover costs a callback and a commit. If the lock went to the next client after every single operation, two
 * clients that create in one directory would execute only as many operations a second as the device makes commits. So a
 * client that is busy with an inode may go on for a turn, past others that wait. A waiting lock that meets its
 * uncommitted change calls nobody back until the turn is over or the client has paused.
 *
 * A client that does one operation and then something else gets no turn: the others would wait for nothing. A client is
 * busy with an inode if it has made several changes since the last commit, if more of its requests wait there, or if it
 * asked for the inode again the last time others waited for its change. (A program that works on two machines
 * alternately asks on one machine only after the other has answered.)
 *
 * A turn lasts several times as long as commits currently take, so most of the time goes into operations.
 *
 * Data locks have no turns: when the server calls one back, the client writes back at once what is dirty under it.
 *
 * Invariant: others wait for turns only on inodes, and the length of a turn is within its bounds.
 */

import { assert } from '../base/assert.js';
import type { ClientUuid } from '../base/ids.js';
import type { Clock, Timers } from '../runtime/ports.js';
import type { Change, Resource, ServerLock } from './resource.js';

/** A turn lasts this many commits, within bounds: a shorter turn makes no sense, and a person would notice a longer one. */
const COMMITS_PER_TURN = 8;
export const TURN_MIN_MS = 6;
export const TURN_MAX_MS = 20;
/**
 * A client that has been idle this long is no longer busy here; its turn ends. A process that creates one file after
 * another pauses for a shorter time.
 */
export const PAUSE_MS = 2;

export class Turns {
  readonly #timers: Timers;
  readonly #clock: Clock;
  readonly #look: (resource: Resource) => void;
  readonly #waitedFor = new Set<Resource>();
  #turnMs = TURN_MIN_MS;
  #askedMs: number | undefined;

  /** @param look called when the turn may be over: grants locks, or calls holders back. */
  constructor(timers: Timers, clock: Clock, look: (resource: Resource) => void) {
    this.#timers = timers;
    this.#clock = clock;
    this.#look = look;
  }

  /** Somebody waits for the change. @returns true if it has to wait longer: look() will be called. */
  isOn(resource: Resource, change: Change): boolean {
    if (resource.type !== 'inode') return false;
    if (!isBusy(resource, change)) return false;
    const now = this.#clock.nowMs();
    if (now - change.lastMs >= PAUSE_MS) {
      resource.eager?.delete(change.client);
      return false;
    }
    if (now - change.sinceMs >= this.#turnMs) return false;
    if (this.#waitedFor.size === 0) this.#timers.after(PAUSE_MS, () => this.#fire());
    this.#waitedFor.add(resource);
    return true;
  }

  /** The lock was granted past others that wait: the client that has the turn is busy. */
  goesOn(lock: ServerLock): void {
    const { client, resource } = lock;
    if (resource.change?.client !== client) return;
    resource.change.lastMs = this.#clock.nowMs();
    this.asksAgain(lock);
  }

  /** A client wants a lock on an inode that it has changed, while others wait for that change. */
  asksAgain({ client, resource }: ServerLock): void {
    if (resource.type !== 'inode' || resource.change?.client !== client) return;
    if (!resource.waiting.some((other) => other.client !== client)) return;
    resource.eager ??= new Set();
    resource.eager.add(client);
  }

  /**
   * A client has changed an inode that another client changed last, and is not busy there: machines work on it
   * alternately, and the next one will wait for this change. So the commit begins before the next one asks for it.
   * @returns whether to ask for the commit now.
   */
  asksAhead(resource: Resource, client: ClientUuid): boolean {
    const { changedBy, change, type } = resource;
    resource.changedBy = client;
    if (type !== 'inode' || changedBy === undefined || changedBy === client) return false;
    if (change === undefined || isBusy(resource, change)) return false;
    change.asked = true;
    return true;
  }

  /** A commit was asked for. */
  asked(): void {
    this.#askedMs ??= this.#clock.nowMs();
  }

  /** A commit was made. */
  committed(): void {
    if (this.#askedMs === undefined) return;
    const tookMs = this.#clock.nowMs() - this.#askedMs;
    this.#askedMs = undefined;
    this.#turnMs = Math.min(TURN_MAX_MS, Math.max(TURN_MIN_MS, tookMs * COMMITS_PER_TURN));
  }

  #fire(): void {
    const resources = [...this.#waitedFor];
    this.#waitedFor.clear();
    for (const resource of resources) this.#look(resource);
  }

  checkInvariants(): void {
    const ms = this.#turnMs;
    assert(ms >= TURN_MIN_MS && ms <= TURN_MAX_MS, `a turn of ${ms} ms`);
    for (const { type, fid } of this.#waitedFor) assert(type === 'inode', `a turn on ${type} ${fid}`);
  }
}

function isBusy({ eager, waiting }: Resource, { client, several }: Change): boolean {
  return several || eager?.has(client) === true || waiting.some((lock) => lock.client === client);
}
