import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Reading, topText, topView } from '../../../src/cli/top_view.js';
import { MetricTable } from '../../../src/runtime/metric_table.js';
import { renderMetrics } from '../../../src/runtime/node_metrics.js';

function mount() {
  const table = new MetricTable();
  table.gauge('holdfast_build_info', 'Build.', () => 1, { version: '1.2.3', side: 'client' });
  const read = table.histogram('holdfast_fuse_seconds', 'Time.', { operation: 'READ' });
  const bytes = table.counter('holdfast_client_bytes_total', 'Bytes.', { direction: 'read' });
  const errors = table.counter('holdfast_fuse_errors_total', 'Errors.', { operation: 'READ', code: 'EIO' });
  table.gauge('holdfast_client_dirty_bytes', 'Dirty.', () => 1 << 20);
  return { read, bytes, errors, reading: async () => new Reading(await renderMetrics(table)), table };
}

test('rates and quantiles are those between two readings', async () => {
  const { read, bytes, errors, reading } = mount();
  read.observe(50, 1000);
  const before = await reading();
  read.observe(0.0002, 98);
  read.observe(2, 2);
  bytes.inc(1 << 21);
  errors.inc(4);
  const view = topView('client', before, await reading(), 2);
  const [only] = view.operations;
  assert.deepEqual(
    [view.version, only?.operation, only?.perSecond, only?.errorsPerSecond, view.readBytesPerSecond],
    ['1.2.3', 'READ', 50, 2, 1 << 20],
  );
  assert.ok((only?.p50Seconds ?? 0) > 0.0001 && (only?.p50Seconds ?? 0) <= 0.0003);
  assert.ok((only?.p99Seconds ?? 0) > 1 && (only?.p99Seconds ?? 0) <= 3);
  assert.equal(view.now.dirtyBytes, 1 << 20);
});

test('what did not occur has no row, and a process that has begun anew counts from 0', async () => {
  const { read, reading } = mount();
  read.observe(0.001, 10);
  const before = await reading();
  assert.deepEqual(topView('client', before, await reading(), 1).operations, []);
  const anew = mount();
  anew.read.observe(0.001, 3);
  const view = topView('client', before, await anew.reading(), 1);
  assert.deepEqual([view.operations, view.readBytesPerSecond], [[], 0]);
});

test('the text has a line for each operation, in columns', async () => {
  const { read, reading } = mount();
  const before = await reading();
  read.observe(0.0002, 10);
  const text = topText('/mnt/home', topView('client', before, await reading(), 1));
  assert.match(text, /^client \/mnt\/home, version 1\.2\.3: 10\.0 operations\/s, read 0\b/);
  assert.match(text, /^dirty 1\.0 MiB {2}/m);
  assert.match(text, /^READ +10\.0 +0\.0 +\d+ us +\d+ us$/m);
});
