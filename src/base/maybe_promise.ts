/**
 * Values that are there at once or later. The data path answers without a promise turn where it can (a turn costs a
 * third of the whole request), so operations return T | Promise<T> and callers look before they wait.
 */

export type MaybePromise<T> = T | Promise<T>;

export function isPromise<T>(value: MaybePromise<T>): value is Promise<T> {
  return value instanceof Promise;
}

/** Applies `next` at once when the value is there, else when it arrives. Errors of either pass through. */
export function andThen<T, R>(value: MaybePromise<T>, next: (value: T) => MaybePromise<R>): MaybePromise<R> {
  return isPromise(value) ? value.then(next) : next(value);
}
