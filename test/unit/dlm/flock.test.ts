import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ERRNO, FsError } from '../../../src/base/errno.js';
import type { ClientUuid, LockHandle } from '../../../src/base/ids.js';
import type { LockOffset } from '../../../src/base/lock_offset.js';
import type { FlockRangeMessage } from '../../../src/wire/lock.js';
import { A, B, C, data, EMPTY, fid, range, startWorld, type World } from '../../worlds/dlm_world.js';

const F = fid(5);
const END = undefined;

/** One client's calls on file F. */
function on(world: World, client: ClientUuid, kind: FlockRangeMessage['kind'] = 'posix') {
  const { server } = world;
  const set = (owner: string, start: number, end: number | undefined, exclusive: boolean, wait = true) =>
    server.flock(client, F, range(kind, owner, start, end, exclusive), wait);
  return {
    read: (owner: string, start = 0, end: number | undefined = END) => set(owner, start, end, false),
    write: (owner: string, start = 0, end: number | undefined = END) => set(owner, start, end, true),
    tryWrite: (owner: string, start = 0, end: number | undefined = END) =>
      set(owner, start, end, true, false),
    tryRead: (owner: string, start = 0, end: number | undefined = END) =>
      set(owner, start, end, false, false),
    unlock: (owner: string, start = 0, end: number | undefined = END) =>
      server.unflock(client, F, range(kind, owner, start, end, false)),
    test: (owner: string, start = 0, end: number | undefined = END, exclusive = true) =>
      server.testFlock(client, F, range(kind, owner, start, end, exclusive)),
    cancel: (handle: LockHandle) => server.cancel(client, [handle]),
  };
}

function code(fn: () => unknown): string {
  try {
    fn();
  } catch (error) {
    if (error instanceof FsError) return error.code;
    throw error;
  }
  return 'ok';
}

/** What `probe`, an owner with nothing, meets from left to right: 'w[0,4) r[4,8)'. */
function layout(world: World, kind: FlockRangeMessage['kind'] = 'posix'): string {
  const found: string[] = [];
  for (let at: LockOffset = 0; ; ) {
    const conflict: FlockRangeMessage | undefined = world.server.testFlock(
      C,
      F,
      range(kind, 'probe', at, END, true),
    );
    if (conflict === undefined) return found.join(' ');
    found.push(`${conflict.exclusive ? 'w' : 'r'}[${conflict.start},${conflict.end ?? ''})`);
    if (conflict.end === undefined) return found.join(' ');
    at = conflict.end;
  }
}

test('a wait that is replayed twice, by its sequence, waits once', () => {
  const world = startWorld();
  on(world, A).write('p');
  const replay = () => world.server.flock(B, F, range('posix', 'q', 0, END, true), true, 7);
  assert.deepEqual(replay(), replay());
  on(world, A).unlock('p');
  on(world, B).unlock('q');
  assert.equal(layout(world), '');
});

test('a posix lock replaces, splits, upgrades and downgrades what its owner had', () => {
  const world = startWorld();
  const a = on(world, A);
  a.write('p', 10, 50);
  a.unlock('p', 20, 30);
  assert.equal(layout(world), 'w[10,20) w[30,50)');
  a.read('p', 15, 35);
  assert.equal(layout(world), 'w[10,15) r[15,35) w[35,50)');
  a.write('p', 15, 35);
  assert.equal(layout(world), 'w[10,50)');
  a.read('p', 40);
  assert.equal(layout(world), 'w[10,40) r[40,)');
  a.unlock('p');
  assert.deepEqual(world.server.size, EMPTY);
});

test('owners are told apart by client, kind and owner; one never conflicts with itself', () => {
  const world = startWorld();
  const a = on(world, A);
  assert.equal(a.write('p').granted, true);
  assert.equal(a.write('p', 3, 9).granted, true);
  assert.equal(
    code(() => a.tryRead('q')),
    'EAGAIN',
  );
  assert.equal(
    code(() => on(world, B).tryRead('p')),
    'EAGAIN',
  );
  assert.equal(
    code(() => on(world, A, 'ofd').tryRead('p')),
    'EAGAIN',
  );
  assert.equal(
    code(() => on(world, A, 'flock').tryWrite('p')),
    'ok',
  );
});

