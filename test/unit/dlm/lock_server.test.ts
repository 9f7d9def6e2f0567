import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AssertionFailure } from '../../../src/base/assert.js';
import type { LockHandle } from '../../../src/base/ids.js';
import {
  A,
  active,
  B,
  C,
  data,
  EMPTY,
  fid,
  handleOf,
  inode,
  now,
  Outcome,
  startWorld,
} from '../../worlds/dlm_world.js';

test('what conflicts with nothing is granted without a promise', () => {
  const { server, told } = startWorld();
  const a = now(server.enqueue(A, inode(5, 'PR')));
  const b = now(server.enqueue(B, inode(5, 'PR')));
  const release = now(server.acquire(A, [data(5, 'EX'), inode(6, 'EX')]));
  assert.notEqual(a, b);
  assert.deepEqual([server.count(A), server.holders('inode'), told()], [1, [A, B], []]);
  release();
  server.cancel(A, [a]);
  server.cancel(B, [b]);
  assert.deepEqual(server.size, EMPTY);
});

test('a client that takes locks and gives none back gets no more, alone; the active lock is not counted', () => {
  const { server } = startWorld({ maxCacheLocks: 2 });
  const held = [now(server.enqueue(A, inode(5, 'PR'))), now(server.enqueue(A, inode(5, 'PR')))];
  assert.equal(server.tryEnqueue(A, inode(6, 'PR')), undefined);
  assert.throws(() => server.enqueue(A, inode(6, 'PR')), { code: 'ENOLCK' });
  now(server.enqueue(A, active('PR')));
  now(server.enqueue(B, inode(6, 'PR')));
  server.cancel(A, held);
  now(server.enqueue(A, inode(6, 'PR')));
  server.dropClient(A);
  server.dropClient(B);
  assert.deepEqual(server.size, EMPTY);
});

test('a conflicting enqueue calls the holder back and is granted when it cancels', async () => {
  const { server, told, time } = startWorld();
  const held = now(server.enqueue(A, data(5, 'PW')));
  const wanted = new Outcome(server.enqueue(B, data(5, 'PR')));
  assert.deepEqual(told(), ['bast client-a data 5 PW']);
  server.cancel(A, [held]);
  await time.turn();
  assert.equal(wanted.state, 'done');
  assert.deepEqual([server.holders('data'), told()], [[B], []]);
  assert.equal(server.size.deadlines, 0);
});

test('inode locks conflict only where their bits overlap', () => {
  const { server } = startWorld();
  now(server.enqueue(A, inode(5, 'PR', 1)));
  now(server.acquire(B, [inode(5, 'EX', 2)]))();
  assert.equal(server.tryEnqueue(B, inode(5, 'EX', 1)), undefined);
  assert.equal(server.tryEnqueue(B, inode(5, 'EX', 3)), undefined);
});

test('an operation passes over the locks of its own client and calls back the others', async () => {
  const { server, told, time } = startWorld();
  now(server.enqueue(A, inode(5, 'PR')));
  const other = now(server.enqueue(B, inode(5, 'PR')));
  const operation = new Outcome(server.acquire(A, [inode(5, 'EX')]));
  assert.deepEqual(told(), ['bast client-b inode 5 PR']);
  server.cancel(B, [other]);
  await time.turn();
  assert.deepEqual([operation.state, server.holders('inode')], ['done', [A]]);
  // The reply of the operation may bring a lock, though the operation still holds its own.
  assert.notEqual(server.tryEnqueue(A, inode(5, 'PR')), undefined);
  assert.equal(server.tryEnqueue(B, inode(5, 'PR')), undefined);
});

test('two operations conflict, also when they are for one client', async () => {
  const { server, time } = startWorld();
  const first = now(server.acquire(A, [inode(5, 'EX')]));
  const second = new Outcome(server.acquire(A, [inode(5, 'EX')]));
  await time.turn();
  assert.equal(second.state, 'waiting');
  first();
  await time.turn();
  assert.equal(second.state, 'done');
  second.value?.();
  assert.deepEqual(server.size, EMPTY);
});

test('releasing twice is a bug', () => {
  const { server } = startWorld();
  const release = now(server.acquire(undefined, [inode(5, 'EX')]));
  release();
  assert.throws(release, AssertionFailure);
});

