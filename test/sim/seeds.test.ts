/**
 * Random runs, as many as fit into HOLDFAST_SIM_SECONDS (60), from seed HOLDFAST_SIM_FROM (1) on. What fails here is run again
 * exactly by `node dist/test/sim/run.js --seed N --trace`.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { randomRun } from './random_run.js';
import { makeImages } from './world.js';

const seconds = Number(process.env.HOLDFAST_SIM_SECONDS ?? 60);
const from = Number(process.env.HOLDFAST_SIM_FROM ?? 1);

test('a seed runs in the same way each time', async () => {
  const images = await makeImages();
  for (const seed of [1, 2, 3, 99, 141]) {
    const first = await randomRun({ seed, images });
    const second = await randomRun({ seed, images: await makeImages() });
    assert.ok(first.events > 100, 'something happened');
    assert.deepEqual([second.digest, second.events], [first.digest, first.events], `seed ${seed}`);
  }
});

test(`random runs for ${seconds} s`, { timeout: (seconds + 120) * 1000 }, async (t) => {
  const images = await makeImages();
  const startedMs = performance.now();
  let operations = 0;
  let seeds = 0;
  for (; performance.now() - startedMs < seconds * 1000; seeds++) {
    const seed = from + seeds;
    const result = await randomRun({ seed, images });
    operations += result.operations;
    if (result.failure === undefined) continue;
    const lines = [String(result.failure.stack), ...result.timeline.slice(-40)];
    assert.fail(`seed ${seed}: ${lines.join('\n')}\nagain: npm run sim -- --seed ${seed} --trace`);
  }
  t.diagnostic(`${seeds} seeds, ${operations} operations`);
});
