/**
 * The application locks of one file: the ranges each owner holds, the calls that wait, and which of them conflict.
 *
 * As in Linux, there are two worlds that do not see each other: flock(2), and fcntl(2) (POSIX and OFD locks). Within
 * one world, ranges of different owners conflict where they touch and one of them is exclusive. An owner never
 * conflicts with itself.
 */

import type { ClientUuid, Fid, LockHandle } from '../base/ids.js';
import type { LockOffset } from '../base/lock_offset.js';
import type { FlockRangeMessage } from '../wire/lock.js';
import { firstTouching, type Piece } from './flock_pieces.js';

export type FlockKind = FlockRangeMessage['kind'];

/** The owner of locks: a process (posix) or an open file description (ofd, flock) of one client. Made by ownerOf. */
export interface Owner {
  readonly client: ClientUuid;
  readonly kind: FlockKind;
  readonly id: string;
  /** The same text for the same owner. */
  readonly key: string;
  /** posix: the same text for the same process, on all mounts of its host. undefined: not known. */
  readonly process: string | undefined;
}

export function ownerOf(client: ClientUuid, range: FlockRangeMessage): Owner {
  return {
    client,
    kind: range.kind,
    id: range.owner,
    key: `${range.kind} ${range.owner} ${client}`,
    process: processOf(range),
  };
}

/** pid is 0 if the caller is in a pid namespace that its mount does not see. */
function processOf({ kind, host, pid }: FlockRangeMessage): string | undefined {
  return kind !== 'posix' || host === undefined || pid === 0 ? undefined : `${host} ${pid}`;
}

/**
 * Whether the owners are one process, seen through two mounts. Two owners of one client with the same pid do not count:
 * one of them is an open file description, and another thread may be the one that uses it.
 */
export function isSameProcess(a: Owner, b: Owner): boolean {
  return a.process !== undefined && a.process === b.process && a.client !== b.client;
}

/** One SETLK call that waits, or of which pieces are left. */
export interface FlockCall {
  readonly handle: LockHandle;
  readonly file: FlockFile;
  readonly owner: Owner;
  readonly pid: number;
  /** When it was asked for. */
  readonly sinceMs: number;
  readonly exclusive: boolean;
  readonly start: LockOffset;
  readonly end: LockOffset;
  readonly sequence: number;
  /** Number of pieces that carry its handle; 0 while it waits. */
  pieces: number;
  /**
   * The pieces that this call replaced, except where later calls overwrote its own. They come back if the call is
   * cancelled.
   */
  readonly undo: Piece[];
}

export interface OwnerPieces {
  readonly owner: Owner;
  readonly pieces: Piece[];
}

export interface Conflict {
  readonly holder: OwnerPieces;
  readonly piece: Piece;
}

function sameWorld(a: FlockKind, b: FlockKind): boolean {
  return (a === 'flock') === (b === 'flock');
}

export class FlockFile {
  readonly fid: Fid;
  readonly owners = new Map<string, OwnerPieces>();
  /** Sorted by sequence. */
  readonly waiting: FlockCall[] = [];

  constructor(fid: Fid) {
    this.fid = fid;
  }

  get empty(): boolean {
    return this.owners.size === 0 && this.waiting.length === 0;
  }

  /** The list of an owner's pieces, made if there is none. The caller puts a piece into it, or calls tidy(). */
  piecesOf(owner: Owner): OwnerPieces {
    let held = this.owners.get(owner.key);
    if (held === undefined) {
      held = { owner, pieces: [] };
      this.owners.set(owner.key, held);
    }
    return held;
  }

  tidy(owner: Owner): void {
    if (this.owners.get(owner.key)?.pieces.length === 0) this.owners.delete(owner.key);
  }

  /** For each other owner in the way, its first conflicting piece. */
  *conflicts(
    owner: Owner,
    range: Readonly<Pick<FlockCall, 'exclusive' | 'start' | 'end'>>,
  ): Generator<Conflict> {
    for (const holder of this.owners.values()) {
      if (holder.owner.key === owner.key || !sameWorld(holder.owner.kind, owner.kind)) continue;
      const piece = firstTouching(holder.pieces, range.start, range.end, !range.exclusive);
      if (piece !== undefined) yield { holder, piece };
    }
  }

  /** Whether any piece of another owner is in the way. */
  blocked(owner: Owner, range: Readonly<Pick<FlockCall, 'exclusive' | 'start' | 'end'>>): boolean {
    return this.conflicts(owner, range).next().done !== true;
  }

  queue(call: FlockCall): void {
    let index = this.waiting.length;
    while (index > 0 && (this.waiting[index - 1] as FlockCall).sequence > call.sequence) index--;
    this.waiting.splice(index, 0, call);
  }

  /** The waiting call of this owner with this sequence: there is at most one. */
  waitsAs(owner: Owner, sequence: number): FlockCall | undefined {
    return this.waiting.find((call) => call.sequence === sequence && call.owner.key === owner.key);
  }

  unqueue(call: FlockCall): void {
    const index = this.waiting.indexOf(call);
    if (index >= 0) this.waiting.splice(index, 1);
  }
}
