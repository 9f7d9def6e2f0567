/** How soon a process dies that is blocked because the server is away. Ten of each kind, so that a busy machine shows as what it is. */

import assert from 'node:assert/strict';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { Child } from '../fixtures/child.js';
import { startCluster } from '../fixtures/cluster.js';
import { within } from '../fixtures/until.js';

const RUNS = 10;
const DEATH_MS = 100;

test('with the server away, each kind of blocked call dies of SIGINT and SIGKILL within 100 ms (median of ten)', {
  timeout: 120_000,
}, async (t) => {
  const cluster = await startCluster(t, { limitMs: 110_000 });
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  const script = join(packageRoot(), 'test', 'fixtures', 'deaths.py');
  const child = new Child('deaths', 'python3', [script, mount.dir, `${RUNS}`]);
  t.after(() => child.kill('SIGKILL'));
  await child.line(/^ready$/, 30_000);
  await cluster.upgrade(async () => {
    child.process.stdin?.write('\n');
    const { code } = await within('the deaths', child.exited, 60_000);
    assert.equal(code, 0, child.tail());
  });
  const deaths = JSON.parse(child.stdout.at(-1) ?? '') as Record<string, Record<string, number[]>>;
  const late: string[] = [];
  const all: number[] = [];
  const idle: number[] = [];
  for (const [signal, kinds] of Object.entries(deaths)) {
    for (const [kind, times] of Object.entries(kinds)) {
      const sorted = [...times].sort((a, b) => a - b);
      const median = sorted[RUNS / 2] ?? Number.NaN;
      assert.equal(sorted.length, RUNS);
      if (kind === 'none') idle.push(...sorted);
      else all.push(...sorted);
      if (!(median < DEATH_MS))
        late.push(`${kind} ${signal}: ${sorted.map((ms) => ms.toFixed(0)).join(' ')}`);
    }
  }
  assert.deepEqual(late, []);
  all.sort((a, b) => a - b);
  const figures = `median ${all[all.length / 2]?.toFixed(1)} ms, worst ${all.at(-1)?.toFixed(1)} ms of ${all.length}`;
  const machine = `without us ${Math.max(...idle).toFixed(1)} ms at worst, load ${loadavg()[0]?.toFixed(1)}`;
  t.diagnostic(`${figures}; ${machine}`);
});
