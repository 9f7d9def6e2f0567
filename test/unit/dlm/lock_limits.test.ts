import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { LockHandle } from '../../../src/base/ids.js';
import { A, B, data, inode, now, startWorld } from '../../worlds/dlm_world.js';

const LIMIT = 160;

/** Fills A up to its limit. @returns the handles, oldest first. */
function filled(world: ReturnType<typeof startWorld>, count = LIMIT): LockHandle[] {
  return Array.from({ length: count }, (_, at) => now(world.server.enqueue(A, inode(1000 + at, 'PR'))));
}

test('at its limit a client gets what it needs, nothing more, and is asked for its oldest locks', async () => {
  const world = startWorld({ limitOf: (client) => (client === A ? LIMIT : undefined) });
  const { server, told, time } = world;
  const handles = filled(world, LIMIT - 1);
  assert.notEqual(server.tryEnqueue(A, inode(5, 'PR')), undefined);
  assert.equal(server.tryEnqueue(A, inode(6, 'PR')), undefined);
  const needed = now(server.enqueue(A, data(7, 'PW')));
  assert.deepEqual(told(), []);
  await time.turn();
  const asked = Array.from({ length: 11 }, (_, at) => `bast ${A} inode ${1000 + at} PR`);
  assert.deepEqual(told(), asked);
  // Others have no limit, and nobody waits for what was asked: it is given back or not.
  assert.notEqual(server.tryEnqueue(B, inode(6, 'PR')), undefined);
  assert.equal(server.isWanted(A), false);
  time.advance(60_000);
  assert.deepEqual(told(), []);
  server.cancel(A, [...handles.slice(0, 11), needed]);
  assert.notEqual(server.tryEnqueue(A, inode(6, 'PR')), undefined);
  server.checkInvariants();
});

test('a client that gives nothing back gets ENOLCK at twice its limit; the active lock is not counted', async () => {
  const world = startWorld({ limitOf: () => LIMIT });
  const { server } = world;
  filled(world, 2 * LIMIT);
  assert.throws(() => server.enqueue(A, inode(6, 'PR')), { code: 'ENOLCK' });
  assert.notEqual(server.tryEnqueue(A, { type: 'active', fid: 0, mode: 'PR', bits: 0 }), undefined);
  server.checkInvariants();
  server.dropClient(A);
  assert.equal(server.size.clients, 0);
});

test('locks that a client had before a crash are granted, however many they are', () => {
  const { server } = startWorld({ limitOf: () => LIMIT });
  for (let at = 0; at < 3 * LIMIT; at += 1)
    assert.notEqual(server.adopt(A, inode(1000 + at, 'PR')), undefined);
  assert.throws(() => server.enqueue(A, inode(6, 'PR')), { code: 'ENOLCK' });
});

test('when all have too many, who has more than its share gives way', async () => {
  const world = startWorld({ maxAllLocks: 2 * LIMIT });
  const { server, told, time } = world;
  for (let at = 0; at < 10; at += 1) now(server.enqueue(B, inode(10 + at, 'PR')));
  filled(world, 2 * LIMIT - 10);
  assert.notEqual(server.tryEnqueue(B, inode(6, 'PR')), undefined);
  assert.equal(server.tryEnqueue(A, inode(6, 'PR')), undefined);
  await time.turn();
  assert.ok(told().every((line) => line.startsWith(`bast ${A}`)));
});

test('a client that was away is asked again', async () => {
  const world = startWorld({ limitOf: () => LIMIT });
  const { server, told, time } = world;
  filled(world);
  server.tryEnqueue(A, inode(6, 'PR'));
  await time.turn();
  const asked = told();
  server.resend(A);
  await time.turn();
  assert.deepEqual([told(), asked.length], [asked, 10]);
});

test('application locks have the same limit, those of before a crash have not', () => {
  const { server } = startWorld({ limitOf: () => 3 });
  const range = (owner: number) =>
    ({ kind: 'ofd', owner: String(owner), pid: 1, exclusive: false, start: 0, end: 10 }) as const;
  const lock = (owner: number, sequence?: number) =>
    server.flock(A, 5 as never, range(owner), false, sequence);
  for (let owner = 0; owner < 3; owner += 1) assert.equal(lock(owner).granted, true);
  assert.throws(() => lock(4), { code: 'ENOLCK' });
  assert.equal(lock(5, 100).granted, true);
  server.unflock(A, 5 as never, range(0));
  server.unflock(A, 5 as never, range(5));
  assert.equal(lock(6).granted, true);
});
