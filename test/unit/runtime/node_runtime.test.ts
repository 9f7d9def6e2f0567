import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nodeRuntime } from '../../../src/runtime/node_runtime.js';
import { sleep } from '../../../src/runtime/ports.js';

test('the time of day follows the system clock and never goes back', () => {
  const { clock } = nodeRuntime();
  let last = clock.wall();
  for (let i = 0; i < 10_000; i += 1) {
    const now = clock.wall();
    assert.ok(now.sec > last.sec || (now.sec === last.sec && now.nsec >= last.nsec));
    last = now;
  }
  const ms = last.sec * 1000 + last.nsec / 1e6;
  assert.ok(Math.abs(ms - Date.now()) < 1000);
  assert.ok(Number.isInteger(last.nsec) && last.nsec >= 0 && last.nsec < 1e9);
});

test('timers fire in order, and a cancelled one never', async () => {
  const { timers } = nodeRuntime();
  const fired: string[] = [];
  const cancelled = timers.after(1, () => fired.push('cancelled'));
  cancelled.cancel();
  cancelled.cancel();
  await new Promise<void>((resolve) => {
    timers.after(20, () => {
      fired.push('late');
      resolve();
    });
    timers.after(5, () => fired.push('early'), false);
  });
  assert.deepEqual(fired, ['early', 'late']);
});

test('what shall happen soon happens after this turn, in the order in which it was asked for', async () => {
  const { timers } = nodeRuntime();
  const fired: string[] = [];
  await new Promise<void>((resolve) => {
    timers.soon(() => fired.push('first'));
    timers.soon(() => {
      fired.push('second');
      resolve();
    });
    fired.push('this turn');
  });
  assert.deepEqual(fired, ['this turn', 'first', 'second']);
});

test('sleep ends with the reason of an abort', async () => {
  const { timers } = nodeRuntime();
  const aborter = new AbortController();
  const asleep = sleep(timers, 60_000, aborter.signal);
  aborter.abort(new Error('woken'));
  await assert.rejects(asleep, /woken/);
});

test('random numbers are within 32 bits, UUIDs are lower case and differ', () => {
  const { rng } = nodeRuntime();
  const numbers = Array.from({ length: 100 }, () => rng.u32());
  assert.ok(numbers.every((value) => Number.isInteger(value) && value >= 0 && value < 2 ** 32));
  assert.match(rng.uuid(), /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.notEqual(rng.uuid(), rng.uuid());
});
