/**
 * The simulator as a command: node dist/test/sim/run.js [--seeds N] [--seconds S] [--from N] [--seed N [--trace]]
 *   --seed N     one seed, exactly as it ran before; --trace prints everything that happens
 *   --seeds N    so many seeds, --from on
 *   --seconds S  as many seeds as fit
 *   --fill       runs that fill a tiny target (fill_run.ts)
 * Exit status 1 when a seed failed; its number, what is wrong and the last lines of its timeline are printed.
 */

import { parseArgs } from 'node:util';
import { FAULT_KINDS, type FaultKind } from './faults.js';
import { fillRun, makeFillPlan } from './fill_run.js';
import { type RunOptions, type RunResult, randomRun } from './random_run.js';
import { makeImages } from './world.js';

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    seeds: { type: 'string' },
    seconds: { type: 'string' },
    from: { type: 'string', default: '1' },
    kinds: { type: 'string' },
    fill: { type: 'boolean', default: false },
    trace: { type: 'boolean', default: false },
    'keep-going': { type: 'boolean', default: false },
  },
});

const kinds = values.kinds
  ?.split(',')
  .map((text) => FAULT_KINDS.find((kind) => kind === text.trim()))
  .filter((kind): kind is FaultKind => kind !== undefined);

interface Runs {
  run(options: RunOptions): Promise<RunResult>;
  /** What there is to say of this kind of run. */
  counts(): readonly (readonly [string, number])[];
}

async function usualRuns(): Promise<Runs> {
  const images = await makeImages();
  return { run: (options) => randomRun({ ...options, images }), counts: () => [] };
}

async function fillRuns(): Promise<Runs> {
  const plan = await makeFillPlan();
  const counts = new Map<string, number>();
  return {
    run: async (options) => {
      const result = await fillRun(options, plan);
      for (const [what, count] of result.done) counts.set(what, (counts.get(what) ?? 0) + count);
      return result;
    },
    counts: () => [...counts].sort(),
  };
}

function report(result: RunResult): void {
  const { seed, failure, timeline } = result;
  console.log(`seed ${seed} failed: ${failure?.stack ?? failure}`);
  for (const line of timeline) console.log(`  ${line}`);
  console.log(
    `again: npm run sim -- ${values.fill ? '--fill ' : ''}--seed ${seed}${values.kinds ? ` --kinds '${values.kinds}'` : ''}`,
  );
}

function summary(results: readonly RunResult[], seconds: number): void {
  const sum = (of: (result: RunResult) => number): number =>
    results.reduce((total, result) => total + of(result), 0);
  const faults = new Map<string, number>();
  for (const result of results) {
    for (const [kind, count] of result.faults) faults.set(kind, (faults.get(kind) ?? 0) + count);
  }
  const failed = results.filter(({ failure }) => failure !== undefined);
  console.log(
    `${results.length} seeds in ${seconds.toFixed(1)} s, ${sum(({ operations }) => operations)} operations, ` +
      `${sum(({ events }) => events)} events, ${(sum(({ virtualMs }) => virtualMs) / 3_600_000).toFixed(1)} h of virtual time, ` +
      `${sum(({ disturbed }) => disturbed)} processes disturbed, ${failed.length} seeds failed`,
  );
  for (const [kind, count] of [...faults].sort()) console.log(`  ${kind}: ${count}`);
  for (const [what, count] of runs.counts()) console.log(`  ${what}: ${count}`);
  if (failed.length > 0) console.log(`failed: ${failed.map(({ seed }) => seed).join(' ')}`);
}

const runs: Runs = values.fill ? await fillRuns() : await usualRuns();
if (values.seed !== undefined) {
  const echo = values.trace ? (line: string) => console.log(line) : undefined;
  const result = await runs.run({ seed: Number(values.seed), kinds, echo });
  if (result.failure !== undefined) report(result);
  console.log(`digest ${result.digest.toString(16)}`);
  summary([result], 0);
  process.exit(result.failure === undefined ? 0 : 1);
}

const started = performance.now();
const results: RunResult[] = [];
const limitMs = values.seconds === undefined ? Number.POSITIVE_INFINITY : Number(values.seconds) * 1000;
const count =
  values.seeds === undefined ? (values.seconds === undefined ? 100 : Infinity) : Number(values.seeds);
for (let index = 0; index < count && performance.now() - started < limitMs; index++) {
  const result = await runs.run({ seed: Number(values.from) + index, kinds });
  results.push({ ...result, timeline: result.failure === undefined ? [] : result.timeline });
  if (result.failure !== undefined) report(result);
  if (result.failure !== undefined && !values['keep-going']) break;
}
summary(results, (performance.now() - started) / 1000);
process.exit(results.some(({ failure }) => failure !== undefined) ? 1 : 0);
