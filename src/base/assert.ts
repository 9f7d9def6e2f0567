/** Assertions for what only a bug of ours can break. Never used on what a peer, a user or a disk can send. */

export class AssertionFailure extends Error {
  override name = 'AssertionFailure';
}

export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionFailure(message);
}

/** A table whose state can be judged at any moment between two events. */
export interface Checked {
  /** @throws AssertionFailure which of the invariants in the header of its file does not hold. */
  checkInvariants(): void;
}

export function assertNever(value: never): never {
  throw new AssertionFailure(`unexpected case: ${JSON.stringify(value)}`);
}
