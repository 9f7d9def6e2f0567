/**
 * What the client owns on one target: directories under an own lock (UPDATE|ATTR EX), and the inodes in them that it changes by
 * itself. An inode is ours while the directory with its only name is, and
 * - it is *private*: the directory has been ours without a break since the inode was made. Nobody else can have reached it, so no
 *   lock on the inode is needed; or
 * - it was there before, and the client has an own lock on it (ATTR EX). Others may know the inode, by a handle above all: the
 *   target calls the lock back before they look at it.
 * It is ours no more when one of the locks is called back or goes back, and before it gets a second name or a name elsewhere.
 *
 * The own locks of inodes go back with that of their directory: whoever comes to look at a directory with thousands of files
 * causes one callback, not thousands.
 *
 * A new directory is asked for as an own one with its MKDIR. An old one is asked for when this client has made several names in it
 * in a row, or removes and changes what is there (operations/lookup_ahead.ts). When the target has called an own lock back, other
 * clients use the directory too: then the client asks for nothing for a while, and works there as if there were no own locks.
 *
 * Invariants: both tables have the same inodes; the client holds a lock on each of them; no lock that makes one ours goes back.
 */

import { LRUCache } from 'lru-cache';
import { assert } from '../../base/assert.js';
import type { Fid } from '../../base/ids.js';
import type { CachedLock } from '../../dlm/api.js';
import type { Clock } from '../../runtime/ports.js';
import { BIT_ATTR, BIT_UPDATE } from '../../wire/lock.js';

/** Bits of the own lock of a directory. */
export const OWN_BITS = BIT_UPDATE | BIT_ATTR;

/** So many names made in a row are worth an own lock. */
const NAMES_IN_A_ROW = 8;
const COOLING_MS = 1000;
/** Limit on the directories of which the client remembers such things. */
const REMEMBERED_MAX = 1000;

/** Why an inode is ours. */
interface Ours {
  /** The own lock of its directory. */
  readonly home: CachedLock;
  /** Its own lock; undefined: it is private. */
  readonly lock: CachedLock | undefined;
}

export class OwnDirectories {
  readonly #clock: Pick<Clock, 'nowMs'>;
  readonly #handBack: (lock: CachedLock) => void;
  readonly #ours = new Map<Fid, Ours>();
  readonly #inside = new Map<CachedLock, Set<Fid>>();
  /** Number of names made in a row in directories that are not ours. */
  readonly #made = new LRUCache<Fid, number>({ max: REMEMBERED_MAX });
  readonly #calledBackMs = new LRUCache<Fid, number>({ max: REMEMBERED_MAX });

  /** @param handBack gives a lock back that nobody has called back. */
  constructor(clock: Pick<Clock, 'nowMs'>, handBack: (lock: CachedLock) => void) {
    this.#clock = clock;
    this.#handBack = handBack;
  }

  /** @param home the own lock of its directory. */
  addPrivate(fid: Fid, home: CachedLock): void {
    this.#add(fid, { home, lock: undefined });
  }

  /** The target has granted an own lock on what is in this directory. */
  addLocked(lock: CachedLock, home: CachedLock | undefined): void {
    const fid = lock.fid as Fid;
    // What the client has moved since it asked is elsewhere by now.
    const place = this.#ours.get(fid)?.home ?? home;
    if (lock.cancelling) return;
    if (place === undefined || place.cancelling) this.#handBack(lock);
    else this.#add(fid, { home: place, lock });
  }

  #add(fid: Fid, ours: Ours): void {
    this.forget(fid);
    this.#ours.set(fid, ours);
    const inside = this.#inside.get(ours.home);
    if (inside === undefined) this.#inside.set(ours.home, new Set([fid]));
    else inside.add(fid);
  }

  /** It is in another directory of ours now. */
  move(fid: Fid, home: CachedLock): void {
    const ours = this.#ours.get(fid);
    if (ours !== undefined) this.#add(fid, { ...ours, home });
  }

  isOurs(fid: Fid): boolean {
    const ours = this.#ours.get(fid);
    return ours !== undefined && !ours.home.cancelling && ours.lock?.cancelling !== true;
  }

  /** The inode has no name any more, or the client no lock on it. */
  forget(fid: Fid): void {
    const ours = this.#ours.get(fid);
    if (ours === undefined) return;
    this.#ours.delete(fid);
    const inside = this.#inside.get(ours.home);
    inside?.delete(fid);
    if (inside?.size === 0) this.#inside.delete(ours.home);
  }

  /** Others may reach it from now on. */
  giveUp(fid: Fid): void {
    const lock = this.#ours.get(fid)?.lock;
    this.forget(fid);
    if (lock !== undefined) this.#handBack(lock);
  }

  /** An inode lock is called back, or goes back. */
  released(lock: CachedLock): void {
    if (lock.mode !== 'EX' || lock.fid === 0) return;
    if (lock.bits !== OWN_BITS) {
      if (this.#ours.get(lock.fid)?.lock === lock) this.forget(lock.fid);
      return;
    }
    this.#calledBackMs.set(lock.fid, this.#clock.nowMs());
    this.#made.delete(lock.fid);
    this.gone(lock);
  }

  /** The directory under this own lock is gone, or the lock. */
  gone(home: CachedLock | undefined): void {
    const inside = home && this.#inside.get(home);
    if (home === undefined || inside === undefined) return;
    for (const fid of [...inside]) this.giveUp(fid);
  }

  /** Whether other clients have used the directory a moment ago. */
  isShared(directory: Fid): boolean {
    const calledBackMs = this.#calledBackMs.get(directory);
    return calledBackMs !== undefined && this.#clock.nowMs() - calledBackMs < COOLING_MS;
  }

  /** The client asks the target for a new name in a directory that is not its own. @returns whether to ask for the own lock too. */
  wantsParent(directory: Fid): boolean {
    const made = (this.#made.get(directory) ?? 0) + 1;
    this.#made.set(directory, made);
    return made >= NAMES_IN_A_ROW && !this.isShared(directory);
  }

  clear(): void {
    this.#ours.clear();
    this.#inside.clear();
    this.#made.clear();
    this.#calledBackMs.clear();
  }

  /** @param holdsLock whether the client holds an inode lock on it. */
  checkInvariants(holdsLock: (fid: Fid) => boolean): void {
    let inside = 0;
    for (const [home, fids] of this.#inside) {
      assert(!home.cancelling && fids.size > 0, `inodes are ours under lock ${home.handle}, which goes back`);
      for (const fid of fids) {
        const ours = this.#ours.get(fid);
        assert(ours?.home === home, `${fid} is ours elsewhere`);
        assert(ours.lock?.cancelling !== true, `${fid} is ours, and its own lock goes back`);
        assert(holdsLock(fid), `${fid} is ours, and no lock on it is held`);
      }
      inside += fids.size;
    }
    assert(inside === this.#ours.size, `${this.#ours.size} inodes are ours, directories have ${inside}`);
  }
}
