/**
 * All that may happen while a fleet is upgraded: two pairs, a single server and six clients on a small network, whose hosts are reached by
 * ssh. Programs on every mount check what they read, and see no error; after each event everything serves, versions are what the command
 * says, and `fleet status` tells it. It takes long, so it runs with HOLDFAST_FLEET=long only; another word there is a part of the name of
 * one story, as HOLDFAST_FLEET=broken.
 */

import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import test, { type TestContext } from 'node:test';
import { installedVersion } from '../../src/cli/installed.js';
import type { Child } from '../fixtures/child.js';
import { NEW, OLD, type TestFleet, testFleet } from '../fixtures/fleet.js';
import type { LoadResult } from '../fixtures/fleet_load.js';
import { until } from '../fixtures/until.js';
import { lacks } from './programs.js';

const LIMIT_MS = 3_600_000;
const STEP_MS = 600_000;
const KILLS = 10;
const WANTED = process.env.HOLDFAST_FLEET ?? '';
const skip = (WANTED === '' ? 'HOLDFAST_FLEET is not long' : false) || lacks('sshd', 'openssh-server');

const SHAPE = {
  targets: { single: ['s'], home: ['a', 'b'], work: ['d', 'e'] },
  clients: {
    c1: ['single'],
    c2: ['single', 'home'],
    c3: ['home'],
    c4: ['home', 'work'],
    c5: ['work'],
    c6: ['work'],
  },
};
/** A version that says what it can, and does not serve. */
const BROKEN = NEW.replace(/\d+$/, (digits) => String(Number(digits) + 1));

/** Everything serves, and the status has these versions. */
async function ends(
  fleet: TestFleet,
  version: string,
  others: Readonly<Record<string, string>> = {},
): Promise<void> {
  await fleet.goOn();
  assert.deepEqual(await fleet.versions(), fleet.everywhere(version, others));
  await fleet.isServedWhole();
}

async function steps(child: Child, count: number): Promise<void> {
  await until(
    () => `${count} steps are done: ${child.tail()}`,
    () => child.stdout.filter((line) => / \(\d+\.\d s\)$/.test(line)).length >= count,
    STEP_MS,
  );
}

test('a fleet ends right, whatever happens while it is upgraded', { timeout: LIMIT_MS, skip }, async (t) => {
  const fleet = await testFleet(t, SHAPE, LIMIT_MS);
  const gone: Record<string, LoadResult[]> = {};
  const stories: [string, (fleet: TestFleet, t: TestContext) => Promise<void>][] = [
    ['nothing happens', upAndBack],
    ['the command is ended in order', aborted],
    ['the command is killed at ten moments', killed],
    ['a closed window', closedWindow],
    ['paused and resumed', paused],
    ['a host dies', hostDies],
    ['a link is down', linkDown],
    ['a broken version', brokenVersion],
    ['a client host starts anew', (its) => clientStartsAnew(its, gone)],
  ];
  const chosen = stories.filter(([name]) => WANTED === 'long' || name.includes(WANTED));
  assert.ok(chosen.length > 0, `there is a story of ${WANTED}`);
  for (const [name, story] of chosen) {
    const began = performance.now();
    await story(fleet, t);
    t.diagnostic(`${name}: ${((performance.now() - began) / 1000).toFixed(0)} s`);
  }
  t.diagnostic(`longest call of a program ${(await fleet.stop(gone)).toFixed(0)} ms`);
});

async function upAndBack(fleet: TestFleet, t: TestContext): Promise<void> {
  assert.match(await fleet.fleetOk('check', '--to', NEW), new RegExp(`go: upgrade --to ${NEW}$`));
  const missing = await fleet.fleet('check', '--to', '9.9.9');
  assert.equal(missing.code, 1);
  assert.match(missing.stderr, /^holdfast: no go: host s, reachable: .*holdfast-9\.9\.9/);
  const began = performance.now();
  const done = await fleet.fleetOk('upgrade', '--to', NEW);
  const tookMs = performance.now() - began;
  t.diagnostic(
    `upgrade of the whole fleet ${(tookMs / 1000).toFixed(0)} s; ${done.trim().split('\n').at(-1)}`,
  );
  assert.match(done, /upgrade to \S+ is done, \d+ steps; longest pause of a client \d+ ms/);
  await ends(fleet, NEW);
  assert.match(await fleet.fleetOk('status'), new RegExp(`^upgrade to ${NEW}: done`));
  assert.match(await fleet.fleetOk('upgrade', '--to', NEW), /is done, 0 steps/);
  await fleet.fleetOk('rollback');
  await ends(fleet, OLD);
  assert.match(await fleet.fleetOk('status'), new RegExp(`^rollback from ${NEW}: done`));
}

