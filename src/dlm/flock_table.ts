/**
 * The application locks of a target: flock(2), fcntl(2) POSIX and OFD locks. They behave like Linux's own (fs/locks.c):
 *
 * - Setting a range replaces what the owner had there; unlocking may split a range. A call is granted or refused as a
 *   whole.
 * - Only held locks are in the way of a call, not waiting calls. The server grants waiting calls in the order of their
 *   sequence.
 * - A flock(2) conversion first gives up the old lock, even if it then has to wait or fails with EAGAIN.
 * - A POSIX call that would wait for its own owner, over a chain of any length, fails with EDEADLK. OFD and flock(2)
 *   owners are not processes, so no deadlock is detected through them.
 *
 * Invariants: pieces of different owners that touch are both shared, or of different worlds. A call is known by its
 * handle while it waits or pieces of it are left. A waiting call has a held lock in its way, unless grants are held
 * back. The pieces of an owner are sorted and do not overlap. The indexes of the waits-for graph hold exactly the
 * waiting POSIX calls.
 */

import { assert } from '../base/assert.js';
import { ERRNO, FsError } from '../base/errno.js';
import type { ClientUuid, Fid, LockHandle } from '../base/ids.js';
import { endOrNone, type LockOffset, TO_END } from '../base/lock_offset.js';
import type { FlockRangeMessage } from '../wire/lock.js';
import type { FlockGrant, LockView } from './api.js';
import {
  type Conflict,
  type FlockCall,
  FlockFile,
  isSameProcess,
  type Owner,
  ownerOf,
} from './flock_file.js';
import { checkPieces, cut, mergedAround, type Piece, put } from './flock_pieces.js';
import { closesCycle } from './waits_for.js';

type Cast = (client: ClientUuid, handle: LockHandle, errno?: number) => void;

/** Most calls that a client may have, held or waiting, and most pieces that an owner may have in a file. Beyond: ENOLCK. */
export const FLOCKS_MAX = 500_000;

/**
 * The highest sequence. A client that recovers may name it, and others must get locks all the same: from then on all calls have it,
 * and after a crash those wait in the order in which they come.
 */
const SEQUENCE_MAX = 2 ** 52;

interface Bounds {
  readonly start: LockOffset;
  readonly end: LockOffset;
}

function boundsOf(range: FlockRangeMessage): Bounds {
  // flock(2) knows whole files only.
  if (range.kind === 'flock') return { start: 0, end: TO_END };
  const end = range.end ?? TO_END;
  if (end <= range.start) throw new FsError('EINVAL', `lock range [${range.start}, ${end}) is empty`);
  return { start: range.start, end };
}

function note(index: Map<string, Set<FlockCall>>, key: string, call: FlockCall, waits: boolean): void {
  const calls = index.get(key) ?? new Set();
  if (waits) calls.add(call);
  else calls.delete(call);
  if (calls.size > 0) index.set(key, calls);
  else index.delete(key);
}

function checkIndex(
  index: ReadonlyMap<string, ReadonlySet<FlockCall>>,
  calls: readonly FlockCall[],
  keyOf: (owner: Owner) => string | undefined,
): void {
  const indexed = [...index].flatMap(([key, some]) => [...some].map((call) => ({ key, call })));
  for (const { key, call } of indexed) {
    assert(keyOf(call.owner) === key && calls.includes(call), `call ${call.handle} of ${key} does not wait`);
  }
  const expected = calls.filter(({ owner }) => keyOf(owner) !== undefined).length;
  assert(indexed.length === expected, `${expected} POSIX calls wait, ${indexed.length} are indexed`);
}

function comesBefore(a: Piece, b: Piece): boolean {
  return a.start < b.start || (a.start === b.start && a.sequence < b.sequence);
}

function viewOf(
  fid: Fid,
  { kind, client }: Owner,
  exclusive: boolean,
  sinceMs: number,
  waits: boolean,
  waiters: number,
): LockView {
  const mode = exclusive ? 'exclusive' : 'shared';
  return { kind, fid, mode, client, sinceMs, waits, waiters, calledBack: false };
}

