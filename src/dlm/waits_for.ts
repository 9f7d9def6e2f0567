/** Deadlock detection: a search in the graph "owner waits for owner". A pure function; the caller has the graph. */

/**
 * Whether an owner would wait for itself if it waited for the owners in `first`.
 * @param isItself whether this is the owner.
 * @param keyOf gives the same text for the same owner.
 * @param waitsFor the owners that an owner waits for already; empty if it waits for nobody.
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
