import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FsError } from '../../../../src/base/errno.js';
import { Gate } from '../../../../src/client/session/gate.js';

function passenger(): { signal: AbortSignal; abort(): void } {
  const controller = new AbortController();
  return { signal: controller.signal, abort: () => controller.abort() };
}

function openGate(): Gate {
  const gate = new Gate({ nowMs: () => 0 });
  gate.setConnected(true);
  return gate;
}

test('an open gate lets pass at once, without looking at the signal', () => {
  const gate = openGate();
  const untouched = {
    get signal(): AbortSignal {
      throw new Error('the signal was looked at');
    },
  };
  assert.deepEqual([gate.enter(untouched), gate.inside, gate.state], [undefined, 1, 'OPEN']);
});

test('parked operations pass in the order in which they came', async () => {
  const gate = new Gate({ nowMs: () => 0 });
  const order: number[] = [];
  const waits = Array.from({ length: 5 }, (_, index) =>
    gate.enter(passenger())?.then(() => order.push(index)),
  );
  assert.equal(gate.parked, 5);
  gate.setConnected(true);
  await Promise.all(waits);
  assert.deepEqual([order, gate.inside, gate.parked], [[0, 1, 2, 3, 4], 5, 0]);
});

test('an operation hears that it parks, and that it goes on', async () => {
  const gate = openGate();
  const heard: boolean[] = [];
  const caller = { ...passenger(), parked: (isParked: boolean) => void heard.push(isParked) };
  gate.enter(caller);
  assert.deepEqual(heard, [], 'one that passes at once hears nothing');
  gate.setDrain('draining');
  const parked = gate.enter(caller);
  assert.deepEqual(heard, [true]);
  gate.setDrain('no');
  await parked;
  assert.deepEqual(heard, [true, false]);
});

test('an interrupted operation leaves the queue with EINTR, at once', async () => {
  const gate = new Gate({ nowMs: () => 0 });
  const caller = passenger();
  const parked = gate.enter(caller);
  caller.abort();
  await assert.rejects(parked as Promise<void>, { code: 'EINTR' });
  assert.equal(gate.parked, 0);
  gate.setConnected(true);
  assert.equal(gate.inside, 0);
});

test('one that was interrupted before it came does not park', async () => {
  const caller = passenger();
  caller.abort();
  await assert.rejects(new Gate({ nowMs: () => 0 }).enter(caller) as Promise<void>, { code: 'EINTR' });
});

test('a drain parks new operations and waits for those inside', async () => {
  const gate = openGate();
  gate.enter(passenger());
  gate.setDrain('draining');
  const parked = gate.enter(passenger());
  const idle = gate.idle();
  assert.deepEqual([gate.state, gate.isDraining, gate.parked], ['DRAINING', true, 1]);
  gate.leave();
  await idle;
  gate.setDrain('drained');
  assert.equal(gate.state, 'CLOSED');
  gate.setDrain('no');
  await parked;
});

test('a lost connection in a drain keeps it draining; each reason is lifted on its own', () => {
  const gate = openGate();
  gate.setDrain('draining');
  gate.setConnected(false);
  assert.equal(gate.state, 'DRAINING');
  gate.setDrain('no');
  assert.equal(gate.state, 'CLOSED');
  gate.setConnected(true);
  assert.equal(gate.state, 'OPEN');
});

test('who waits for the gate to shut hears of it once it is not open', async () => {
  const gate = openGate();
  const shut = gate.shut();
  gate.setDrain('draining');
  await shut;
  await gate.shut();
});

test('operations on what is gone fail; the others stay parked', async () => {
  const gate = new Gate({ nowMs: () => 0 });
  const gone = gate.enter(passenger(), 'gone');
  void gate.enter(passenger(), 'there');
  gate.rejectTagged((tag) => tag === 'gone', new FsError('EIO'));
  await assert.rejects(gone as Promise<void>, { code: 'EIO' });
  assert.equal(gate.parked, 1);
});

test('a gate knows for how long its target has been away, whatever happens meanwhile', () => {
  let nowMs = 100;
  const gate = new Gate({ nowMs: () => nowMs });
  const away = (atMs: number): number => {
    nowMs = atMs;
    return gate.awayMs;
  };
  const seen = [away(150)];
  gate.setConnected(true);
  seen.push(away(200));
  gate.setDrain('draining');
  seen.push(away(230));
  gate.setDrain('drained');
  gate.setConnected(false);
  seen.push(away(300));
  gate.setDrain('no');
  gate.setConnected(true);
  seen.push(away(400));
  assert.deepEqual(seen, [50, 0, 30, 100, 0]);
});

test('a pause is told when it ends; the time before the first connection is none', () => {
  let nowMs = 0;
  const pauses: number[] = [];
  const gate = new Gate({ nowMs: () => nowMs }, (seconds) => pauses.push(seconds));
  nowMs = 500;
  gate.setConnected(true);
  assert.deepEqual(pauses, []);
  gate.setDrain('draining');
  nowMs = 600;
  gate.setDrain('drained');
  gate.setConnected(false);
  nowMs = 2500;
  gate.setDrain('no');
  assert.deepEqual(pauses, []);
  gate.setConnected(true);
  gate.setConnected(true);
  assert.deepEqual(pauses, [2]);
});

test('a gate remembers how long calls had to wait, but not the time before it opened first', () => {
  let nowMs = 100;
  const gate = new Gate({ nowMs: () => nowMs });
  nowMs = 150;
  gate.setConnected(true);
  assert.deepEqual(gate.pauses(), []);
  gate.setConnected(false);
  void gate.enter(passenger());
  nowMs = 180;
  gate.setConnected(true);
  nowMs = 200;
  assert.deepEqual(gate.pauses(), [{ agoMs: 20, ms: 30, calls: 1 }]);
});

test('the pause of a takeover counts as one, and an open gate stays open', () => {
  let nowMs = 100;
  const told: number[] = [];
  const gate = new Gate({ nowMs: () => nowMs }, (seconds) => told.push(seconds));
  gate.setConnected(true);
  gate.pausedFor(50, 3);
  nowMs = 110;
  assert.deepEqual([gate.pauses(), told, gate.isOpen], [[{ agoMs: 10, ms: 50, calls: 3 }], [0.05], true]);
});
