/**
 * The application locks (flock and fcntl) of this client on one target, as the target holds them. Lock replay tells another
 * instance of the target what is in this table. The kernel shows an OFD lock as an fcntl lock of another owner.
 *
 * Granted ranges of one owner replace and split each other as POSIX says. Waiting locks keep their sequence numbers, so that
 * they keep their turn.
 *
 * The target may have executed a request that gives a lock up (an unlock, a conversion) without answering it: another client
 * may have the lock by now. So when another instance takes over, this table gives the lock up too, and the client does not
 * replay it.
 *
 * Invariant: a file has an entry for an owner exactly while the owner holds a range there; its ranges are sorted and do not
 * overlap.
 */

import { assert } from '../../base/assert.js';
import type { FsError } from '../../base/errno.js';
import type { Fh, Fid, LockHandle } from '../../base/ids.js';
import { earlier, endOrNone, type LockOffset, later, TO_END } from '../../base/lock_offset.js';
import { checkPieces, cut, put, type Span } from '../../dlm/flock_pieces.js';
import type { FlockRangeMessage } from '../../wire/lock.js';
import type { AppLockKind } from '../api.js';

export interface GrantedLock {
  readonly range: FlockRangeMessage;
  readonly sequence: number;
  /** The handle through which the lock was taken: calls on it fail if the lock is lost. */
  readonly fh: Fh;
}

/** A request under way that changes what an owner holds on a range. */
export interface PendingChange {
  readonly fid: Fid;
  readonly range: FlockRangeMessage;
  readonly to: 'none' | 'shared' | 'exclusive';
}

export interface WaitingLock {
  readonly fid: Fid;
  readonly range: FlockRangeMessage;
  /** A replay changes it. */
  handle: LockHandle;
  sequence: number;
  readonly fh: Fh;
  /** It was taken back and is asked for anew: a CAST for its handle is void. */
  isAskedAgain?: boolean | undefined;
  granted(): void;
  failed(error: FsError): void;
}

/** A piece of a granted lock: `range` says who owns it and what kind it is, `start` and `end` say where it lies now. */
interface Held extends Span, GrantedLock {}

function endOf(range: FlockRangeMessage): LockOffset {
  return range.end ?? TO_END;
}

/** The key of an owner: locks with the same key replace each other. */
function ownerOf({ kind, owner }: Pick<FlockRangeMessage, 'kind' | 'owner'>): string {
  return `${kind} ${owner}`;
}

const KINDS: readonly AppLockKind[] = ['posix', 'flock'];

export class AppLocks {
  /** By file and owner, each list sorted by start: a program may hold thousands of locks, and sets one after the other. */
  readonly #granted = new Map<Fid, Map<string, Held[]>>();
  readonly #waiting = new Map<LockHandle, WaitingLock>();
  /** Replayed and not answered yet: they may wait on the target even if no caller here waits for them any more. */
  #unanswered = new Set<WaitingLock>();
  readonly #pending = new Set<PendingChange>();

