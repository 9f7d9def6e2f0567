/** Who stood still finds nobody late for it: the clock by which clients are found to be late. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { FsError } from '../../../../src/base/errno.js';
import type { ClientUuid, Transno } from '../../../../src/base/ids.js';
import { BastDeadlines } from '../../../../src/dlm/bast_deadlines.js';
import { RecoveryWindow } from '../../../../src/server/lifecycle/recovery_window.js';
import { SETTLE_MS, ServingTime, STALL_MS } from '../../../../src/server/target/serving_time.js';
import { Cancel, Enqueue } from '../../../../src/wire/lock.js';
import { ManualTime } from '../../../worlds/dlm_world.js';
import { serverWorld } from '../../../worlds/server_world.js';

const HOUR_MS = 3_600_000;

interface World {
  readonly clock: ManualTime;
  readonly time: ServingTime;
  readonly stalls: number[];
  serving: boolean;
}

function startWorld(): World {
  const clock = new ManualTime();
  const world: World = {
    clock,
    stalls: [],
    serving: true,
    time: new ServingTime(
      { clock, timers: clock },
      { isServing: () => world.serving, stalled: (ms) => world.stalls.push(ms) },
    ),
  };
  return world;
}

test('while the server runs it passes as the clock does', () => {
  const { clock, time, stalls } = startWorld();
  const fired: number[] = [];
  for (const ms of [1, 10_000, 20_000]) time.after(ms, () => fired.push(clock.nowMs()));
  const cancelled = time.after(5000, () => fired.push(Number.NaN));
  clock.advance(4000);
  cancelled.cancel();
  clock.advance(HOUR_MS);
  assert.deepEqual([fired, time.nowMs(), stalls], [[1, 10_000, 20_000], HOUR_MS + 4000, []]);
});

test('a stall counts for nothing, and what came due in it has what was left and time to settle', () => {
  const { clock, time, stalls } = startWorld();
  const fired: number[] = [];
  time.after(20_000, () => fired.push(clock.nowMs()));
  clock.advance(19_900);
  clock.standStill(HOUR_MS);
  assert.deepEqual([fired, stalls.length], [[], 1]);
  const awake = clock.nowMs();
  clock.advance(SETTLE_MS + 1000);
  // Nobody knows when between two looks it stopped.
  const [at = 0] = fired;
  assert.ok(at >= awake + SETTLE_MS + 100 && at <= awake + SETTLE_MS + 100 + STALL_MS, `${at - awake}`);
});

test('it stands still as long as the server does not know whether it has its target, and settles then', () => {
  const world = startWorld();
  const { clock, time } = world;
  let fired = false;
  time.after(20_000, () => {
    fired = true;
  });
  clock.advance(19_000);
  world.serving = false;
  clock.advance(HOUR_MS);
  world.serving = true;
  clock.advance(SETTLE_MS);
  assert.equal(fired, false);
  clock.advance(1000 + STALL_MS);
  assert.equal(fired, true);
});

test('a server that keeps stalling gives up its clients in the end', () => {
  const { clock, time } = startWorld();
  let fired = false;
  time.after(20_000, () => {
    fired = true;
  });
  for (let rounds = 0; rounds < 200 && !fired; rounds += 1) {
    clock.standStill(2 * STALL_MS);
    clock.advance(STALL_MS);
  }
  assert.equal(fired, true);
});

test('when it was stopped it goes by the clock: what is still waited for ends', () => {
  const { clock, time } = startWorld();
  let fired = false;
  time.after(20_000, () => {
    fired = true;
  });
  time.stop();
  clock.advance(20_000);
  assert.deepEqual([fired, clock.pending], [true, 0]);
});

test('a lock that was called back before a stall is given back after it, and its holder is not late', () => {
  const { clock, time } = startWorld();
  const late: string[] = [];
  const deadlines = new BastDeadlines<string>(time, 10_000, (lock) => late.push(lock));
  for (const lock of ['answered', 'not answered']) deadlines.start(lock);
  clock.advance(9000);
  clock.standStill(HOUR_MS);
  deadlines.stop('answered');
  clock.advance(HOUR_MS);
  assert.deepEqual(late, ['not answered']);
});

test('the recovery window gives up nobody whose CONNECT came while the server stood still', () => {
  const { clock, time } = startWorld();
  const expired: string[] = [];
  let ended = 0;
  const known = ['back', 'away'].map((uuid) => ({
    uuid: uuid as ClientUuid,
    name: uuid,
    softwareVersion: '1.0.0',
    lastTransno: 0 as Transno,
  }));
  const window = new RecoveryWindow({ clock, timers: clock }, time, known, {
    previousVersion: '1.0.0',
    wasClean: true,
    softMs: 30_000,
    hardMs: 90_000,
    lastTransno: 0 as Transno,
    expired: ({ name, uuid }) => {
      expired.push(name);
      window.gone(uuid);
    },
    ended: () => {
      ended += 1;
    },
    over: () => undefined,
  });
  clock.advance(1000);
  clock.standStill(HOUR_MS);
  assert.deepEqual([expired, window.status().away], [[], 2]);
  window.came('back' as ClientUuid);
  window.done('back' as ClientUuid);
  clock.advance(HOUR_MS);
  assert.deepEqual([expired, ended], [['away'], 1]);
});

test('a lock given back while the server does not know whether it has its target was given back in time', async (t) => {
  const world = await serverWorld(t);
  const lockTimeoutMs = 200;
  let doubt: Promise<void> | undefined;
  world.storeOptions = {
    guard: { check: () => doubt, lost: new Promise<FsError>(() => undefined) },
  };
  const server = await world.server({ lockTimeoutMs });
  const [a, b] = [await world.connected('a'), await world.connected('b')];
  const { fid } = (await a.create('f')).attr;
  a.yields = false;
  const held = await a.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  const waits = b.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  await world.time.until('it is called back for the last time', () => a.basts.length === 2);
  let end = (): void => undefined;
  doubt = new Promise((resolve) => {
    end = resolve;
  });
  const given = a.call(Cancel, { handles: [held.handle] });
  // Time has to pass: the claim is that nothing happens in it.
  await world.time.sleep(2 * lockTimeoutMs);
  doubt = undefined;
  end();
  await given;
  assert.deepEqual([(await waits).granted, server.status().evicted], [true, []]);
});
