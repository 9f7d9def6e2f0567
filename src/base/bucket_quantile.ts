/** Quantiles of a histogram. */

/**
 * As histogram_quantile() of Prometheus: within a bucket all values are equally likely.
 *
 * @param buckets in their order: the upper limit, infinite for the last one, and how many values lie in this bucket alone.
 * @returns a value in the unit of the limits; 0 if there are no values. Beyond the last finite limit nobody knows how much longer: that limit.
 */
export function bucketQuantile(
  q: number,
  buckets: Iterable<readonly [upper: number, count: number]>,
): number {
  const all = [...buckets];
  const wanted = q * all.reduce((sum, [, count]) => sum + count, 0);
  if (wanted <= 0) return 0;
  let [lower, below] = [0, 0];
  for (const [upper, count] of all) {
    if (upper === Number.POSITIVE_INFINITY) break;
    if (count > 0 && below + count >= wanted) return lower + ((upper - lower) * (wanted - below)) / count;
    [lower, below] = [upper, below + count];
  }
  return lower;
}
