/** A fleet is upgraded, stopped in the middle, brought back, and upgraded by a command that is killed again and again. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import type { Capabilities } from '../../src/cli/capabilities_run.js';
import type { FleetState } from '../../src/cli/fleet/state.js';
import { NEW, OLD, testFleet } from '../fixtures/fleet.js';
import { until } from '../fixtures/until.js';

const LIMIT_MS = 240_000;
/** Far more than some steps of a fleet take on a busy machine. */
const STEP_MS = 60_000;

test('a fleet goes up, back and up again under running programs, whenever its command ends', {
  timeout: LIMIT_MS,
}, async (t) => {
  const fleet = await testFleet(t, LIMIT_MS);
  const state = (): FleetState => JSON.parse(readFileSync(fleet.statePath, 'utf8')) as FleetState;

  const can = await fleet.holdfast('a', '--capabilities --json');
  assert.equal((JSON.parse(can.stdout) as Capabilities).version.replace(/\+.*/, ''), OLD);

  const checked = await fleet.fleet('check', '--to', NEW);
  assert.equal(checked.code, 0, `${checked.stdout}${checked.stderr}`);
  assert.match(checked.stdout, new RegExp(`go: upgrade --to ${NEW}$`));
  const missing = await fleet.fleet('check', '--to', '9.9.9');
  assert.equal(missing.code, 1);
  assert.match(missing.stderr, /^holdfast: no go: host a, reachable: .*holdfast-9\.9\.9/);

  const planned = await fleet.fleet('plan', '--to', NEW);
  assert.deepEqual(
    planned.stdout.split('\n').map((line) => line.replace(/^[ -]+/, '')),
    [
      'group single',
      's: shut the server of single down',
      `s: start ${NEW} for single`,
      `c3: ${NEW} takes over ${fleet.cluster.folder}/mnt-c3`,
      'group pair',
      'b: end the standby of pair',
      `b: start ${NEW} for pair, with its partner as the other`,
      'a: shut the server of pair down; its partner takes the target',
      `a: start ${NEW} for pair, with its partner as the other`,
      `c1: ${NEW} takes over ${fleet.cluster.folder}/mnt-c1`,
      `c2: ${NEW} takes over ${fleet.cluster.folder}/mnt-c2`,
    ],
  );

  // Stopped in the middle of the pair: it ends when the pair is whole.
  const aborted = fleet.start('upgrade', '--to', NEW);
  await aborted.line(/end the standby of pair/, 60_000);
  const other = await fleet.fleet('upgrade', '--to', NEW);
  assert.match(other.stderr, /another command changes this fleet/);
  assert.equal((await fleet.fleet('abort')).code, 0);
  assert.equal((await aborted.exited).code, 1);
  assert.match(aborted.stderr.join('\n'), /aborted in order/);
  assert.deepEqual(await fleet.versions(), { ...fleet.everywhere(NEW), c1: OLD, c2: OLD });
  assert.equal(state().progress, 'aborted');
  await fleet.goOn();

  const back = await fleet.fleet('rollback');
  assert.equal(back.code, 0, `${back.stdout}${back.stderr}`);
  assert.deepEqual(await fleet.versions(), fleet.everywhere(OLD));
  await fleet.goOn();

  // Killed when a step has just begun.
  for (const count of [1, 2, 1]) {
    const killed = fleet.start('upgrade', '--to', NEW);
    await until(
      () => `${count} steps are done: ${killed.tail()}`,
      () => killed.stdout.length >= count,
      STEP_MS,
    );
    killed.kill('SIGKILL');
    await killed.exited;
  }
  const shown = await fleet.fleet('status');
  assert.match(shown.stdout, /its command was killed; run it again to go on/);
  const finished = await fleet.fleet('upgrade', '--to', NEW);
  assert.equal(finished.code, 0, `${finished.stdout}${finished.stderr}`);
  assert.match(finished.stdout, /upgrade to \S+ is done, \d+ steps; longest pause of a client \d+ ms/);
  assert.deepEqual(await fleet.versions(), fleet.everywhere(NEW));
  assert.ok(state().pauses.some(({ why }) => why === 'takeover'));
  assert.ok(
    state().pauses.some(({ why }) => why === 'pair'),
    'clients have measured the change of servers',
  );

  await fleet.goOn();
  const longestMs = await fleet.stop();
  t.diagnostic(
    `longest call of a program ${longestMs.toFixed(0)} ms; ${finished.stdout.trim().split('\n').at(-1)}`,
  );
});
