/**
 * PostgreSQL and git at work on a mount whose client is replaced again and again, by another version and back.
 *
 * HOLDFAST_TAKEOVERS=50 is the long form, whose figures are in docs/TAKEOVER.md. The short one shows that nothing fails.
 */

import assert from 'node:assert/strict';
import test from 'node:test';
import { LOCK, O } from '../fixtures/agent.js';
import { startCluster } from '../fixtures/cluster.js';
import { MIB } from '../fixtures/devices.js';
import { nextTree, thisTree } from '../fixtures/installed_tree.js';
import { ProgramsLoad } from '../fixtures/programs_load.js';
import { until, within } from '../fixtures/until.js';

const ROUNDS = Number(process.env.HOLDFAST_TAKEOVERS ?? 2);
const LIMIT_MS = 300_000 + ROUNDS * 20_000;

test('PostgreSQL, git and a holder of locks see no error through takeovers between two versions', {
  timeout: LIMIT_MS + 10_000,
}, async (t) => {
  const bin = ProgramsLoad.programs();
  if (bin === undefined) return t.skip('postgresql is not installed');
  const cluster = await startCluster(t, { mounts: 2, limitMs: LIMIT_MS, dataBytes: 512 * MIB });
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  const [holder, rival] = [cluster.agent(0), cluster.agent(1)];
  const held = await holder.open('lock', O.CREAT | O.RDWR);
  await holder.flock(held, LOCK.EX);
  const wanted = await rival.open('lock', O.RDWR);

  // Its calls are short: the longest is what a takeover has made of one.
  const prober = cluster.agent(0);
  let stop = false;
  let probes = 0;
  let longestMs = 0;
  const probing = (async () => {
    for (; !stop; probes++) {
      const began = performance.now();
      await prober.stat('lock');
      await prober.writeFile('probe', `${probes}`);
      longestMs = Math.max(longestMs, performance.now() - began);
    }
  })();
  probing.catch(() => undefined);

  const load = await ProgramsLoad.start(t, bin, mount.dir, true);
  const longest: number[] = [];
  const waited: number[] = [];
  const silent: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    await load.goesOn();
    longestMs = 0;
    const done = await cluster.takeOver(mount, round % 2 === 0 ? nextTree() : thisTree());
    const at = probes;
    await until('the prober goes on', () => probes > at + 2);
    longest.push(longestMs);
    waited.push(done.waitedMs);
    silent.push(done.silentMs);
    await assert.rejects(rival.flock(wanted, LOCK.SH | LOCK.NB), { code: 'EAGAIN' });
  }
  await load.goesOn();
  stop = true;
  await within('the prober ends', probing);
  await load.end();
  assert.equal(await prober.readFile('probe'), `${probes - 1}`);
  t.diagnostic(`${ROUNDS} takeovers, ${load.times} runs of pgbench and git, ${probes} probes`);
  for (const [what, list] of [
    ['the command says that calls waited', waited],
    ['nothing was read for', silent],
    ['the longest probe took', longest],
  ] as const) {
    const sorted = list.toSorted((a, b) => a - b);
    const [middle = 0, worst = 0] = [sorted[sorted.length >> 1], sorted.at(-1)];
    t.diagnostic(`${what} ${middle.toFixed(0)} ms (median), ${worst.toFixed(0)} ms at most`);
  }
});