export class FlockTable {
  readonly #newHandle: () => LockHandle;
  readonly #cast: Cast;
  readonly #nowMs: () => number;
  readonly #limitOf: ((client: ClientUuid) => number | undefined) | undefined;
  readonly #files = new Map<Fid, FlockFile>();
  readonly #calls = new Map<ClientUuid, Map<LockHandle, FlockCall>>();
  /** Waiting POSIX calls by owner: the edges of the waits-for graph. An owner with threads has several. */
  readonly #waitsOf = new Map<string, Set<FlockCall>>();
  /** The same calls by process: a process is one owner on each mount of its host. */
  readonly #waitsOfProcess = new Map<string, Set<FlockCall>>();
  /** CASTs to send when the state is consistent. */
  readonly #outbox: { readonly call: FlockCall; readonly errno?: number }[] = [];
  #flushing = false;
  #grantsHeld = false;
  #nextSequence = 1;

  /** @param limitOf most calls of a client that are not replayed; below FLOCKS_MAX. */
  constructor(
    newHandle: () => LockHandle,
    cast: Cast,
    limitOf?: (client: ClientUuid) => number | undefined,
    nowMs: () => number = () => 0,
  ) {
    this.#nowMs = nowMs;
    this.#newHandle = newHandle;
    this.#cast = cast;
    this.#limitOf = limitOf;
  }

  *view(): Iterable<LockView> {
    for (const { fid, owners, waiting } of this.#files.values()) {
      for (const call of waiting) {
        const { owner, exclusive, sinceMs } = call;
        yield viewOf(fid, owner, exclusive, sinceMs, true, waiting.length);
      }
      for (const { owner, pieces } of owners.values()) {
        for (const { exclusive, handle } of pieces) {
          const sinceMs = this.#calls.get(owner.client)?.get(handle)?.sinceMs ?? 0;
          yield viewOf(fid, owner, exclusive, sinceMs, false, waiting.length);
        }
      }
    }
  }

  /** Files with locks. */
  get size(): number {
    return this.#files.size;
  }

