/**
 * A fleet on a small network, whose hosts are reached by ssh, is upgraded, stopped in the middle, brought back, and upgraded by a command
 * that is killed again and again, under programs that check what they read. fleet_network.test.ts goes on with all that may happen.
 */

import assert from 'node:assert/strict';
import test from 'node:test';
import type { Capabilities } from '../../src/cli/capabilities_run.js';
import { NEW, OLD, testFleet } from '../fixtures/fleet.js';
import { until } from '../fixtures/until.js';
import { lacks } from './programs.js';

const LIMIT_MS = 800_000;
/** Far more than some steps of a fleet take on a busy machine. */
const STEP_MS = 200_000;
const SHAPE = { targets: { single: ['s'], pair: ['a', 'b'] }, clients: { c1: ['single'], c2: ['pair'] } };

test('a fleet goes up, back and up again under running programs, whenever its command ends', {
  timeout: LIMIT_MS,
  skip: lacks('sshd', 'openssh-server'),
}, async (t) => {
  const fleet = await testFleet(t, SHAPE, LIMIT_MS);

  const can = await fleet.holdfast('a', '--capabilities --json');
  assert.equal((JSON.parse(can.stdout) as Capabilities).version.replace(/\+.*/, ''), OLD);

  const checked = await fleet.fleetOk('check', '--to', NEW);
  assert.match(checked, new RegExp(`go: upgrade --to ${NEW}$`));

  const planned = await fleet.fleetOk('plan', '--to', NEW);
  assert.deepEqual(
    planned.split('\n').map((line) => line.replace(/^[ -]+/, '')),
    [
      'group single',
      's: shut the server of single down',
      `s: start ${NEW} for single`,
      `c1: ${NEW} takes over ${fleet.mountpoint('c1', 'single')}`,
      'group pair',
      'b: end the standby of pair',
      `b: start ${NEW} for pair, with its partner as the other`,
      'a: shut the server of pair down; its partner takes the target',
      `a: start ${NEW} for pair, with its partner as the other`,
      `c2: ${NEW} takes over ${fleet.mountpoint('c2', 'pair')}`,
    ],
  );

  // Stopped in the middle of the pair: it ends when the pair is whole.
  const aborted = fleet.start('upgrade', '--to', NEW);
  await aborted.line(/end the standby of pair/, STEP_MS);
  const other = await fleet.fleet('upgrade', '--to', NEW);
  assert.match(other.stderr, /another command changes this fleet/);
  await fleet.fleetOk('abort');
  assert.equal((await aborted.exited).code, 1);
  assert.match(aborted.stderr.join('\n'), /aborted in order/);
  assert.deepEqual(await fleet.versions(), fleet.everywhere(NEW, { c2: OLD }));
  assert.equal(fleet.state.progress, 'aborted');
  await fleet.goOn();

  await fleet.fleetOk('rollback');
  assert.deepEqual(await fleet.versions(), fleet.everywhere(OLD));
  await fleet.goOn();

  // Killed when a step has just begun.
  for (const count of [1, 2]) {
    const killed = fleet.start('upgrade', '--to', NEW);
    await until(
      () => `${count} steps are done: ${killed.tail()}`,
      () => killed.stdout.length >= count,
      STEP_MS,
    );
    killed.kill('SIGKILL');
    await killed.exited;
  }
  assert.match(await fleet.fleetOk('status'), /its command was killed; run it again to go on/);
  const finished = await fleet.fleetOk('upgrade', '--to', NEW);
  assert.match(finished, /upgrade to \S+ is done, \d+ steps; longest pause of a client \d+ ms/);
  assert.deepEqual(await fleet.versions(), fleet.everywhere(NEW));
  assert.ok(fleet.state.pauses.some(({ why }) => why === 'takeover'));
  assert.ok(
    fleet.state.pauses.some(({ why }) => why === 'pair'),
    'clients have measured the change of servers',
  );

  await fleet.goOn();
  const longestMs = await fleet.stop();
  t.diagnostic(`longest call of a program ${longestMs.toFixed(0)} ms; ${finished.split('\n').at(-1)}`);
});
