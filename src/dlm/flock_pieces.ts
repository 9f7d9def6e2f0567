/**
 * The ranges that one owner has locked in one file: a sorted array of pieces that do not overlap. Ranges are half-open;
 * an end of TO_END is "to the end of the file, whatever its size becomes". Both the server's table and the client's
 * consist of these pieces.
 *
 * Neighbours are not merged, whatever their types: each piece keeps the handle of the call that set it, so that the
 * call can be undone. An application sees neighbours of one type as one lock (see mergedAround).
 */

import { assert } from '../base/assert.js';
import type { LockHandle } from '../base/ids.js';
import { earlier, type LockOffset, later } from '../base/lock_offset.js';

export interface Span {
  readonly start: LockOffset;
  readonly end: LockOffset;
}

export interface Piece extends Span {
  readonly exclusive: boolean;
  readonly pid: number;
  /** Handle of the call that set this piece. */
  readonly handle: LockHandle;
  readonly sequence: number;
}

/** Index of the first piece that ends after `offset`; pieces.length if there is none. */
function firstEndingAfter(pieces: readonly Span[], offset: LockOffset): number {
  let low = 0;
  let high = pieces.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((pieces[middle] as Span).end > offset) high = middle;
    else low = middle + 1;
  }
  return low;
}

export interface Cut<P extends Span> {
  /** The pieces that touched the range, as they were before. */
  readonly touched: readonly P[];
  /** What remains of them outside the range: at most two. */
  readonly rest: readonly P[];
  /** The parts of them inside the range. */
  readonly removed: readonly P[];
}

const NOTHING: Cut<never> = { touched: [], rest: [], removed: [] };

/** Removes [start, end) from the pieces, in place. */
export function cut<P extends Span>(pieces: P[], start: LockOffset, end: LockOffset): Cut<P> {
  const from = firstEndingAfter(pieces, start);
  let to = from;
  while (to < pieces.length && (pieces[to] as P).start < end) to++;
  if (to === from) return NOTHING;
  const touched = pieces.slice(from, to);
  const rest: P[] = [];
  const first = touched[0] as P;
  const last = touched[touched.length - 1] as P;
  if (first.start < start) rest.push({ ...first, end: start });
  if (last.end > end) rest.push({ ...last, start: end });
  pieces.splice(from, to - from, ...rest);
  const removed = touched.map((piece) =>
    piece.start >= start && piece.end <= end
      ? piece
      : { ...piece, start: later(piece.start, start), end: earlier(piece.end, end) },
  );
  return { touched, rest, removed };
}

/** Adds a piece where none is (the caller has cut the range). */
export function put<P extends Span>(pieces: P[], piece: P): void {
  pieces.splice(firstEndingAfter(pieces, piece.start), 0, piece);
}

/** The piece with the lowest start that touches [start, end), and is exclusive if onlyExclusive is set. */
export function firstTouching(
  pieces: readonly Piece[],
  start: LockOffset,
  end: LockOffset,
  onlyExclusive: boolean,
): Piece | undefined {
  for (let i = firstEndingAfter(pieces, start); i < pieces.length; i++) {
    const piece = pieces[i] as Piece;
    if (piece.start >= end) return undefined;
    if (!onlyExclusive || piece.exclusive) return piece;
  }
  return undefined;
}

/** The range that the application sees: the piece with its neighbours of the same type. */
export function mergedAround(pieces: readonly Piece[], piece: Piece): { start: LockOffset; end: LockOffset } {
  let first = pieces.indexOf(piece);
  let last = first;
  const joins = (a: Piece | undefined, b: Piece | undefined): boolean =>
    a !== undefined && b !== undefined && a.end === b.start && a.exclusive === b.exclusive;
  while (joins(pieces[first - 1], pieces[first])) first--;
  while (joins(pieces[last], pieces[last + 1])) last++;
  return { start: (pieces[first] as Piece).start, end: (pieces[last] as Piece).end };
}

/** Checks that the pieces are sorted, that none is empty, and that none overlaps another. */
export function checkPieces(pieces: readonly Span[]): void {
  pieces.forEach(({ start, end }, at) => {
    assert(start < end, `[${start}, ${end}) is empty`);
    assert(at === 0 || (pieces[at - 1] as Span).end <= start, `pieces overlap at ${start}`);
  });
}