test('flock(2) locks and fcntl(2) locks do not see each other', () => {
  const world = startWorld();
  assert.equal(on(world, A, 'flock').write('x').granted, true);
  assert.equal(on(world, B, 'posix').write('y').granted, true);
  assert.equal(
    code(() => on(world, B, 'flock').tryRead('z')),
    'EAGAIN',
  );
  assert.equal(on(world, B, 'flock').test('z')?.kind, 'flock');
  assert.equal(on(world, C, 'ofd').test('z')?.kind, 'posix');
});

test('GETLK shows the conflicting lock with the lowest start, as one range over neighbours of one type', () => {
  const world = startWorld();
  world.server.flock(A, F, range('posix', 'p', 20, 30, true, 77), false);
  world.server.flock(A, F, range('posix', 'p', 30, 40, true, 77), false);
  world.server.flock(B, F, range('posix', 'p', 10, 15, false, 88), false);
  assert.deepEqual(on(world, C).test('p'), range('posix', 'p', 10, 15, false, 88));
  assert.deepEqual(on(world, C).test('p', 35), range('posix', 'p', 20, 40, true, 77));
  assert.deepEqual(on(world, C).test('p', 0, END, false), range('posix', 'p', 20, 40, true, 77));
  assert.equal(on(world, C).test('p', 15, 20), undefined);
});

test('waiting locks are granted in order as soon as nothing held is in their way', () => {
  const world = startWorld();
  const held = on(world, A).write('p');
  const first = on(world, B).write('p', 0, 10);
  const second = on(world, C).write('p', 5, 15);
  const third = on(world, C).read('q', 20, 30);
  assert.deepEqual([held.granted, first.granted, second.granted, third.granted], [true, false, false, false]);
  on(world, A).unlock('p', 20);
  assert.deepEqual(world.told(), [`cast client-c ${third.handle}`]);
  on(world, A).unlock('p');
  assert.deepEqual(world.told(), [`cast client-b ${first.handle}`]);
  on(world, B).unlock('p', 5, 10);
  assert.deepEqual(world.told(), [`cast client-c ${second.handle}`]);
});

test('a downgrade lets waiting readers in', () => {
  const world = startWorld();
  on(world, A).write('p');
  const reader = on(world, B).read('p', 5, 6);
  on(world, A).read('p');
  assert.deepEqual(world.told(), [`cast client-b ${reader.handle}`]);
});

test('a waiter whose grant makes its own range shared lets earlier waiters in', () => {
  const world = startWorld();
  on(world, A).write('p', 0, 10);
  on(world, B).write('p', 10, 20);
  const early = on(world, C).read('p', 0, 5);
  const late = on(world, A).read('p', 0, 20);
  on(world, B).unlock('p');
  assert.deepEqual(world.told(), [`cast client-a ${late.handle}`, `cast client-c ${early.handle}`]);
});

test('a flock conversion gives up the old lock first, also when it then fails or has to wait', () => {
  const world = startWorld();
  const [a, b, c] = [on(world, A, 'flock'), on(world, B, 'flock'), on(world, C, 'flock')];
  a.read('x');
  b.read('x');
  const waiting = c.write('x');
  assert.equal(
    code(() => a.tryWrite('x')),
    'EAGAIN',
  );
  assert.deepEqual([world.server.count(A), world.told()], [0, []]);
  b.unlock('x');
  assert.deepEqual(world.told(), [`cast client-c ${waiting.handle}`]);
  const shared = c.read('x');
  assert.equal(shared.granted, true);
  b.read('x');
  const upgrade = c.write('x');
  assert.equal(upgrade.granted, false);
  b.unlock('x');
  assert.deepEqual(world.told(), [`cast client-c ${upgrade.handle}`]);
});

