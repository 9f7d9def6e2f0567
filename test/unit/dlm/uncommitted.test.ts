import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ClientUuid, Transno } from '../../../src/base/ids.js';
import type { LockSpec } from '../../../src/dlm/api.js';
import { PAUSE_MS, TURN_MAX_MS, TURN_MIN_MS } from '../../../src/dlm/turns.js';
import {
  A,
  B,
  C,
  data,
  EMPTY,
  handleOf,
  inode,
  now,
  Outcome,
  startWorld,
  type World,
} from '../../worlds/dlm_world.js';

/** An operation of the client that changes this, from its locks to its reply. */
function change({ server }: World, client: ClientUuid, spec: LockSpec, transno: number): void {
  const release = now(server.acquire(client, [spec]));
  server.changed(client, spec, transno as Transno);
  release();
}

function commit({ server }: World, transno: number): void {
  server.committed(transno as Transno);
}

test('what a client has changed is its own until it is committed: others wait, and ask for the commit', async () => {
  const world = startWorld();
  const { server, told, time } = world;
  change(world, A, inode(5, 'EX'), 7);
  time.advance(PAUSE_MS);
  now(server.acquire(A, [inode(5, 'EX')]))();
  assert.equal(server.tryEnqueue(B, inode(5, 'PR')), undefined);
  assert.deepEqual(told(), []);
  const operation = new Outcome(server.acquire(B, [inode(5, 'PR')]));
  const lock = new Outcome(server.enqueue(C, inode(5, 'PR')));
  await time.turn();
  assert.deepEqual([operation.state, lock.state, told()], ['waiting', 'waiting', ['commit']]);
  commit(world, 6);
  await time.turn();
  assert.equal(operation.state, 'waiting');
  commit(world, 7);
  await time.turn();
  assert.deepEqual([operation.state, lock.state, told()], ['done', 'done', []]);
  operation.value?.();
  server.cancel(C, [handleOf(lock)]);
  assert.deepEqual(server.size, EMPTY);
});

test('a commit costs nobody anything where only one client works', () => {
  const world = startWorld();
  for (let transno = 1; transno <= 100; transno++) change(world, A, inode(transno % 3, 'EX'), transno);
  now(world.server.acquire(B, [inode(7, 'EX'), data(1, 'PR')]))();
  commit(world, 99);
  assert.deepEqual([world.told(), world.server.size.uncommitted], [[], 1]);
  commit(world, 100);
  assert.deepEqual([world.server.size, world.time.pending], [EMPTY, 0]);
});

test('only the bits that were changed are waited for', () => {
  const world = startWorld();
  change(world, A, inode(5, 'EX', 2), 1);
  now(world.server.acquire(B, [inode(5, 'EX', 1)]))();
  assert.equal(world.server.tryEnqueue(B, inode(5, 'PR', 3)), undefined);
});

test('data is committed when its holder has given it back, with what it wrote at last; names at once', async () => {
  const world = startWorld();
  const { server, told, time } = world;
  const held = now(server.enqueue(A, data(5, 'PW')));
  server.changed(A, data(5, 'EX'), 1 as Transno);
  const reader = new Outcome(server.enqueue(B, data(5, 'PR')));
  assert.deepEqual(told(), ['bast client-a data 5 PW']);
  server.changed(A, data(5, 'EX'), 2 as Transno);
  commit(world, 1);
  assert.deepEqual(told(), []);
  server.cancel(A, [held]);
  assert.deepEqual(told(), ['commit']);
  commit(world, 2);
  await time.turn();
  assert.equal(reader.state, 'done');

  now(server.enqueue(A, inode(6, 'PR')));
  change(world, A, inode(6, 'EX'), 3);
  time.advance(PAUSE_MS);
  void new Outcome(server.acquire(B, [inode(6, 'EX')]));
  assert.deepEqual(told(), ['bast client-a inode 6 PR', 'commit']);
});

test('a change that comes too late for the commit under way is asked for anew', async () => {
  const world = startWorld();
  const { server, told, time } = world;
  const held = now(server.enqueue(A, inode(5, 'PR')));
  change(world, A, inode(5, 'EX'), 1);
  time.advance(PAUSE_MS);
  const wanted = new Outcome(server.acquire(B, [inode(5, 'EX')]));
  assert.deepEqual(told(), ['bast client-a inode 5 PR', 'commit']);
  server.changed(A, inode(5, 'EX'), 2 as Transno);
  commit(world, 1);
  server.cancel(A, [held]);
  assert.deepEqual(told(), ['commit']);
  commit(world, 2);
  await time.turn();
  assert.equal(wanted.state, 'done');
});