  /** Granted and waiting locks together. */
  get size(): number {
    let size = this.#waiting.size;
    for (const owners of this.#granted.values()) for (const locks of owners.values()) size += locks.length;
    return size;
  }

  grant(fid: Fid, range: FlockRangeMessage, sequence: number, fh: Fh): void {
    this.release(fid, range);
    let owners = this.#granted.get(fid);
    if (owners === undefined) {
      owners = new Map();
      this.#granted.set(fid, owners);
    }
    const owner = ownerOf(range);
    let locks = owners.get(owner);
    if (locks === undefined) {
      locks = [];
      owners.set(owner, locks);
    }
    put(locks, { start: range.start, end: endOf(range), range, sequence, fh });
  }

  /** Removes the owner's locks from this range. Parts outside the range stay. */
  release(fid: Fid, range: FlockRangeMessage): void {
    const owners = this.#granted.get(fid);
    const owner = ownerOf(range);
    const locks = owners?.get(owner);
    if (owners === undefined || locks === undefined) return;
    cut(locks, range.start, endOf(range));
    if (locks.length > 0) return;
    owners.delete(owner);
    if (owners.size === 0) this.#granted.delete(fid);
  }

  /** Which kinds of locks the owner holds on the file. */
  kindsOf(fid: Fid, owner: string): AppLockKind[] {
    const owners = this.#granted.get(fid);
    if (owners === undefined) return [];
    return KINDS.filter((kind) => owners.has(ownerOf({ kind, owner })));
  }

  wait(lock: WaitingLock): void {
    lock.isAskedAgain = undefined;
    this.#waiting.set(lock.handle, lock);
  }

  /** The caller is about to take the lock's place back and to ask anew. @returns false if the lock does not wait any more. */
  askAgain(lock: WaitingLock): boolean {
    if (this.#waiting.get(lock.handle) !== lock) return false;
    lock.isAskedAgain = true;
    return true;
  }

  /** A CAST came. @returns the lock that waited under this handle until now. */
  cast(handle: LockHandle): WaitingLock | undefined {
    return this.#waiting.get(handle)?.isAskedAgain === true ? undefined : this.stopWaiting(handle);
  }

  /** @returns the lock that waited under this handle until now. */
  stopWaiting(handle: LockHandle): WaitingLock | undefined {
    const lock = this.#waiting.get(handle);
    this.#waiting.delete(handle);
    return lock;
  }

  /** The waiting locks that the client replays, also those that their callers gave up before their last replay was answered. */
  replayWaiting(): WaitingLock[] {
    const locks = [...new Set([...this.#waiting.values(), ...this.#unanswered])];
    this.#unanswered = new Set(locks);
    return locks.sort((one, other) => one.sequence - other.sequence);
  }

  replayAnswered(lock: WaitingLock): void {
    this.#unanswered.delete(lock);
  }

  /** The caller is about to send a request for this change. @returns a function to call when it is answered, or never will be. */
  begin(change: PendingChange): () => void {
    this.#pending.add(change);
    return () => void this.#pending.delete(change);
  }

  /** Another instance serves. It has seen no replay yet, and the last one may have executed requests without answering them. */
  newInstance(): void {
    this.#unanswered.clear();
    for (const { fid, range, to } of this.#pending) {
      // flock(2) gives the old lock up before it takes the new one; fcntl(2) keeps what both have in common.
      if (to === 'none' || range.kind === 'flock') this.release(fid, range);
      else if (to === 'shared') this.#weaken(fid, range);
    }
  }

  #weaken(fid: Fid, range: FlockRangeMessage): void {
    const held = this.#granted.get(fid)?.get(ownerOf(range)) ?? [];
    // A copy, because grant() changes the list.
    for (const lock of [...held]) {
      const start = later(lock.start, range.start);
      const end = earlier(lock.end, endOf(range));
      if (start >= end || !lock.range.exclusive) continue;
      const part = { ...lock.range, start, end: endOrNone(end), exclusive: false };
      this.grant(fid, part, lock.sequence, lock.fh);
    }
  }

  waiting(): WaitingLock[] {
    return [...this.#waiting.values()];
  }

  *granted(): Iterable<{ readonly fid: Fid } & GrantedLock> {
    for (const [fid, owners] of this.#granted) {
      for (const locks of owners.values()) {
        for (const { start, end, range, sequence, fh } of locks) {
          yield { fid, range: { ...range, start, end: endOrNone(end) }, sequence, fh };
        }
      }
    }
  }

  /** The target holds none of these locks any more. Waiting locks fail. */
  clear(error: FsError): void {
    this.#granted.clear();
    this.#unanswered.clear();
    const waiting = this.waiting();
    this.#waiting.clear();
    for (const lock of waiting) lock.failed(error);
  }

  checkInvariants(): void {
    for (const [fid, owners] of this.#granted) {
      assert(owners.size > 0, `file ${fid} is known, and nobody has locked it`);
      for (const [owner, locks] of owners) {
        assert(locks.length > 0, `${owner} is known in file ${fid}, and holds nothing`);
        checkPieces(locks);
        for (const { range } of locks) {
          assert(ownerOf(range) === owner, `a lock of ${ownerOf(range)} is in the list of ${owner}`);
        }
      }
    }
    for (const [handle, lock] of this.#waiting) {
      assert(lock.handle === handle, `lock ${lock.handle} waits as ${handle}`);
    }
  }
}