test('a waiting EX is not starved by readers, but what is compatible with it may pass', async () => {
  const { server, time } = startWorld();
  const reader = now(server.enqueue(A, inode(5, 'PR', 1)));
  const writer = new Outcome(server.acquire(B, [inode(5, 'EX', 1)]));
  const late = new Outcome(server.enqueue(C, inode(5, 'PR', 1)));
  assert.equal(server.tryEnqueue(C, inode(5, 'PR', 1)), undefined);
  now(server.enqueue(C, inode(5, 'PR', 2)));
  server.cancel(A, [reader]);
  await time.turn();
  assert.deepEqual([writer.state, late.state], ['done', 'waiting']);
  writer.value?.();
  await time.turn();
  assert.equal(late.state, 'done');
});

test('a client upgrades beside its own lock, but queues behind another that waited first', async () => {
  const { server, told, time } = startWorld();
  const shared = now(server.enqueue(A, data(5, 'PR')));
  const exclusive = now(server.enqueue(A, data(5, 'PW')));
  const other = new Outcome(server.enqueue(B, data(5, 'PW')));
  assert.deepEqual(told(), ['bast client-a data 5 PR', 'bast client-a data 5 PW']);
  const again = new Outcome(server.enqueue(A, data(5, 'PR')));
  await time.turn();
  assert.equal(again.state, 'waiting');
  server.cancel(A, [shared, exclusive]);
  await time.turn();
  assert.deepEqual([other.state, again.state, told()], ['done', 'waiting', ['bast client-b data 5 PW']]);
  server.cancel(B, [handleOf(other)]);
  await time.turn();
  assert.equal(again.state, 'done');
});

test('a BAST is said once, whoever else asks for the lock', () => {
  const { server, told } = startWorld();
  now(server.enqueue(A, data(5, 'PW')));
  new Outcome(server.enqueue(B, data(5, 'PR')));
  new Outcome(server.enqueue(C, data(5, 'PR')));
  new Outcome(server.acquire(B, [data(5, 'EX')]));
  assert.deepEqual(told(), ['bast client-a data 5 PW']);
});

test('holders that are only in the way of somebody further back are left alone', async () => {
  const { server, told, time } = startWorld();
  // B waits for bit 1. C wants both bits and waits behind B, so A's lock on bit 2 is not yet in anybody's way.
  const first = now(server.acquire(A, [inode(5, 'EX', 1)]));
  const bit2 = now(server.enqueue(A, inode(5, 'PR', 2)));
  const b = new Outcome(server.acquire(B, [inode(5, 'EX', 1)]));
  const c = new Outcome(server.acquire(C, [inode(5, 'EX', 3)]));
  assert.deepEqual(told(), []);
  first();
  await time.turn();
  assert.deepEqual([b.state, c.state, told()], ['done', 'waiting', ['bast client-a inode 5 PR']]);
  b.value?.();
  server.cancel(A, [bit2]);
  await time.turn();
  assert.equal(c.state, 'done');
});

test('a BAST never overtakes the reply that tells of the grant', async () => {
  const { server, told, time } = startWorld();
  const held = now(server.enqueue(A, data(5, 'PW')));
  const events: string[] = [];
  const granted = server.enqueue(B, data(5, 'PW'));
  new Outcome(server.enqueue(C, data(5, 'PW')));
  told();
  void (async () => {
    await granted;
    await null;
    events.push('reply', ...told());
  })();
  server.cancel(A, [held]);
  assert.deepEqual(told(), []);
  await time.turn();
  assert.deepEqual([...events, ...told()], ['reply', 'bast client-b data 5 PW']);
});

test('an operation that waits for its second lock keeps its first', async () => {
  const { server, time, told } = startWorld();
  const blocker = now(server.enqueue(B, inode(7, 'PR')));
  const rename = new Outcome(server.acquire(A, [inode(9, 'EX'), inode(7, 'EX'), data(3, 'EX')]));
  assert.deepEqual(told(), ['bast client-b inode 7 PR']);
  assert.equal(server.tryEnqueue(C, data(3, 'PR')), undefined);
  assert.notEqual(server.tryEnqueue(C, inode(9, 'PR')), undefined);
  server.cancel(B, [blocker]);
  await time.turn();
  assert.deepEqual([rename.state, told()], ['waiting', ['bast client-c inode 9 PR']]);
  server.dropClient(C);
  await time.turn();
  rename.value?.();
  assert.deepEqual(server.size, EMPTY);
});

