import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BUCKETS_SECONDS, MetricTable } from '../../../src/runtime/metric_table.js';
import { renderMetrics } from '../../../src/runtime/node_metrics.js';

test('a name counts once however many register it, and tables are apart', async () => {
  const one = new MetricTable();
  const other = new MetricTable();
  one.counter('holdfast_events_total', 'Events.').inc();
  one.counter('holdfast_events_total', 'Events.').inc(2);
  one.gauge('holdfast_depth', 'Depth.', () => 3);
  one.gauge('holdfast_depth', 'Depth.', () => 4);
  other.counter('holdfast_events_total', 'Events.').inc(5);
  const text = await renderMetrics(one);
  assert.match(text, /^holdfast_events_total 3$/m);
  assert.match(text, /^holdfast_depth 7$/m);
  assert.match(await renderMetrics(other), /^holdfast_events_total 5$/m);
});

test('labels tell the members of a family apart', async () => {
  const table = new MetricTable();
  table.counter('holdfast_errors_total', 'Errors.', { code: 'EIO' }).inc();
  table.counter('holdfast_errors_total', 'Errors.', { code: 'ENOENT' }).inc(4);
  table.counter('holdfast_errors_total', 'Errors.', { code: 'EIO' }).inc();
  table.total('holdfast_kept_total', 'Kept elsewhere.', () => 9, { kind: 'a "quoted" \n name' });
  const text = await renderMetrics(table);
  assert.match(text, /^# TYPE holdfast_errors_total counter$/m);
  assert.match(text, /^holdfast_errors_total\{code="EIO"\} 2$/m);
  assert.match(text, /^holdfast_errors_total\{code="ENOENT"\} 4$/m);
  assert.match(text, /^holdfast_kept_total\{kind="a \\"quoted\\" \\n name"\} 9$/m);
});

test('a histogram counts each duration in its bucket and in all above', async () => {
  const table = new MetricTable();
  const waits = table.histogram('holdfast_wait_seconds', 'Waits.', { operation: 'READ' });
  waits.observe(0.002);
  waits.observe(0.003, 5);
  waits.observe(0.5);
  waits.observe(1000);
  const text = await renderMetrics(table);
  const at = (le: string): string | undefined =>
    new RegExp(`^holdfast_wait_seconds_bucket\\{le="${le}",operation="READ"\\} (\\d+)$`, 'm').exec(text)?.[1];
  assert.deepEqual(
    ['0.001', '0.003', '0.3', '1', '100', '\\+Inf'].map(at),
    ['0', '6', '6', '7', '7', '8'],
    text,
  );
  assert.match(text, /^holdfast_wait_seconds_sum\{operation="READ"\} 1000.517$/m);
  assert.match(text, /^holdfast_wait_seconds_count\{operation="READ"\} 8$/m);
  assert.deepEqual(
    [...BUCKETS_SECONDS].sort((a, b) => a - b),
    BUCKETS_SECONDS,
  );
});

test('one name cannot be of two kinds', () => {
  const table = new MetricTable();
  table.counter('holdfast_events_total', 'Events.');
  assert.throws(() => table.gauge('holdfast_events_total', 'Events.', () => 1), /is a counter and a gauge/);
});
