/** Assertions for what only a bug of ours can break. Never used on what a peer, a user or a disk can send. */

export class AssertionFailure extends Error {
  override name = 'AssertionFailure';
}

export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionFailure(message);
}

export function assertNever(value: never): never {
  throw new AssertionFailure(`unexpected case: ${JSON.stringify(value)}`);
}