test('dropping a client rejects what waits for it, with what its operations held', async () => {
  const { server, time } = startWorld();
  const other = now(server.enqueue(B, inode(7, 'PR')));
  now(server.enqueue(A, data(1, 'PW')));
  const operation = new Outcome(server.acquire(A, [inode(5, 'EX'), inode(7, 'EX')]));
  const waits = new Outcome(server.enqueue(A, inode(7, 'EX')));
  const behind = new Outcome(server.enqueue(C, inode(5, 'PR')));
  server.dropClient(A);
  await time.turn();
  assert.deepEqual(
    [operation.error?.code, waits.error?.code, behind.state, server.count(A)],
    ['ECANCELED', 'ECANCELED', 'done', 0],
  );
  server.cancel(B, [other]);
  server.dropClient(C);
  assert.deepEqual(server.size, EMPTY);
  assert.equal(time.pending, 0);
});

test('the locks of an operation that runs outlive its client', () => {
  const { server } = startWorld();
  const release = now(server.acquire(A, [inode(5, 'EX')]));
  server.dropClient(A);
  assert.equal(server.tryEnqueue(B, inode(5, 'PR')), undefined);
  release();
  assert.deepEqual(server.size, EMPTY);
});

test('a waiting enqueue or operation ends when its signal aborts, and those behind go on', async () => {
  const { server, time } = startWorld();
  now(server.enqueue(A, inode(5, 'PR', 1)));
  const abort = new AbortController();
  const enqueue = new Outcome(server.enqueue(B, inode(5, 'EX', 1), abort.signal));
  const operation = new Outcome(server.acquire(B, [inode(4, 'EX'), inode(5, 'EX')], abort.signal));
  const behind = new Outcome(server.enqueue(C, inode(5, 'PR', 1)));
  abort.abort();
  await time.turn();
  assert.deepEqual(
    [enqueue.error?.code, operation.error?.code, behind.state],
    ['ECANCELED', 'ECANCELED', 'done'],
  );
  assert.throws(() => server.enqueue(B, inode(9, 'PR'), abort.signal), { code: 'ECANCELED' });
  assert.throws(() => server.acquire(B, [inode(9, 'PR')], abort.signal), { code: 'ECANCELED' });
  server.dropClient(A);
  server.dropClient(C);
  assert.deepEqual(server.size, EMPTY);
});

test('a holder that does not answer its BAST is told once more at half of its time, and then reported, once', () => {
  const { server, told, time } = startWorld({ lockTimeoutMs: 100 });
  const slow = now(server.enqueue(A, data(5, 'PW')));
  new Outcome(server.enqueue(B, data(5, 'PR')));
  told();
  time.advance(49);
  assert.deepEqual(told(), []);
  time.advance(1);
  assert.deepEqual(told(), ['bast client-a data 5 PW']);
  time.advance(49);
  assert.deepEqual(told(), []);
  time.advance(1);
  assert.deepEqual(told(), ['expired client-a data 5 PW']);
  time.advance(1000);
  assert.deepEqual(told(), []);
  server.cancel(A, [slow]);
  assert.equal(time.pending, 0);
});

test('one timer serves the limits of many locks', () => {
  const { server, told, time } = startWorld({ lockTimeoutMs: 100 });
  for (let i = 1; i <= 3; i++) {
    now(server.enqueue(A, data(i, 'PW')));
    new Outcome(server.enqueue(B, data(i, 'PR')));
    time.advance(10);
  }
  assert.equal(time.pending, 1);
  time.advance(60);
  told();
  time.advance(20);
  assert.deepEqual(told(), ['expired client-a data 1 PW', 'expired client-a data 2 PW']);
  time.advance(10);
  assert.deepEqual(told(), ['expired client-a data 3 PW']);
  assert.equal(time.pending, 0);
});

test('after a reconnect BASTs are said again and have their full time again', () => {
  const { server, told, time } = startWorld({ lockTimeoutMs: 100 });
  now(server.enqueue(A, data(5, 'PW')));
  now(server.enqueue(A, data(6, 'PW')));
  new Outcome(server.enqueue(B, data(5, 'PR')));
  time.advance(90);
  told();
  server.resend(A);
  assert.deepEqual(told(), ['bast client-a data 5 PW']);
  time.advance(60);
  assert.deepEqual(told(), ['bast client-a data 5 PW']);
  time.advance(30);
  assert.deepEqual(told(), []);
  time.advance(10);
  assert.deepEqual(told(), ['expired client-a data 5 PW']);
});

