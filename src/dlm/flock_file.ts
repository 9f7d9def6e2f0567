/**
 * The application locks of one file: what each owner holds, who waits, what would be in whose way.
 *
 * Two worlds that do not see each other, as in Linux: flock(2), and fcntl(2) (POSIX and OFD locks). Within one, ranges
 * of different owners conflict where they touch and one of them is exclusive. An owner never conflicts with itself.
 */

import type { ClientUuid, Fid, LockHandle } from '../base/ids.js';
import type { LockOffset } from '../base/lock_offset.js';
import type { FlockRangeMessage } from '../wire/lock.js';
import { firstTouching, type Piece } from './flock_pieces.js';

export type FlockKind = FlockRangeMessage['kind'];

/** Who locks: a process (posix), an open file description (ofd, flock) of one client. Made by ownerOf. */
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

/** A caller of a pid namespace that its mount does not see has pid 0. */
function processOf({ kind, host, pid }: FlockRangeMessage): string | undefined {
  return kind !== 'posix' || host === undefined || pid === 0 ? undefined : `${host} ${pid}`;
}

/**
 * One process, seen through two mounts. Two owners of one client with one pid are not meant: one of them is an OFD, of which
 * another thread may be the user.
 */
export function isSameProcess(a: Owner, b: Owner): boolean {
  return a.process !== undefined && a.process === b.process && a.client !== b.client;
}

/** One setlk that waits, or that pieces are left of. */
export interface FlockCall {
  readonly handle: LockHandle;
  readonly file: FlockFile;
  readonly owner: Owner;
  readonly pid: number;
  readonly exclusive: boolean;
  readonly start: LockOffset;
  readonly end: LockOffset;
  readonly sequence: number;
  /** Pieces that carry its handle; 0 while it waits. */
  pieces: number;
  /** What it replaced, as far as it was not overwritten in turn: comes back when the call is taken back. */
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
  /** By sequence. */
  readonly waiting: FlockCall[] = [];

  constructor(fid: Fid) {
    this.fid = fid;
  }

  get empty(): boolean {
    return this.owners.size === 0 && this.waiting.length === 0;
  }

  /** The pieces of an owner; a list of their own that is kept only if something is put there (see tidy). */
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

  /** The first piece of each other owner that is in the way. */
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

  /** Whether anything is in the way. */
  blocked(owner: Owner, range: Readonly<Pick<FlockCall, 'exclusive' | 'start' | 'end'>>): boolean {
    return this.conflicts(owner, range).next().done !== true;
  }

  queue(call: FlockCall): void {
    let index = this.waiting.length;
    while (index > 0 && (this.waiting[index - 1] as FlockCall).sequence > call.sequence) index--;
    this.waiting.splice(index, 0, call);
  }

  /** The call of this owner that waits with this sequence: there is one at most. */
  waitsAs(owner: Owner, sequence: number): FlockCall | undefined {
    return this.waiting.find((call) => call.sequence === sequence && call.owner.key === owner.key);
  }

  unqueue(call: FlockCall): void {
    const index = this.waiting.indexOf(call);
    if (index >= 0) this.waiting.splice(index, 1);
  }
}
