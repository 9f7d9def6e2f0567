/** Deadlock detection: a search in the graph "owner waits for owner". Pure; the graph is the caller's. */

/**
 * Whether `owner` would wait for itself, if it waited for those in `first`.
 * @param waitsFor whom an owner waits for already; empty for one that waits for nobody.
 */
export function closesCycle<Owner>(
  owner: Owner,
  first: Iterable<Owner>,
  waitsFor: (owner: Owner) => Iterable<Owner>,
): boolean {
  const seen = new Set<Owner>();
  const pending = [...first];
  for (;;) {
    const next = pending.pop();
    if (next === undefined) return false;
    if (next === owner) return true;
    if (seen.has(next)) continue;
    seen.add(next);
    for (const other of waitsFor(next)) pending.push(other);
  }
}