/** By the verb, by a signal, and by an output that nobody reads any more. */
async function aborted(fleet: TestFleet): Promise<void> {
  const first = fleet.start('upgrade', '--to', NEW);
  await first.line(/b: end the standby of home/, STEP_MS);
  const other = await fleet.fleet('rollback');
  assert.match(other.stderr, /another command changes this fleet/);
  assert.match(
    await fleet.fleetOk('status'),
    new RegExp(`^upgrade to ${NEW}: running, began \\S+, \\d+ steps done`),
  );
  await fleet.fleetOk('abort');
  assert.equal((await first.exited).code, 1);
  const behind = { 'c2:home': OLD, c3: OLD, c4: OLD, d: OLD, e: OLD, c5: OLD, c6: OLD };
  assert.deepEqual(await fleet.versions(), fleet.everywhere(NEW, behind));
  assert.match(await fleet.fleetOk('status'), new RegExp(`^upgrade to ${NEW}: aborted`));
  await fleet.isServedWhole();

  const second = fleet.start('upgrade', '--to', NEW);
  await steps(second, 1);
  second.kill('SIGTERM');
  await second.line(/SIGTERM: ends before its next batch/, STEP_MS);
  assert.equal((await second.exited).code, 1);
  assert.match(second.stderr.join('\n'), /aborted in order/);
  await fleet.goOn();
  await fleet.isServedWhole();

  const third = fleet.start('upgrade', '--to', NEW);
  await steps(third, 1);
  third.process.stdout?.destroy();
  assert.equal((await third.exited).code, 0, third.tail());
  await ends(fleet, NEW);
  await fleet.fleetOk('rollback');
  await ends(fleet, OLD);
}

/** Random moments: nothing that is asserted depends on which they are. */
async function killed(fleet: TestFleet, t: TestContext): Promise<void> {
  const moments: string[] = [];
  for (let kill = 0; kill < KILLS; kill++) {
    const words = kill % 4 < 2 ? ['upgrade', '--to', NEW] : ['rollback'];
    const child = fleet.start(...words);
    const waitMs = Math.random() * 20_000;
    await Promise.race([child.exited, new Promise((resolve) => setTimeout(resolve, waitMs))]);
    child.kill('SIGKILL');
    await child.exited;
    moments.push(`${words[0]} ${(waitMs / 1000).toFixed(1)} s`);
    await fleet.goOn();
    const { progress } = fleet.state;
    const shown = await fleet.fleetOk('status');
    if (progress === 'running') assert.match(shown, /its command was killed; run it again to go on/);
  }
  t.diagnostic(`killed at: ${moments.join(', ')}`);
  await fleet.fleetOk('upgrade', '--to', NEW);
  await ends(fleet, NEW);
  await fleet.fleetOk('rollback');
  await ends(fleet, OLD);
}

async function closedWindow(fleet: TestFleet): Promise<void> {
  const clock = (hours: number): string =>
    `${String((new Date().getHours() + hours) % 24).padStart(2, '0')}:00`;
  const before = fleet.state;
  fleet.write(`window = "${clock(2)}-${clock(4)}"`);
  const refused = await fleet.fleet('upgrade', '--to', NEW);
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /outside of the maintenance window/);
  assert.deepEqual(fleet.state, before, 'nothing is remembered of what has not begun');
  fleet.write();
  await ends(fleet, OLD);
}

async function paused(fleet: TestFleet): Promise<void> {
  const child = fleet.start('upgrade', '--to', NEW);
  await steps(child, 1);
  await fleet.fleetOk('pause');
  await child.line(/paused; go on with "resume"/, STEP_MS);
  assert.match(await fleet.fleetOk('status'), new RegExp(`^upgrade to ${NEW}: paused`));
  await fleet.isServedWhole();
  const versions = await fleet.versions();
  await fleet.goOn();
  assert.deepEqual(await fleet.versions(), versions, 'nothing changes during a pause');
  await fleet.fleetOk('resume');
  assert.equal((await child.exited).code, 0, child.tail());
  await ends(fleet, NEW);
  await fleet.fleetOk('rollback');
  await ends(fleet, OLD);
}

