/**
 * Application locks of one target (flock and fcntl; a kernel shows OFD locks as fcntl's, of another owner), as the target holds them: what lock replay tells another
 * instance. Granted ranges of one owner replace and split each other as POSIX says; waiting ones keep their sequence,
 * so that they keep their turn.
 *
 * A request that gives something up (an unlock, a conversion) and is not answered may have been executed: somebody else
 * may have what it gave up. So when another instance takes over, it is given up here too, and is not replayed.
 *
 * Invariant: an owner is known in a file while it holds a range there; its ranges are sorted and do not overlap.
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
  /** Through which it was taken: who is told if it is lost. */
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
  /** Changes with a replay. */
  handle: LockHandle;
  sequence: number;
  readonly fh: Fh;
  granted(): void;
  failed(error: FsError): void;
}

/** A piece of a lock that was granted: `range` says whose and what it is, start and end where it lies now. */
interface Held extends Span, GrantedLock {}

function endOf(range: FlockRangeMessage): LockOffset {
  return range.end ?? TO_END;
}

/** Whose locks replace each other. */
function ownerOf({ kind, owner }: Pick<FlockRangeMessage, 'kind' | 'owner'>): string {
  return `${kind} ${owner}`;
}

const KINDS: readonly AppLockKind[] = ['posix', 'flock'];

export class AppLocks {
  /** Of each file and owner, by start: a program may hold thousands, and sets one after the other. */
  readonly #granted = new Map<Fid, Map<string, Held[]>>();
  readonly #waiting = new Map<LockHandle, WaitingLock>();
  /** Replayed, and not answered: they may wait on the target even if nobody here does any more. */
  #unanswered = new Set<WaitingLock>();
  readonly #pending = new Set<PendingChange>();

  /** Granted and waiting. */
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

  /** The owner's locks of this range are gone; what lies outside stays. */
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
    this.#waiting.set(lock.handle, lock);
  }

  /** @returns the lock that waited under this handle, which does not wait any more. */
  stopWaiting(handle: LockHandle): WaitingLock | undefined {
    const lock = this.#waiting.get(handle);
    this.#waiting.delete(handle);
    return lock;
  }

  /** All that replay asks to wait for: also what was given up since, while its replay was not answered. */
  replayWaiting(): WaitingLock[] {
    const locks = [...new Set([...this.#waiting.values(), ...this.#unanswered])];
    this.#unanswered = new Set(locks);
    return locks.sort((one, other) => one.sequence - other.sequence);
  }

  replayAnswered(lock: WaitingLock): void {
    this.#unanswered.delete(lock);
  }

  /** A request for this is about to be sent. @returns what to call when it has been answered, or will never be. */
  begin(change: PendingChange): () => void {
    this.#pending.add(change);
    return () => void this.#pending.delete(change);
  }

  /** Another instance serves: it has seen no replay yet, and the last one may have executed what it did not answer. */
  newInstance(): void {
    this.#unanswered.clear();
    for (const { fid, range, to } of this.#pending) {
      // flock(2) gives up the lock that it converts before it takes the other; fcntl(2) holds what both have in common.
      if (to === 'none' || range.kind === 'flock') this.release(fid, range);
      else if (to === 'shared') this.#weaken(fid, range);
    }
  }

  #weaken(fid: Fid, range: FlockRangeMessage): void {
    const held = this.#granted.get(fid)?.get(ownerOf(range)) ?? [];
    // grant() changes the list that is walked.
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

  /** The target does not hold any of them any more. Waiters fail. */
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
