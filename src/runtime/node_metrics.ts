/**
 * Renders what a process has counted (metric_table.ts) as Prometheus reads it, by prom-client. That package takes long to load: only
 * who is asked for the text loads this file.
 */

import { Registry } from 'prom-client';
import { BUCKETS_SECONDS, type FamilySamples, type MetricTable, type Sample } from './metric_table.js';

/** What prom-client wants to know of one line. */
interface Line {
  readonly metricName: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** All metrics in Prometheus' text format 0.0.4. */
export function renderMetrics(table: MetricTable): Promise<string> {
  const registry = new Registry();
  for (const family of table.samples()) {
    const values = family.samples.flatMap((sample) => linesOf(family, sample));
    const { name, help, kind } = family;
    const metric = { name, get: () => Promise.resolve({ name, help, type: kind, values }) };
    registry.registerMetric(metric as unknown as Parameters<typeof registry.registerMetric>[0]);
  }
  return registry.metrics();
}

function linesOf({ name }: FamilySamples, sample: Sample): Line[] {
  const { labels } = sample;
  if (!('counts' in sample)) return [{ metricName: name, labels, value: sample.value }];
  let below = 0;
  const buckets = sample.counts.map((count, at): Line => {
    below += count;
    const le = at < BUCKETS_SECONDS.length ? String(BUCKETS_SECONDS[at]) : '+Inf';
    return { metricName: `${name}_bucket`, labels: { le, ...labels }, value: below };
  });
  return [
    ...buckets,
    { metricName: `${name}_sum`, labels, value: sample.sum },
    { metricName: `${name}_count`, labels, value: below },
  ];
}