  lock(client: ClientUuid, fid: Fid, range: FlockRangeMessage, wait: boolean, replayed?: number): FlockGrant {
    const bounds = boundsOf(range);
    const sequence = replayed ?? this.#nextSequence;
    if (sequence > SEQUENCE_MAX) throw new FsError('EINVAL', `lock sequence ${sequence} is out of range`);
    const limit = Math.min(
      FLOCKS_MAX,
      replayed === undefined ? (this.#limitOf?.(client) ?? FLOCKS_MAX) : FLOCKS_MAX,
    );
    if ((this.#calls.get(client)?.size ?? 0) >= limit) {
      throw new FsError('ENOLCK', `a client has ${limit} application locks`);
    }
    const owner = ownerOf(client, range);
    const waits = replayed === undefined ? undefined : this.#files.get(fid)?.waitsAs(owner, replayed);
    // A client replays a call twice if its connection broke during recovery. The call waits only once.
    if (waits !== undefined) return { handle: waits.handle, granted: false, sequence };
    this.#nextSequence = Math.min(Math.max(this.#nextSequence, sequence + 1), SEQUENCE_MAX);
    const file = this.#file(fid);
    const call: FlockCall = {
      handle: this.#newHandle(),
      file,
      owner,
      pid: range.pid,
      sinceMs: this.#nowMs(),
      exclusive: range.exclusive,
      ...bounds,
      sequence,
      pieces: 0,
      undo: [],
    };
    // A flock(2) conversion gives up the old lock first, whether or not the new one is granted (man 2 flock).
    const given = range.kind === 'flock' ? this.#cut(file, call.owner, bounds).removed : [];
    const granted = !(wait && this.#grantsHeld) && !file.blocked(call.owner, call);
    if (granted) {
      this.#grant(call, given);
    } else {
      const refused = this.#refusal(call, wait);
      if (refused !== undefined) {
        this.#settle(file);
        throw refused;
      }
      this.#remember(call);
      file.queue(call);
      this.#setWaiting(call, true);
    }
    this.#settle(file);
    return { handle: call.handle, granted, sequence };
  }

  test(client: ClientUuid, fid: Fid, range: FlockRangeMessage): FlockRangeMessage | undefined {
    const bounds = boundsOf(range);
    let first: Conflict | undefined;
    const conflicts = this.#files
      .get(fid)
      ?.conflicts(ownerOf(client, range), { ...bounds, exclusive: range.exclusive });
    for (const conflict of conflicts ?? []) {
      if (first === undefined || comesBefore(conflict.piece, first.piece)) first = conflict;
    }
    if (first === undefined) return undefined;
    const { piece } = first;
    const { owner, pieces } = first.holder;
    const { start, end } = mergedAround(pieces, piece);
    const { pid, exclusive } = piece;
    return { kind: owner.kind, owner: owner.id, pid, exclusive, start, end: endOrNone(end) };
  }

  unlock(client: ClientUuid, fid: Fid, range: FlockRangeMessage): void {
    const bounds = boundsOf(range);
    const file = this.#files.get(fid);
    if (file === undefined) return;
    const owner = ownerOf(client, range);
    const held = file.owners.get(owner.key);
    if (held === undefined) return;
    // Unlocking a hole makes two pieces of one; fcntl(2) allows ENOLCK for it.
    if (held.pieces.length >= FLOCKS_MAX) throw new FsError('ENOLCK', 'too many lock ranges in one file');
    this.#cut(file, owner, bounds);
    this.#settle(file);
  }

  /**
   * Cancels a call, waiting or granted: the server may have granted an interrupted call before this CANCEL arrives. The
   * owner gets back the pieces that the call replaced. A piece that was exclusive comes back as shared if others have
   * locked its range since.
   */
  cancel(client: ClientUuid, handle: LockHandle): void {
    const call = this.#calls.get(client)?.get(handle);
    if (call === undefined) return;
    const { file, owner } = call;
    if (call.pieces === 0) {
      this.#unqueue(call);
    } else {
      // #cut() removes from the list what can no longer come back, so take the list first.
      const undo = call.undo.splice(0);
      const mine = file.piecesOf(owner).pieces.filter((piece) => piece.handle === handle);
      for (const piece of mine) this.#cut(file, owner, piece);
      for (const piece of undo) this.#restore(file, owner, piece);
    }
    this.#settle(file);
  }

  holdGrants(hold: boolean): void {
    this.#grantsHeld = hold;
    if (hold) return;
    for (const file of [...this.#files.values()]) this.#settle(file);
  }

  dropClient(client: ClientUuid): void {
    const calls = this.#calls.get(client);
    if (calls === undefined) return;
    const touched = new Set<FlockFile>();
    this.#calls.delete(client);
    for (const call of calls.values()) {
      touched.add(call.file);
      // The owner's first call removes all its pieces; for its other calls this does nothing.
      if (call.pieces > 0) call.file.owners.delete(call.owner.key);
      else this.#unqueue(call);
    }
    for (const file of touched) this.#settle(file);
  }

  count(client: ClientUuid): number {
    return this.#calls.get(client)?.size ?? 0;
  }

  /** Clients with application locks, held or waiting. */
  clients(): ClientUuid[] {
    return [...this.#calls.keys()];
  }

  #file(fid: Fid): FlockFile {
    let file = this.#files.get(fid);
    if (file === undefined) {
      file = new FlockFile(fid);
      this.#files.set(fid, file);
    }
    return file;
  }

  #remember(call: FlockCall): void {
    const { client } = call.owner;
    let calls = this.#calls.get(client);
    if (calls === undefined) {
      calls = new Map();
      this.#calls.set(client, calls);
    }
    calls.set(call.handle, call);
  }

  #forget(call: FlockCall): void {
    const calls = this.#calls.get(call.owner.client);
    calls?.delete(call.handle);
    if (calls?.size === 0) this.#calls.delete(call.owner.client);
  }

  /** The error of a call that cannot be granted and may not wait either; undefined if it may wait. */
  #refusal(call: FlockCall, wait: boolean): FsError | undefined {
    if (!wait) return new FsError('EAGAIN', 'another owner holds a conflicting lock');
    if (!this.#grantsHeld && this.#deadlocks(call)) {
      return new FsError('EDEADLK', 'the owner would wait for itself');
    }
    return undefined;
  }

  #deadlocks(call: FlockCall): boolean {
    if (call.owner.kind !== 'posix') return false;
    const { owner } = call;
    return closesCycle<Owner>(
      (other) => other.key === owner.key || isSameProcess(other, owner),
      this.#holdersBefore(call),
      ({ key }) => key,
      (other) => this.#waitsFor(other),
    );
  }

  *#holdersBefore(call: FlockCall): Generator<Owner> {
    for (const { holder } of call.file.conflicts(call.owner, call)) yield holder.owner;
  }

