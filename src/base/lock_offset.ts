/**
 * A place in a file as fcntl(2) locks know it: 0 to 2^63 - 1, exact. Programs lock far behind any file's end (tdb, SQLite,
 * Samba), and a double is exact below 2^53 only.
 *
 * Invariant: below 2^53 it is a number, from there on a bigint. So JavaScript's <, >, <= and >= compare two of them exactly
 * whatever they are, and === is right too, because each place has one form. Nearly every lock lies below 2^53 and costs what
 * a number costs. Math.min, Math.max and arithmetic do not work on them: what is needed stands here.
 */

export type LockOffset = number | bigint;

/** OFFSET_MAX of Linux. A range that ends with this byte goes to the end of the file, whatever its size becomes. */
export const LOCK_OFFSET_MAX = 2n ** 63n - 1n;

/** The end of a range to the end of the file, where an end has to be compared. */
export const TO_END = Number.POSITIVE_INFINITY;

/** @param value 0 to LOCK_OFFSET_MAX. */
export function lockOffset(value: bigint): LockOffset {
  return value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
}

export function earlier(a: LockOffset, b: LockOffset): LockOffset {
  return a < b ? a : b;
}

export function later(a: LockOffset, b: LockOffset): LockOffset {
  return a > b ? a : b;
}

/** An end that was compared, as messages and applications have it: undefined is "to the end of the file". */
export function endOrNone(end: LockOffset): LockOffset | undefined {
  return end === TO_END ? undefined : end;
}
