/** Deadlock detection: a search in the graph "owner waits for owner". Pure; the graph is the caller's. */

/**
 * Whether an owner would wait for itself, if it waited for those in `first`.
 * @param isItself whether this is the owner.
 * @param keyOf the same text for the same owner.
 * @param waitsFor whom an owner waits for already; empty for one that waits for nobody.
 */
export function closesCycle<Owner>(
  isItself: (owner: Owner) => boolean,
  first: Iterable<Owner>,
  keyOf: (owner: Owner) => string,
  waitsFor: (owner: Owner) => Iterable<Owner>,
): boolean {
  const seen = new Set<string>();
  const pending = [...first];
  for (;;) {
    const next = pending.pop();
    if (next === undefined) return false;
    if (isItself(next)) return true;
    const key = keyOf(next);
    if (seen.has(key)) continue;
    seen.add(key);
    for (const other of waitsFor(next)) pending.push(other);
  }
}