test('who is busy has its turn, past all that wait, and keeps its locks; then the others have theirs', async () => {
  const world = startWorld();
  const { server, told, time } = world;
  now(server.enqueue(A, inode(5, 'PR')));
  change(world, A, inode(5, 'EX'), 1);
  change(world, A, inode(5, 'EX'), 2);
  const first = new Outcome(server.acquire(B, [inode(5, 'EX')]));
  const second = new Outcome(server.acquire(B, [inode(5, 'EX')]));
  let transno = 2;
  const step = PAUSE_MS / 2;
  for (let ms = step; ms < TURN_MIN_MS; ms += step) {
    time.advance(step);
    change(world, A, inode(5, 'EX'), ++transno);
  }
  assert.deepEqual(told(), []);
  time.advance(PAUSE_MS);
  assert.deepEqual(told(), ['bast client-a inode 5 PR', 'commit']);
  const late = new Outcome(server.acquire(A, [inode(5, 'EX')]));
  assert.equal(late.state, 'waiting');
  server.cancel(
    A,
    [...server.cacheLocks(A)].map((lock) => lock.handle),
  );
  commit(world, transno);
  await time.turn();
  assert.deepEqual([first.state, second.state, late.state], ['done', 'waiting', 'waiting']);
  // Now it is the turn of b.
  server.changed(B, inode(5, 'EX'), ++transno as Transno);
  first.value?.();
  await time.turn();
  assert.deepEqual([second.state, late.state, told()], ['done', 'waiting', []]);
  second.value?.();
  time.advance(PAUSE_MS);
  assert.deepEqual(told(), ['commit']);
  commit(world, transno);
  await time.turn();
  late.value?.();
  assert.deepEqual([late.state, server.size], ['done', EMPTY]);
});

test('a client that has done one operation has no turn: it is called back at once, time after time', async () => {
  const world = startWorld();
  const { server, told, time } = world;
  let transno = 0;
  for (const client of [A, B]) now(server.enqueue(client, inode(5, 'PR', 1)));
  for (let round = 0; round < 3; round += 1) {
    for (const [client, other] of [
      [A, B],
      [B, A],
    ] as const) {
      // The next machine begins when this one has its answer, and no time passes.
      change(world, client, inode(5, 'EX', 2), ++transno);
      // From the second machine on, the commit begins before the next machine asks.
      const ahead = told();
      assert.deepEqual(ahead, transno === 1 ? [] : ['commit'], `round ${round}`);
      const next = new Outcome(server.acquire(other, [inode(5, 'EX', 2)]));
      assert.deepEqual([...ahead, ...told()], ['commit'], `round ${round}`);
      commit(world, transno);
      await time.turn();
      next.value?.();
      assert.equal(next.state, 'done');
    }
  }
  // Each machine keeps a lock, or the thing would be forgotten between two of them.
  for (const client of [A, B]) {
    server.cancel(
      client,
      [...server.cacheLocks(client)].map((lock) => lock.handle),
    );
  }
  assert.deepEqual([server.size, time.pending], [EMPTY, 0]);
});

test('a client that asks again while others wait for its change is busy: next time it has its turn', async () => {
  const world = startWorld();
  const { server, told, time } = world;
  change(world, A, inode(5, 'EX'), 1);
  const other = new Outcome(server.acquire(B, [inode(5, 'EX')]));
  const again = new Outcome(server.acquire(A, [inode(5, 'EX')]));
  assert.deepEqual(told(), ['commit']);
  commit(world, 1);
  await time.turn();
  server.changed(B, inode(5, 'EX'), 2 as Transno);
  other.value?.();
  assert.deepEqual(told(), ['commit']);
  const late = new Outcome(server.acquire(B, [inode(5, 'EX')]));
  commit(world, 2);
  await time.turn();
  server.changed(A, inode(5, 'EX'), 3 as Transno);
  again.value?.();
  assert.deepEqual([late.state, told()], ['waiting', []]);
  // It pauses after all, and is not taken for busy any more.
  time.advance(PAUSE_MS);
  assert.deepEqual(told(), ['commit']);
  commit(world, 3);
  await time.turn();
  late.value?.();
  change(world, A, inode(5, 'EX'), 4);
  const last = new Outcome(server.acquire(B, [inode(5, 'EX')]));
  assert.deepEqual(told(), ['commit']);
  commit(world, 4);
  await time.turn();
  last.value?.();
  assert.deepEqual(server.size, EMPTY);
});