/** The host that stands by, with all its processes and its sshd. */
async function hostDies(fleet: TestFleet): Promise<void> {
  const child = fleet.start('upgrade', '--to', NEW);
  await steps(child, 1);
  await fleet.host('b').die();
  assert.equal((await child.exited).code, 1);
  const said = child.stderr.join('\n');
  assert.match(said, /host b does not answer|standby|b: /);
  assert.match(said, /stopped here: "upgrade --to \S+" goes on, "rollback" goes back/);
  const shown = await fleet.fleetOk('status');
  assert.match(shown, new RegExp(`^upgrade to ${NEW}: failed`));
  assert.match(shown, /^server +home +b \S+ +- /m);
  await fleet.goOn();
  assert.equal(await fleet.serverState('a', 'home'), 'active');
  const early = await fleet.fleet('upgrade', '--to', NEW);
  assert.match(early.stderr, /no go: host b, reachable/);
  await fleet.host('b').startSshd();
  const version = (await fleet.versions())[`a ${fleet.listen('a', 'home')}`];
  await fleet.serve('b', 'home', 'standby', version);
  await fleet.fleetOk('upgrade', '--to', NEW);
  await ends(fleet, NEW);
  await fleet.fleetOk('rollback');
  await ends(fleet, OLD);
}

/** Of the standby, whose processes go on. */
async function linkDown(fleet: TestFleet): Promise<void> {
  const child = fleet.start('upgrade', '--to', NEW);
  await steps(child, 1);
  await fleet.network.cut(fleet.host('e').host);
  assert.equal((await child.exited).code, 1);
  assert.match(await fleet.fleetOk('status'), new RegExp(`^upgrade to ${NEW}: failed`));
  await fleet.goOn();
  assert.equal(await fleet.serverState('d', 'work'), 'active');
  await fleet.network.heal(fleet.host('e').host);
  await fleet.fleetOk('upgrade', '--to', NEW);
  await ends(fleet, NEW);
  await fleet.fleetOk('rollback');
  await ends(fleet, OLD);
}

/** Single servers and pairs: those that served and stood by before do so again. */
async function brokenVersion(fleet: TestFleet): Promise<void> {
  fleet.install(installedVersion().replace(OLD, BROKEN), false);
  const single = await fleet.fleet('upgrade', '--to', BROKEN);
  assert.equal(single.code, 1);
  assert.match(single.stderr, new RegExp(`start ${BROKEN} for single: .*; ${OLD} serves single again`));
  await ends(fleet, OLD);
  const other = await fleet.fleet('upgrade', '--to', NEW);
  assert.match(other.stderr, new RegExp(`the upgrade to ${BROKEN} is unfinished \\(failed\\)`));
  await fleet.fleetOk('rollback');

  // The file is edited between two commands.
  fleet.write('', ['single']);
  const pair = await fleet.fleet('upgrade', '--to', BROKEN);
  assert.equal(pair.code, 1);
  assert.match(pair.stderr, new RegExp(`b: start ${BROKEN} for home.*; ${OLD} stands by for home again`));
  fleet.write();
  await ends(fleet, OLD);
  await fleet.fleetOk('rollback');
  await ends(fleet, OLD);
  rmSync(fleet.root(BROKEN), { recursive: true });
}

/** Its mounts are gone; who mounts them again with the new version lets the upgrade go on. */
async function clientStartsAnew(fleet: TestFleet, gone: Record<string, LoadResult[]>): Promise<void> {
  gone.work = await fleet.stopLoads('c6');
  const child = fleet.start('upgrade', '--to', NEW);
  await steps(child, 1);
  await fleet.host('c6').die();
  fleet.detach('c6');
  assert.equal((await child.exited).code, 1);
  await fleet.host('c6').startSshd();
  await fleet.goOn();
  const refused = await fleet.fleet('upgrade', '--to', NEW);
  assert.match(refused.stderr, /c6.*no Holdfast client serves|client c6/);
  await fleet.mount('c6', 'work', NEW);
  await fleet.fleetOk('upgrade', '--to', NEW);
  await ends(fleet, NEW);
}
