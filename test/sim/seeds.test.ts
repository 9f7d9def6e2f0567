/**
 * Random runs, as many as fit into HOLDFAST_SIM_SECONDS (60), from seed HOLDFAST_SIM_FROM (1) on, and HOLDFAST_SIM_FILL_SEEDS (4)
 * runs that fill a tiny target. What fails here is run again exactly by `node dist/test/sim/run.js [--fill] --seed N --trace`.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fillRun, makeFillPlan } from './fill_run.js';
import { type RunResult, randomRun } from './random_run.js';
import { makeImages } from './world.js';

const seconds = Number(process.env.HOLDFAST_SIM_SECONDS ?? 60);
const fillSeeds = Number(process.env.HOLDFAST_SIM_FILL_SEEDS ?? 4);
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
    judge(result, '');
  }
  t.diagnostic(`${seeds} seeds, ${operations} operations`);
});

test(`${fillSeeds} runs that fill a tiny target`, { timeout: (fillSeeds * 30 + 60) * 1000 }, async (t) => {
  const plan = await makeFillPlan();
  let refused = 0;
  for (let seed = from; seed < from + fillSeeds; seed++) {
    const result = await fillRun({ seed }, plan);
    judge(result, '--fill ');
    for (const [what, count] of result.done) refused += what.startsWith('ENOSPC') ? count : 0;
  }
  assert.ok(refused > 0, 'the target was full');
  t.diagnostic(`${refused} calls found no room`);
});

function judge({ seed, failure, timeline }: RunResult, kind: string): void {
  if (failure === undefined) return;
  const lines = [String(failure.stack), ...timeline.slice(-40)];
  assert.fail(`seed ${seed}: ${lines.join('\n')}\nagain: npm run sim -- ${kind}--seed ${seed} --trace`);
}