  *#waitsFor(owner: Owner): Generator<Owner> {
    for (const call of this.#callsOf(owner)) yield* this.#holdersBefore(call);
  }

  /** The calls in which the owner waits, or its process on other mounts. */
  *#callsOf(owner: Owner): Generator<FlockCall> {
    yield* this.#waitsOf.get(owner.key) ?? [];
    if (owner.process === undefined) return;
    for (const call of this.#waitsOfProcess.get(owner.process) ?? []) {
      if (isSameProcess(call.owner, owner)) yield call;
    }
  }

  #setWaiting(call: FlockCall, waits: boolean): void {
    const { kind, key, process } = call.owner;
    if (kind !== 'posix') return;
    note(this.#waitsOf, key, call, waits);
    if (process !== undefined) note(this.#waitsOfProcess, process, call, waits);
  }

  #unqueue(call: FlockCall): void {
    call.file.unqueue(call);
    this.#setWaiting(call, false);
    this.#forget(call);
  }

  /** @param given the pieces that the owner gave up for it before. */
  #grant(call: FlockCall, given: readonly Piece[]): void {
    const { file, owner, handle, pid, exclusive, start, end, sequence } = call;
    const { removed } = this.#cut(file, owner, call);
    this.#remember(call);
    put(file.piecesOf(owner).pieces, { start, end, exclusive, pid, handle, sequence });
    call.pieces = 1;
    call.undo.push(...given, ...removed);
    this.#breakCycles(file, call);
  }

  /**
   * An owner that waits elsewhere (in another thread) got a lock. Calls that wait for it here may now wait for
   * themselves: they get EDEADLK, as from Linux when it checks a woken call again.
   */
  #breakCycles(file: FlockFile, granted: FlockCall): void {
    if (this.#callsOf(granted.owner).next().done === true) return;
    for (const call of [...file.waiting]) {
      if (call.owner.key === granted.owner.key || !this.#deadlocks(call)) continue;
      this.#unqueue(call);
      this.#outbox.push({ call, errno: ERRNO.EDEADLK });
    }
  }

  /** Removes a range of an owner, and updates the calls whose pieces it touches. */
  #cut(file: FlockFile, owner: Owner, { start, end }: Bounds): { readonly removed: readonly Piece[] } {
    const held = file.owners.get(owner.key);
    if (held === undefined) return { removed: [] };
    const { touched, rest, removed } = cut(held.pieces, start, end);
    if (touched.length === 0) return { removed };
    const calls = this.#calls.get(owner.client);
    for (const piece of rest) {
      const call = calls?.get(piece.handle);
      if (call !== undefined) call.pieces++;
    }
    for (const piece of touched) {
      const call = calls?.get(piece.handle);
      assert(call !== undefined, 'a piece of an unknown call');
      call.pieces--;
      if (call.pieces === 0) this.#forget(call);
      // What this call replaced in the cut range will not come back: another call has changed that range since.
      else if (call.undo.length > 0) cut(call.undo, start, end);
    }
    file.tidy(owner);
    return { removed };
  }

  #restore(file: FlockFile, owner: Owner, old: Piece): void {
    const piece = old.exclusive && file.blocked(owner, old) ? { ...old, exclusive: false } : old;
    // This piece never conflicts with others: the piece cut here a moment ago excluded at least their exclusive locks.
    put(file.piecesOf(owner).pieces, piece);
    const call = this.#calls.get(owner.client)?.get(piece.handle);
    if (call !== undefined) {
      call.pieces++;
      return;
    }
    const { handle, pid, exclusive, start, end, sequence } = piece;
    const sinceMs = this.#nowMs();
    this.#remember({
      handle,
      file,
      owner,
      pid,
      sinceMs,
      exclusive,
      start,
      end,
      sequence,
      pieces: 1,
      undo: [],
    });
  }

  /** After a change in the file: grants what can be granted, frees the file if nothing is left, sends the CASTs. */
  #settle(file: FlockFile): void {
    // The search starts at the front again each time: a grant that makes an exclusive range shared may let earlier
    // calls in.
    while (!this.#grantsHeld && this.#grantOne(file));
    if (file.empty) this.#files.delete(file.fid);
    this.#flush();
  }

  #grantOne(file: FlockFile): boolean {
    for (const call of file.waiting) {
      if (file.blocked(call.owner, call)) continue;
      file.unqueue(call);
      this.#setWaiting(call, false);
      this.#grant(call, []);
      this.#outbox.push({ call });
      return true;
    }
    return false;
  }

  #flush(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    try {
      for (let next = this.#outbox.shift(); next !== undefined; next = this.#outbox.shift()) {
        const { call, errno } = next;
        if (errno === undefined) this.#cast(call.owner.client, call.handle);
        else this.#cast(call.owner.client, call.handle, errno);
      }
    } finally {
      this.#flushing = false;
    }
  }

  /** The invariants hold between two calls. */
  checkInvariants(): void {
    assert(this.#outbox.length === 0, `${this.#outbox.length} casts were not said`);
    const pieces = new Map<FlockCall, number>();
    const waiting = new Set<FlockCall>();
    for (const [fid, file] of this.#files) {
      assert(file.fid === fid && !file.empty, `file ${fid} is known, and has no locks`);
      for (const call of this.#checkPieces(file)) pieces.set(call, (pieces.get(call) ?? 0) + 1);
      this.#checkWaiting(file);
      for (const call of file.waiting) waiting.add(call);
    }
    for (const [client, calls] of this.#calls) {
      assert(calls.size > 0, `client ${client} is known, and has no application locks`);
      for (const [handle, call] of calls) {
        assert(call.handle === handle && call.owner.client === client, `call ${handle} is another one`);
        assert(
          call.pieces === (pieces.get(call) ?? 0) && call.pieces > 0 !== waiting.has(call),
          `call ${handle} has ${pieces.get(call) ?? 0} pieces, counted ${call.pieces}`,
        );
        assert(
          call.sequence < this.#nextSequence || call.sequence === SEQUENCE_MAX,
          `call ${handle} has sequence ${call.sequence}`,
        );
      }
    }
    const posix = [...waiting].filter(({ owner }) => owner.kind === 'posix');
    checkIndex(this.#waitsOf, posix, ({ key }) => key);
    checkIndex(this.#waitsOfProcess, posix, ({ process }) => process);
  }

  /** @returns the call of each piece. */
  *#checkPieces(file: FlockFile): Iterable<FlockCall> {
    for (const [key, { owner, pieces }] of file.owners) {
      assert(
        owner.key === key && pieces.length > 0,
        `owner ${key} is known in ${file.fid}, and holds nothing`,
      );
      checkPieces(pieces);
      for (const piece of pieces) {
        const { start, end, handle } = piece;
        assert(!file.blocked(owner, piece), `[${start}, ${end}) of ${key} is in the way of another owner`);
        const call = this.#calls.get(owner.client)?.get(handle);
        assert(call !== undefined && call.file === file, `a piece of ${key} is of an unknown call ${handle}`);
        yield call;
      }
    }
  }

  #checkWaiting(file: FlockFile): void {
    let last = 0;
    for (const call of file.waiting) {
      const { handle, sequence, owner } = call;
      assert(sequence >= last, `call ${handle} waits with sequence ${sequence} behind ${last}`);
      last = sequence;
      const known = this.#calls.get(owner.client)?.get(handle);
      assert(known === call && call.pieces === 0, `call ${handle} waits, and is not known to`);
      assert(this.#grantsHeld || file.blocked(owner, call), `call ${handle} waits for nothing`);
    }
  }
}
