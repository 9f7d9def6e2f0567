/** Programs that work with timers, through upgrades and crashes: PostgreSQL under pgbench, and git with its progress. */

import assert from 'node:assert/strict';
import test from 'node:test';
import { startCluster } from '../fixtures/cluster.js';
import { ProgramsLoad } from '../fixtures/programs_load.js';

const ROUNDS = 20;
const LIMIT_MS = 290_000;

test('PostgreSQL and git see no error through ten upgrades and ten crashes', {
  timeout: 300_000,
}, async (t) => {
  const bin = ProgramsLoad.programs();
  if (bin === undefined) return t.skip('postgresql is not installed');
  const cluster = await startCluster(t, { limitMs: LIMIT_MS });
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  const load = await ProgramsLoad.start(t, bin, mount.dir, false);
  for (let round = 0; round < ROUNDS; round++) {
    await load.goesOn();
    if (round % 2 === 0) await cluster.upgrade();
    else await cluster.crash();
  }
  await load.end();
  const [benches = 0, checkouts = 0] = load.times;
  assert.ok(benches > 2 && checkouts > 2, `${load.times}`);
  t.diagnostic(`${benches} runs of pgbench, ${checkouts} checkouts`);
});
