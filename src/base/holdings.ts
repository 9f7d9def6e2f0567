/** Lists of who holds what: the order in which people want to see them, and no more of them than they asked for. */

/** More do not fit one reply. */
export const HOLDINGS_MAX = 1000;

interface Listed {
  readonly waits: boolean;
  readonly waiters: number;
  readonly forMs?: number | undefined;
}

/**
 * Those that wait, the oldest first; then what they wait for; then the rest, in the order in which they came.
 * @param all may be millions: only as many as are shown are kept, beside those that wait and are waited for.
 */
export function firstHoldings<H extends Listed>(
  all: Iterable<H>,
  limit: number,
): { readonly holdings: H[]; readonly total: number } {
  const most = Math.min(limit, HOLDINGS_MAX);
  const waiting: H[] = [];
  const wanted: H[] = [];
  const rest: H[] = [];
  let total = 0;
  for (const one of all) {
    total += 1;
    const list = one.waits ? waiting : one.waiters > 0 ? wanted : rest;
    if (list !== rest || rest.length < most) list.push(one);
  }
  waiting.sort((a, b) => (b.forMs ?? 0) - (a.forMs ?? 0));
  return { holdings: [...waiting, ...wanted, ...rest].slice(0, most), total };
}

const O_ACCMODE = 3;

/** @param flags of open(2). */
export function openMode(flags: number): string {
  return ['read', 'write', 'read write'][flags & O_ACCMODE] ?? 'none';
}