test('a turn grows with the time that commits take, and has an end', () => {
  const world = startWorld();
  const { server, told, time } = world;
  change(world, A, inode(5, 'EX'), 1);
  time.advance(PAUSE_MS);
  void new Outcome(server.acquire(B, [inode(5, 'EX')]));
  time.advance(1000);
  commit(world, 1);
  told();
  change(world, A, inode(6, 'EX'), 2);
  change(world, A, inode(6, 'EX'), 3);
  void new Outcome(server.acquire(B, [inode(6, 'EX')]));
  let transno = 3;
  let waitedMs = 0;
  for (; told().length === 0 && waitedMs < 1000; waitedMs += PAUSE_MS / 2) {
    time.advance(PAUSE_MS / 2);
    if (told().length > 0) break;
    if (server.isFree(A, inode(6, 'EX'))) change(world, A, inode(6, 'EX'), ++transno);
  }
  assert.ok(waitedMs >= TURN_MAX_MS - PAUSE_MS && waitedMs <= TURN_MAX_MS + PAUSE_MS, `${waitedMs} ms`);
});

test('what a client that is gone has changed belongs to nobody, not even to one of its name', async () => {
  const world = startWorld();
  const { server, told, time } = world;
  change(world, A, inode(5, 'EX'), 1);
  server.dropClient(A);
  time.advance(PAUSE_MS);
  const again = new Outcome(server.acquire(A, [inode(5, 'EX')]));
  assert.deepEqual([again.state, told(), server.hasUncommitted(A)], ['waiting', ['commit'], true]);
  commit(world, 1);
  await time.turn();
  assert.deepEqual([again.state, server.hasUncommitted(A)], ['done', false]);
});

test('replayed locks are granted as they were, over uncommitted changes; a conflict is refused, and nobody is called back', () => {
  const world = startWorld({ maxCacheLocks: 2 });
  const { server, told } = world;
  server.changed(B, inode(5, 'EX'), 1 as Transno);
  const names = server.adopt(A, inode(5, 'PR'));
  const pages = server.adopt(A, data(6, 'PW'));
  assert.ok(names !== undefined && pages !== undefined && names !== pages);
  assert.deepEqual(
    [server.adopt(B, data(6, 'PR')), server.adopt(B, data(6, 'PW')), server.adopt(A, inode(7, 'PR'))],
    [undefined, undefined, undefined],
  );
  assert.deepEqual([server.adopt(B, inode(5, 'PR')) !== undefined, told()], [true, []]);
  assert.deepEqual(
    server.cacheLocks(A).map(({ handle, type, fid, mode }) => [handle, type, fid, mode]),
    [
      [names, 'inode', 5, 'PR'],
      [pages, 'data', 6, 'PW'],
    ],
  );
  void new Outcome(server.acquire(B, [data(6, 'EX')]));
  assert.deepEqual(
    [told(), server.isWanted(A), server.isWanted(B)],
    [['bast client-a data 6 PW'], true, false],
  );
});

test('a replayed lock is refused when somebody waits whom it would hold up without being called back', () => {
  const { server } = startWorld();
  now(server.enqueue(B, data(5, 'PR')));
  void new Outcome(server.acquire(C, [data(5, 'EX')]));
  assert.equal(server.adopt(A, data(5, 'PR')), undefined);
});

test('what a client has is known, unless it was asked to give it back', () => {
  const { server } = startWorld();
  now(server.enqueue(A, data(5, 'PW')));
  now(server.enqueue(A, inode(5, 'PR', 2)));
  assert.deepEqual(
    [data(5, 'PR'), data(5, 'PW'), inode(5, 'PR', 2), inode(5, 'PR', 3), data(6, 'PR')].map((spec) =>
      server.covers(A, spec),
    ),
    [true, true, true, false, false],
  );
  assert.deepEqual([server.covers(B, data(5, 'PR')), server.isFree(B, data(5, 'PR'))], [false, false]);
  void new Outcome(server.enqueue(B, data(5, 'PR')));
  assert.equal(server.covers(A, data(5, 'PR')), false);
});

test('one client cannot hold one thing so often that every look at it becomes slow', () => {
  const { server } = startWorld();
  let granted = 0;
  while (granted < 10_000 && server.tryEnqueue(A, inode(5, 'PR')) !== undefined) granted++;
  assert.ok(granted < 1000, `${granted} locks`);
  assert.throws(() => server.enqueue(A, inode(5, 'PR')), { code: 'ENOLCK' });
  now(server.enqueue(B, inode(5, 'PR')));
  now(server.enqueue(A, inode(6, 'PR')));
});