test('the active lock: all holders are called back, late comers wait, all get it back when the shutdown is cancelled', async () => {
  const { server, told, time } = startWorld();
  const a = now(server.enqueue(A, active('PR')));
  const b = now(server.enqueue(B, active('PR')));
  const shutdown = new Outcome(server.acquire(undefined, [active('EX')]));
  assert.deepEqual(told(), ['bast client-a active 0 PR', 'bast client-b active 0 PR']);
  const late = new Outcome(server.enqueue(C, active('PR')));
  server.cancel(A, [a]);
  const back = new Outcome(server.enqueue(A, active('PR')));
  await time.turn();
  assert.deepEqual([shutdown.state, server.holders('active')], ['waiting', [B]]);
  server.cancel(B, [b]);
  await time.turn();
  assert.deepEqual([shutdown.state, late.state, back.state], ['done', 'waiting', 'waiting']);
  shutdown.value?.();
  await time.turn();
  assert.deepEqual([late.state, back.state], ['done', 'done']);
});

test('a shutdown taken back while it waits lets the waiting clients in', async () => {
  const { server, time } = startWorld();
  now(server.enqueue(A, active('PR')));
  const abort = new AbortController();
  const shutdown = new Outcome(server.acquire(undefined, [active('EX')], abort.signal));
  const late = new Outcome(server.enqueue(B, active('PR')));
  abort.abort();
  await time.turn();
  assert.deepEqual([shutdown.error?.code, late.state], ['ECANCELED', 'done']);
});

test('the writer of a file is found for a glimpse, unless it is the one who asks', () => {
  const { server } = startWorld();
  assert.equal(server.dataWriter(fid(5), A), undefined);
  now(server.enqueue(A, data(5, 'PR')));
  assert.equal(server.dataWriter(fid(5), B), undefined);
  const writer = now(server.enqueue(A, data(5, 'PW')));
  assert.equal(server.dataWriter(fid(5), A), undefined);
  assert.equal(server.dataWriter(fid(5), B)?.handle, writer);
  assert.equal(server.dataWriter(fid(5), undefined)?.handle, writer);
});

test('handles of another client, unknown ones and those cancelled twice change nothing', () => {
  const { server } = startWorld({ firstHandle: 2 ** 33 });
  const handle = now(server.enqueue(A, data(5, 'PW')));
  assert.equal(handle, 2 ** 33);
  server.cancel(B, [handle]);
  server.cancel(A, [1 as LockHandle]);
  assert.equal(server.count(A), 1);
  server.cancel(A, [handle, handle]);
  assert.deepEqual(server.size, EMPTY);
});

test('a callback may cancel, drop and enqueue: the state is consistent when it is called', async () => {
  const seen: string[] = [];
  const { server, time } = startWorld({
    onBast: (lock) => {
      seen.push(`${lock.client} ${lock.mode}`);
      if (lock.client === A) server.dropClient(A);
      else server.cancel(lock.client, [lock.handle]);
      new Outcome(server.enqueue(lock.client, data(5, 'PR')));
    },
  });
  now(server.enqueue(A, data(5, 'PR')));
  now(server.enqueue(A, data(5, 'PR')));
  now(server.enqueue(B, data(5, 'PR')));
  const writer = new Outcome(server.acquire(C, [data(5, 'EX')]));
  await time.turn();
  assert.deepEqual([seen, writer.state], [['client-a PR', 'client-b PR'], 'done']);
  writer.value?.();
  await time.turn();
  assert.deepEqual([server.count(A), server.count(B)], [1, 1]);
});

test('dropping a client costs what it holds, not what others hold', () => {
  const { server } = startWorld();
  for (let i = 1; i <= 2000; i++) {
    now(server.enqueue(A, inode(i, 'PR')));
    now(server.enqueue(B, inode(i, 'PR')));
  }
  server.dropClient(A);
  assert.deepEqual([server.count(A), server.count(B), server.size.resources], [0, 2000, 2000]);
  server.dropClient(B);
  assert.deepEqual(server.size, EMPTY);
});