test('posix owners that would wait for each other get EDEADLK at once, over files and clients', () => {
  const world = startWorld();
  const G = fid(6);
  const lock = (client: ClientUuid, file = F) =>
    world.server.flock(client, file, range('posix', 'p', 0, 1, true), true).granted;
  const H = fid(7);
  assert.deepEqual([lock(A, F), lock(B, G), lock(C, H)], [true, true, true]);
  assert.deepEqual([lock(A, G), lock(B, H)], [false, false]);
  assert.equal(
    code(() => lock(C, F)),
    'EDEADLK',
  );
  // Nothing of the refused call is left: the chain resolves when C lets go.
  world.server.unflock(C, H, range('posix', 'p', 0, 1, true));
  world.server.unflock(B, G, range('posix', 'p', 0, 1, true));
  assert.equal(world.told().length, 2);
});

test('a process that uses two mounts of its host is one owner in a cycle of waits, and another host is not', () => {
  const G = fid(6);
  // Process 7 holds F on mount A; process 8 holds G on mount B and waits for F there. Process 7 wants G, on mount B.
  const story = (hosts: readonly [number | undefined, number | undefined], kind: 'posix' | 'ofd'): string => {
    const world = startWorld();
    const lock = (client: ClientUuid, file: typeof F, pid: number, host: number | undefined) =>
      world.server.flock(client, file, { ...range(kind, `${client} ${pid}`, 0, 1, true, pid), host }, true);
    lock(A, F, 7, hosts[0]);
    lock(B, G, 8, hosts[1]);
    lock(B, F, 8, hosts[1]);
    return code(() => lock(B, G, 7, hosts[1]));
  };
  assert.deepEqual(
    [
      story([5, 5], 'posix'),
      story([5, 6], 'posix'),
      story([undefined, undefined], 'posix'),
      story([5, 5], 'ofd'),
    ],
    ['EDEADLK', 'ok', 'ok', 'ok'],
  );
});

test('a cycle of waits goes on from one mount of a process to the other, and two owners of one mount are no process', () => {
  const world = startWorld();
  const [G, H] = [fid(6), fid(7)];
  const lock = (client: ClientUuid, file: typeof F, owner: string, pid: number) =>
    world.server.flock(client, file, { ...range('posix', owner, 0, 1, true, pid), host: 5 }, true);
  // Process 7 waits on B (for 9's H), and holds F on A. Process 8 waits for F. 9 would wait for 8.
  lock(A, F, 'a7', 7);
  lock(C, H, 'c9', 9);
  lock(B, H, 'b7', 7);
  lock(C, G, 'c8', 8);
  lock(C, F, 'c8', 8);
  assert.equal(
    code(() => lock(C, G, 'c9', 9)),
    'EDEADLK',
  );
  // Two open file descriptions of process 7 on A: another thread may let go of the one.
  assert.equal(
    code(() => lock(A, F, 'another 7', 7)),
    'ok',
  );
});

test('two readers that both upgrade: the second gets EDEADLK and keeps its read lock', () => {
  const world = startWorld();
  on(world, A).read('p');
  on(world, B).read('p');
  const first = on(world, A).write('p');
  assert.equal(
    code(() => on(world, B).write('p')),
    'EDEADLK',
  );
  assert.deepEqual([first.granted, world.told()], [false, []]);
  on(world, B).unlock('p');
  assert.deepEqual(world.told(), [`cast client-a ${first.handle}`]);
});

