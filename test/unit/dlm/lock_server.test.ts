import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AssertionFailure } from '../../../src/base/assert.js';
import type { LockHandle } from '../../../src/base/ids.js';
import { storiesOf } from '../../fixtures/script.js';
import { tellDlm } from '../../worlds/dlm_script.js';
import {
  A,
  active,
  B,
  C,
  data,
  EMPTY,
  fid,
  inode,
  now,
  Outcome,
  startWorld,
} from '../../worlds/dlm_world.js';

for (const { title, run } of storiesOf('test/unit/dlm/scripts/lock_server.txt', tellDlm)) test(title, run);

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

test('a client holds its own lock until it gives the lock back, also when it is called back', () => {
  const { server, told } = startWorld();
  const own = inode(5, 'EX');
  now(server.enqueue(A, inode(5, 'PR')));
  assert.deepEqual([server.holds(A, own), server.holds(A, inode(6, 'EX'))], [false, false]);
  const exclusive = now(server.enqueue(A, own));
  assert.deepEqual(
    [server.holds(A, own), server.holds(B, own), server.holds(A, { ...own, bits: 7 })],
    [true, false, false],
  );
  const waits = new Outcome(server.enqueue(B, inode(5, 'PR')));
  assert.deepEqual(
    [told(), server.covers(A, own), server.holds(A, own)],
    [['bast client-a inode 5 EX'], false, true],
  );
  server.cancel(A, [exclusive]);
  assert.deepEqual([server.holds(A, own), waits.state], [false, 'waiting']);
  server.dropClient(A);
  server.dropClient(B);
  assert.deepEqual(server.size, EMPTY);
});

test('an inode is held alone if no lock of another client is in the way, whatever waits or runs', () => {
  const { server } = startWorld();
  const exclusive = inode(5, 'EX');
  assert.equal(server.heldAlone(A, exclusive), true, 'nobody has a lock');
  const own = now(server.enqueue(A, exclusive));
  void new Outcome(server.enqueue(B, inode(5, 'PR')));
  assert.deepEqual(
    [server.heldAlone(A, exclusive), server.heldAlone(B, inode(5, 'PR'))],
    [true, false],
    'another client only waits',
  );
  server.cancel(A, [own]);
  assert.deepEqual(
    [server.heldAlone(A, exclusive), server.heldAlone(A, inode(5, 'PR'))],
    [false, true],
    'another client has a shared lock',
  );
  server.dropClient(B);
  const release = now(server.acquire(B, [exclusive]));
  assert.equal(server.heldAlone(A, exclusive), true, 'an operation of another client has a lock');
  release();
  server.dropClient(A);
  assert.deepEqual(server.size, EMPTY);
});

test('releasing twice is a bug', () => {
  const { server } = startWorld();
  const release = now(server.acquire(undefined, [inode(5, 'EX')]));
  release();
  assert.throws(release, AssertionFailure);
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

test('a request that is given up before it asks gets nothing', () => {
  const { server } = startWorld();
  const signal = AbortSignal.abort();
  assert.throws(() => server.enqueue(B, inode(9, 'PR'), signal), { code: 'ECANCELED' });
  assert.throws(() => server.acquire(B, [inode(9, 'PR')], signal), { code: 'ECANCELED' });
  assert.deepEqual(server.size, EMPTY);
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
