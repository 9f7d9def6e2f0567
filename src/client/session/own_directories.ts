/**
 * What the client owns on one target: directories under an own lock (UPDATE|ATTR EX), and the private inodes in them.
 *
 * An inode is private while the directory that has its only name is ours without a break since the inode was made: nobody else can
 * have reached it. So the client changes it without a lock on the inode itself. It is private no more when the own lock is called
 * back or goes back, and before it gets a second name or a name elsewhere.
 *
 * A new directory is asked for as an own one with its MKDIR. An old one is asked for when this client has made several names in it
 * in a row. When the target has called an own lock back, other clients use the directory too: then the client asks for nothing for
 * a while, and works there as if there were no own locks.
 *
 * Invariants: both tables of private inodes have the same ones; the client holds a lock on each of them.
 */

import { LRUCache } from 'lru-cache';
import { assert } from '../../base/assert.js';
import type { Fid } from '../../base/ids.js';
import type { CachedLock } from '../../dlm/api.js';
import type { Clock } from '../../runtime/ports.js';
import { BIT_ATTR, BIT_UPDATE } from '../../wire/lock.js';

/** Bits of an own lock. */
export const OWN_BITS = BIT_UPDATE | BIT_ATTR;

/** So many names made in a row are worth an own lock. */
const NAMES_IN_A_ROW = 8;
const COOLING_MS = 1000;
/** Limit on the directories of which the client remembers such things. */
const REMEMBERED_MAX = 1000;

export class OwnDirectories {
  readonly #clock: Pick<Clock, 'nowMs'>;
  readonly #homes = new Map<Fid, CachedLock>();
  readonly #inside = new Map<CachedLock, Set<Fid>>();
  /** Number of names made in a row in directories that are not ours. */
  readonly #made = new LRUCache<Fid, number>({ max: REMEMBERED_MAX });
  readonly #calledBackMs = new LRUCache<Fid, number>({ max: REMEMBERED_MAX });

  constructor(clock: Pick<Clock, 'nowMs'>) {
    this.#clock = clock;
  }

  /** @param home the own lock of its directory. */
  addPrivate(fid: Fid, home: CachedLock): void {
    this.removePrivate(fid);
    this.#homes.set(fid, home);
    const inside = this.#inside.get(home);
    if (inside === undefined) this.#inside.set(home, new Set([fid]));
    else inside.add(fid);
  }

  isPrivate(fid: Fid): boolean {
    const home = this.#homes.get(fid);
    return home !== undefined && !home.cancelling;
  }

  removePrivate(fid: Fid): void {
    const home = this.#homes.get(fid);
    if (home === undefined) return;
    this.#homes.delete(fid);
    const inside = this.#inside.get(home);
    inside?.delete(fid);
    if (inside?.size === 0) this.#inside.delete(home);
  }

  /** An inode lock is called back, or goes back. */
  released(lock: CachedLock): void {
    if (lock.mode !== 'EX' || lock.fid === 0) return;
    this.#calledBackMs.set(lock.fid, this.#clock.nowMs());
    this.#made.delete(lock.fid);
    this.gone(lock);
  }

  /** The directory under this own lock is gone, or the lock. */
  gone(lock: CachedLock | undefined): void {
    const inside = lock && this.#inside.get(lock);
    if (lock === undefined || inside === undefined) return;
    this.#inside.delete(lock);
    for (const fid of inside) this.#homes.delete(fid);
  }

  /** The client asks the target for a new name in a directory that is not its own. @returns whether to ask for the own lock too. */
  wantsParent(directory: Fid): boolean {
    const made = (this.#made.get(directory) ?? 0) + 1;
    this.#made.set(directory, made);
    if (made < NAMES_IN_A_ROW) return false;
    const calledBackMs = this.#calledBackMs.get(directory);
    return calledBackMs === undefined || this.#clock.nowMs() - calledBackMs >= COOLING_MS;
  }

  clear(): void {
    this.#homes.clear();
    this.#inside.clear();
    this.#made.clear();
    this.#calledBackMs.clear();
  }

  /** @param holdsLock whether the client holds an inode lock on it. */
  checkInvariants(holdsLock: (fid: Fid) => boolean): void {
    let inside = 0;
    for (const [home, fids] of this.#inside) {
      assert(
        !home.cancelling && fids.size > 0,
        `inodes are private under lock ${home.handle}, which goes back`,
      );
      for (const fid of fids) {
        assert(this.#homes.get(fid) === home, `${fid} is private elsewhere`);
        assert(holdsLock(fid), `${fid} is private, and no lock on it is held`);
      }
      inside += fids.size;
    }
    assert(inside === this.#homes.size, `${this.#homes.size} inodes are private, directories have ${inside}`);
  }
}