test('a wait that is over, granted or cancelled, leads to no EDEADLK later', () => {
  const world = startWorld();
  const [a, b] = [on(world, A), on(world, B)];
  on(world, C).write('p', 9);
  b.write('p', 0, 1);
  const granted = a.write('p', 0, 1);
  const cancelled = a.write('p', 0, 1);
  a.cancel(cancelled.handle);
  b.unlock('p', 0, 1);
  assert.deepEqual(world.told(), [`cast client-a ${granted.handle}`]);
  a.unlock('p', 0, 1);
  b.write('p', 0, 1);
  a.write('p', 5, 6);
  assert.equal(b.write('p', 5, 6).granted, false);
});

test('no deadlock is seen through ofd and flock owners', () => {
  const world = startWorld();
  for (const kind of ['ofd', 'flock'] as const) {
    const G = fid(6);
    world.server.flock(A, F, range(kind, 'p', 0, 1, true), true);
    world.server.flock(B, G, range(kind, 'p', 0, 1, true), true);
    assert.equal(world.server.flock(A, G, range(kind, 'p', 0, 1, true), true).granted, false);
    assert.equal(world.server.flock(B, F, range(kind, 'p', 0, 1, true), true).granted, false);
    world.server.dropClient(A);
    world.server.dropClient(B);
  }
  assert.deepEqual(world.server.size, EMPTY);
});

test('a cycle that closes when a waiting thread of an owner gets its lock ends with EDEADLK by CAST', () => {
  const world = startWorld();
  const [G, H] = [fid(6), fid(7)];
  const lock = (client: ClientUuid, file: typeof F) =>
    world.server.flock(client, file, range('posix', 'p', 0, 1, true), true);
  lock(C, F);
  lock(B, G);
  lock(C, H);
  // A waits in two threads: for C's F, and for B's G. B waits for C's F behind A.
  lock(A, F);
  lock(A, G);
  const doomed = lock(B, F);
  world.told();
  world.server.unflock(C, F, range('posix', 'p', 0, 1, true));
  assert.ok(world.told().includes(`cast client-b ${doomed.handle} errno ${ERRNO.EDEADLK}`));
});

test('cancelling a waiting lock takes it out of the queue', () => {
  const world = startWorld();
  on(world, A).write('p');
  const waiting = on(world, B).write('p');
  on(world, B).cancel(waiting.handle);
  on(world, A).unlock('p');
  assert.deepEqual([world.told(), world.server.size], [[], EMPTY]);
});

test('cancelling a lock that was granted in the meantime brings back what it replaced', () => {
  const world = startWorld();
  const a = on(world, A);
  a.read('p', 0, 10);
  a.write('p', 10, 20);
  on(world, B).write('p', 20, 30);
  const upgrade = a.write('p', 5, 30);
  on(world, B).unlock('p');
  assert.deepEqual([world.told(), layout(world)], [[`cast client-a ${upgrade.handle}`], 'r[0,5) w[5,30)']);
  a.unlock('p', 12, 14);
  a.cancel(upgrade.handle);
  assert.equal(layout(world), 'r[0,10) w[10,12) w[14,20)');
  a.cancel(upgrade.handle);
  assert.equal(layout(world), 'r[0,10) w[10,12) w[14,20)');
  a.unlock('p');
  assert.deepEqual(world.server.size, EMPTY);
});

test('an exclusive range that others have locked since comes back as shared', () => {
  const world = startWorld();
  const a = on(world, A);
  a.write('p', 0, 10);
  const downgrade = a.read('p', 0, 20);
  on(world, B).read('p', 0, 5);
  a.cancel(downgrade.handle);
  on(world, B).unlock('p');
  assert.equal(layout(world), 'r[0,10)');
});

test('a call is known by its handle as long as a piece of it is left', () => {
  const world = startWorld();
  const a = on(world, A);
  const first = a.write('p', 0, 30);
  a.unlock('p', 10, 20);
  a.read('p', 0, 5);
  assert.equal(world.server.count(A), 2);
  a.cancel(first.handle);
  assert.equal(layout(world), 'r[0,5)');
  assert.equal(world.server.count(A), 1);
});

