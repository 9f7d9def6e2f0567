/**
 * An offset of an fcntl(2) lock: 0 to 2^63 - 1, exact. Programs lock far behind any file's end (tdb, SQLite, Samba),
 * and a double is exact only below 2^53.
 *
 * Invariant: an offset below 2^53 is a number, from there on a bigint. So JavaScript's <, >, <= and >= compare any two
 * offsets exactly, and === is right too, because each offset has one form. Nearly every lock lies below 2^53 and costs
 * no more than a number. Math.min, Math.max and arithmetic do not work on offsets: this file has the functions that are
 * needed.
 */

export type LockOffset = number | bigint;

/** OFFSET_MAX of Linux. A range that ends with this byte reaches to the end of the file, whatever its size becomes. */
export const LOCK_OFFSET_MAX = 2n ** 63n - 1n;

/** The end of a range that reaches to the end of the file, in the form that can be compared. */
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

/** Turns an end that can be compared into the form of messages and applications: undefined is "to the end of the file". */
export function endOrNone(end: LockOffset): LockOffset | undefined {
  return end === TO_END ? undefined : end;
}
