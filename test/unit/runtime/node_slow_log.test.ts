import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseSlowLimit } from '../../../src/base/slow_limit.js';
import { Deferred } from '../../../src/base/wait.js';
import { SlowLog } from '../../../src/runtime/node_slow_log.js';

function world(limitMs = 200) {
  const clock = { ms: 0, nowMs: () => clock.ms };
  const lines: string[] = [];
  return { clock, lines, log: new SlowLog(clock, limitMs, (line) => lines.push(line)) };
}

test('a slow operation says what it waited for, the longest first', async () => {
  const { clock, lines, log } = world();
  const gate = new Deferred<void>();
  const lock = new Deferred<void>();
  const work = log.track(
    () => 'WRITE of node 7',
    async () => {
      await log.during(() => 'gate', gate.promise);
      await log.during(() => 'lock of web1', lock.promise);
      clock.ms += 50;
    },
  );
  clock.ms += 300;
  gate.resolve();
  await gate.promise;
  await new Promise((resolve) => setImmediate(resolve));
  clock.ms += 1200;
  lock.resolve();
  await work;
  assert.deepEqual(lines, [
    'WRITE of node 7 took 1.550 s: lock of web1 1.200 s, gate 0.300 s, other 0.050 s',
  ]);
});

test('waits of operations that run at the same time stay apart, and a fast one says nothing', async () => {
  const { clock, lines, log } = world();
  const [first, second] = [new Deferred<void>(), new Deferred<void>()];
  const one = log.track(
    () => 'one',
    async () => log.during(() => 'first', first.promise),
  );
  clock.ms += 150;
  const other = log.track(
    () => 'other',
    async () => log.during(() => 'second', second.promise),
  );
  clock.ms += 100;
  second.resolve();
  await other;
  first.resolve();
  await one;
  assert.deepEqual(lines, ['one took 0.250 s: first 0.250 s']);
});

test('an operation that fails, and one that never waits, are told too', async () => {
  const { clock, lines, log } = world();
  const failing = log.track(
    () => 'READ',
    () => {
      clock.ms += 1000;
      return Promise.reject(new Error('no'));
    },
  );
  await assert.rejects(failing);
  log.track(
    () => 'LOOKUP',
    () => {
      clock.ms += 200;
    },
  );
  assert.deepEqual(lines, ['READ took 1.000 s: other 1.000 s', 'LOOKUP took 0.200 s: other 0.200 s']);
});

test('a wait outside of any operation is nobody’s', async () => {
  const { lines, log } = world(1);
  assert.equal(await log.during(() => 'commit', Promise.resolve(3)), 3);
  assert.deepEqual(lines, []);
});

test('limits as the user says them', () => {
  assert.deepEqual(['200ms', '2s', '0ms', '200', '2m', '', '9999s'].map(parseSlowLimit), [
    200,
    2000,
    ...Array.from({ length: 5 }, () => undefined),
  ]);
});