test('dropping a client releases its locks and its waiting calls, and grants the others', () => {
  const world = startWorld();
  on(world, A).write('p', 0, 10);
  on(world, A).write('q', 10, 20);
  const a = on(world, A, 'flock').write('x');
  on(world, B).write('p', 5, 15);
  const doubled = on(world, B, 'flock').read('x');
  const waiting = on(world, A).write('r', 5, 15);
  assert.deepEqual([a.granted, doubled.granted, waiting.granted], [true, false, false]);
  assert.deepEqual(world.server.holders('flock'), [A, B]);
  world.server.dropClient(A);
  assert.equal(world.told().length, 2);
  assert.deepEqual(world.server.holders('flock'), [B]);
  world.server.dropClient(B);
  assert.deepEqual(world.server.size, EMPTY);
});

test('replay: waiting locks keep their turn, and are not granted before the holders have replayed', () => {
  const world = startWorld();
  const { server } = world;
  server.holdFlockGrants(true);
  const late = server.flock(C, F, range('posix', 'p', 0, 9, true), true, 30);
  const early = server.flock(B, F, range('posix', 'p', 0, 9, true), true, 20);
  const held = server.flock(A, F, range('posix', 'p', 0, 9, true), false, 10);
  assert.deepEqual([late.granted, early.granted, held.granted], [false, false, true]);
  server.holdFlockGrants(false);
  assert.deepEqual(world.told(), []);
  const fresh = server.flock(A, F, range('posix', 'q', 0, 9, true), true);
  assert.equal(fresh.sequence, 31);
  on(world, A).unlock('p');
  assert.deepEqual(world.told(), [`cast client-b ${early.handle}`]);
  on(world, B).unlock('p');
  assert.deepEqual(world.told(), [`cast client-c ${late.handle}`]);
});

test('replay: waiting locks whose holder never came back are granted in order when grants go on', () => {
  const world = startWorld();
  const { server } = world;
  server.holdFlockGrants(true);
  server.flock(C, F, range('posix', 'p', 0, 9, true), true, 30);
  const early = server.flock(B, F, range('posix', 'p', 0, 9, true), true, 20);
  server.holdFlockGrants(false);
  assert.deepEqual(world.told(), [`cast client-b ${early.handle}`]);
});

test('empty ranges and absurd sequences from a peer are refused', () => {
  const world = startWorld();
  assert.equal(
    code(() => on(world, A).write('p', 5, 5)),
    'EINVAL',
  );
  assert.equal(
    code(() => world.server.flock(A, F, range('posix', 'p', 0, 1, true), true, 2 ** 53 - 1)),
    'EINVAL',
  );
  assert.deepEqual(world.server.size, EMPTY);
});

test('the highest sequence that a peer may name leaves the locks of others as they were', () => {
  const highest = 2 ** 52;
  const world = startWorld();
  world.server.flock(A, F, range('posix', 'p', 0, 9, true), false, highest);
  const waits = [B, C].map((client) => world.server.flock(client, F, range('posix', 'q', 0, 9, true), true));
  assert.deepEqual(
    waits.map(({ granted, sequence }) => [granted, sequence]),
    [
      [false, highest],
      [false, highest],
    ],
  );
  on(world, A).unlock('p');
  assert.deepEqual(world.told(), [`cast client-b ${waits[0]?.handle}`]);
  // The next instance takes them again.
  const next = startWorld().server;
  for (const [at, client] of [B, C].entries()) {
    assert.equal(next.flock(client, F, range('posix', 'q', 0, 9, true), true, highest).granted, at === 0);
  }
  world.server.checkInvariants();
  next.checkInvariants();
});

test('one CANCEL may name cache locks and application locks', () => {
  const world = startWorld();
  const cached = world.server.tryEnqueue(A, data(5, 'PW'));
  const lock = on(world, A).write('p');
  assert.equal(world.server.count(A), 2);
  world.server.cancel(A, [lock.handle, cached as LockHandle]);
  assert.deepEqual(world.server.size, EMPTY);
});
