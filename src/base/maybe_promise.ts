/**
 * Values that are available at once or later. The data path avoids a promise where it can (the extra turn costs a third
 * of the whole request). So operations return T | Promise<T>, and callers check before they wait.
 */

export type MaybePromise<T> = T | Promise<T>;

export function isPromise<T>(value: MaybePromise<T>): value is Promise<T> {
  return value instanceof Promise;
}

/** Applies `next` at once if the value is there, else when it arrives. Errors of both pass through. */
export function andThen<T, R>(value: MaybePromise<T>, next: (value: T) => MaybePromise<R>): MaybePromise<R> {
  return isPromise(value) ? value.then(next) : next(value);
}
