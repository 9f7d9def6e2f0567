/** Assertions for conditions that only a bug of ours can break. Never used on input from a peer, a user or a disk. */

export class AssertionFailure extends Error {
  override name = 'AssertionFailure';
}

export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionFailure(message);
}

/** A table whose invariants hold at any moment between two events, and can be checked there. */
export interface Checked {
  /** @throws AssertionFailure that names the invariant, from the header of its file, that does not hold. */
  checkInvariants(): void;
}

export function assertNever(value: never): never {
  throw new AssertionFailure(`unexpected case: ${JSON.stringify(value)}`);
}
