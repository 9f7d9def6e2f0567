import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AssertionFailure } from '../../../src/base/assert.js';
import type { LockHandle } from '../../../src/base/ids.js';
import type { CachedLock, LockSpec } from '../../../src/dlm/api.js';
import { LockClient } from '../../../src/dlm/lock_client.js';
import { active, data, fid, inode } from '../../worlds/dlm_world.js';

const handle = (number: number): LockHandle => number as LockHandle;

async function turn(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

/** Releases end when told with `hold`, before they return with `atOnce`, else a turn later. */
function start(options: { maxLocks?: number; hold?: boolean; atOnce?: boolean } = {}) {
  const released: number[] = [];
  const gone: [string, number][] = [];
  const cancelled: (readonly LockHandle[])[] = [];
  const held = new Map<
    LockHandle,
    { readonly resolve: () => void; readonly reject: (error: Error) => void }
  >();
  const locks = new LockClient({
    maxLocks: options.maxLocks ?? 100,
    callbacks: {
      release(lock) {
        released.push(lock.handle);
        if (options.atOnce === true) return undefined;
        if (options.hold !== true) return Promise.resolve();
        return new Promise((resolve, reject) => held.set(lock.handle, { resolve, reject }));
      },
      gone: (type, fid) => gone.push([type, fid]),
      cancel: (handles) => cancelled.push(handles),
    },
  });
  let next = 1;
  return {
    locks,
    released,
    gone,
    cancelled,
    add: (spec: LockSpec, number = next++): CachedLock => locks.add({ ...spec, handle: handle(number) }),
    finish: (lock: CachedLock) => held.get(lock.handle)?.resolve(),
    fail: (lock: CachedLock) => held.get(lock.handle)?.reject(new Error('broken')),
  };
}

test('match finds a lock that covers mode and bits', () => {
  const { locks, add } = start();
  const update = add(inode(5, 'PR', 1));
  const both = add(inode(5, 'PR', 3));
  const writer = add(data(5, 'PW'));
  assert.equal(locks.match('inode', fid(5), 'PR', 2), both);
  assert.ok([update, both].includes(locks.match('inode', fid(5), 'PR', 1) as CachedLock));
  assert.equal(locks.match('data', fid(5), 'PR', 0), writer);
  assert.equal(locks.match('data', fid(5), 'EX', 0), undefined);
  assert.equal(locks.match('inode', fid(5), 'PW', 1), undefined);
  assert.equal(locks.match('inode', fid(6), 'PR', 1), undefined);
  assert.deepEqual(
    [locks.holds('inode', fid(5)), locks.holds('inode', fid(6)), locks.size],
    [true, false, 3],
  );
});

test('a lock called back is released, then given back, and no longer matched', async () => {
  const { locks, add, released, cancelled, finish } = start({ hold: true });
  const lock = add(data(5, 'PW'));
  locks.called(lock.handle);
  locks.called(lock.handle);
  assert.deepEqual([released, lock.cancelling], [[1], true]);
  assert.equal(locks.match('data', fid(5), 'PR', 0), undefined);
  assert.equal(locks.find('data', fid(5), 'PR', 0), lock);
  await turn();
  assert.deepEqual(cancelled, []);
  finish(lock);
  await turn();
  assert.deepEqual([cancelled, locks.size, locks.holds('data', fid(5))], [[[1]], 0, false]);
  assert.throws(() => locks.addRef(lock), AssertionFailure);
});

test('who holds locks is told when the last on a thing is gone', async () => {
  const { locks, add, gone, finish } = start({ hold: true });
  const [one, two] = [add(data(5, 'PR')), add(data(5, 'PW'))];
  locks.called(one.handle);
  finish(one);
  await turn();
  assert.deepEqual([gone, locks.size], [[], 1]);
  locks.addRef(two);
  locks.called(two.handle);
  finish(two);
  await turn();
  assert.deepEqual(gone, []);
  locks.dropRef(two);
  assert.deepEqual([gone, locks.size], [[['data', 5]], 0]);
});

test('a lock with nothing to drop is gone in the turn in which it is called back', async () => {
  const { locks, add, gone, cancelled } = start({ atOnce: true });
  const lock = add(inode(6, 'PR'));
  locks.called(lock.handle);
  assert.deepEqual([gone, locks.size, lock.cancelling], [[['inode', 6]], 0, true]);
  await turn();
  assert.deepEqual(cancelled, [[1]]);
});

test('find prefers a lock that is not being cancelled', () => {
  const { locks, add } = start({ hold: true });
  const younger = add(data(5, 'PR'));
  const older = add(data(5, 'PR'));
  locks.called(older.handle);
  assert.equal(locks.find('data', fid(5), 'PR', 0), younger);
});

test('references keep a lock from being given back, release is told of them by unused()', async () => {
  const { locks, add, cancelled } = start();
  const lock = add(data(5, 'PW'));
  assert.equal(locks.unused(lock), undefined);
  locks.addRef(lock);
  locks.addRef(lock);
  const unused = locks.unused(lock);
  let quiet = false;
  void Promise.resolve(unused).then(() => {
    quiet = true;
  });
  locks.called(lock.handle);
  locks.dropRef(lock);
  await turn();
  assert.deepEqual([quiet, cancelled], [false, []]);
  locks.dropRef(lock);
  await turn();
  assert.deepEqual([quiet, cancelled], [true, [[1]]]);
  assert.throws(() => locks.dropRef(lock), AssertionFailure);
});

test('a reference taken under a lock that is being released delays it again', async () => {
  const { locks, add, cancelled, finish } = start({ hold: true });
  const lock = add(data(5, 'PR'));
  locks.called(lock.handle);
  locks.addRef(lock);
  finish(lock);
  await turn();
  assert.deepEqual([cancelled, locks.size], [[], 1]);
  locks.dropRef(lock);
  await turn();
  assert.deepEqual([cancelled, locks.size], [[[1]], 0]);
});

test('locks given back in one turn travel in one batch', async () => {
  const { locks, add, cancelled } = start();
  for (let i = 1; i <= 3; i++) add(inode(i, 'PR'));
  for (let i = 1; i <= 3; i++) locks.called(handle(i));
  await turn();
  assert.deepEqual(cancelled, [[1, 2, 3]]);
});

test('a failing release is a bug, but the lock goes back all the same', async () => {
  const { locks, add, cancelled, fail } = start({ hold: true });
  const lock = add(data(5, 'PW'));
  locks.called(lock.handle);
  fail(lock);
  await turn();
  assert.deepEqual([cancelled, locks.size], [[[1]], 0]);
});

test('a BAST before its grant is honoured when the grant comes; the operation that asked can still use it', async () => {
  const { locks, add, released, cancelled } = start();
  locks.called(handle(7));
  const lock = add(data(5, 'PW'), 7);
  assert.deepEqual([lock.cancelling, released], [true, []]);
  locks.addRef(lock);
  assert.equal(locks.match('data', fid(5), 'PR', 0), undefined);
  await turn();
  assert.deepEqual([released, cancelled], [[7], []]);
  locks.dropRef(lock);
  await turn();
  assert.deepEqual(cancelled, [[7]]);
});

test('over the limit the oldest unused lock goes, never one in use or the new one', async () => {
  const { locks, add, released, cancelled } = start({ maxLocks: 3 });
  const first = add(inode(1, 'PR'));
  add(inode(2, 'PR'));
  add(inode(3, 'PR'));
  locks.match('inode', fid(2), 'PR', 1);
  locks.addRef(first);
  add(inode(4, 'PR'));
  assert.equal(locks.match('inode', fid(3), 'PR', 0), undefined);
  await turn();
  assert.deepEqual(released, [3]);
  add(inode(5, 'PR'));
  await turn();
  assert.deepEqual(released, [3, 2]);
  assert.deepEqual([cancelled.flat(), locks.size], [[3, 2], 3]);
});

test('when all are in use the limit is passed', () => {
  const { locks, add, released } = start({ maxLocks: 2 });
  for (let i = 1; i <= 5; i++) locks.addRef(add(inode(i, 'PR')));
  assert.deepEqual([released, locks.size], [[], 5]);
});

test('a long scan over many locks cancels in batches', async () => {
  const { add, cancelled } = start({ maxLocks: 320 });
  for (let i = 1; i <= 420; i++) {
    add(inode(i, 'PR'));
    await turn();
  }
  assert.ok(cancelled.length <= 10 && cancelled.flat().length >= 100);
});

test('a drain releases all, waits for users, and hands over every handle once', async () => {
  const { locks, add, released, cancelled, finish } = start({ hold: true });
  const used = add(data(1, 'PW'));
  const called = add(data(2, 'PR'));
  locks.addRef(used);
  locks.called(called.handle);
  let drained: readonly LockHandle[] | undefined;
  void locks.cancelAll().then((handles) => {
    drained = handles;
  });
  assert.deepEqual(released, [2, 1]);
  // A grant that was under way.
  const late = add(inode(3, 'PR'));
  finish(used);
  finish(called);
  await turn();
  assert.equal(drained, undefined);
  locks.dropRef(used);
  await turn();
  finish(late);
  await turn();
  assert.deepEqual([...(drained ?? [])].sort(), [1, 2, 3]);
  assert.deepEqual([cancelled, locks.size], [[], 0]);
  locks.called(add(inode(4, 'PR')).handle);
  await turn();
  assert.deepEqual(released, [2, 1, 3, 4]);
});

test('a drain of nothing ends at once', async () => {
  assert.deepEqual(await start().locks.cancelAll(), []);
});

test('forgotten locks are released and not given back; their handles may come again', async () => {
  const { locks, add, released, cancelled, finish } = start({ hold: true });
  const old = add(data(5, 'PW'));
  const called = add(inode(5, 'PR'));
  locks.called(called.handle);
  locks.addRef(old);
  let done = false;
  const forgotten = locks.forgetAll().then(() => {
    done = true;
  });
  assert.deepEqual([released, locks.size], [[2, 1], 0]);
  const fresh = add(data(5, 'PW'), 1);
  assert.equal(locks.match('data', fid(5), 'PW', 0), fresh);
  finish(old);
  await turn();
  assert.equal(done, false);
  finish(called);
  await forgotten;
  locks.dropRef(old);
  await turn();
  assert.deepEqual([cancelled, locks.size], [[], 1]);
  assert.equal(locks.find('data', fid(5), 'PR', 0), fresh);
});

test('a drain that ends in an eviction hands over nothing, and leaves the locks of the next connection alone', async () => {
  const { locks, add, cancelled, released, finish } = start({ hold: true });
  const old = add(data(5, 'PW'));
  const drained = locks.cancelAll();
  const forgotten = locks.forgetAll();
  add(data(6, 'PW'), 1);
  finish(old);
  await forgotten;
  assert.deepEqual([await drained, cancelled, released, locks.size], [[], [], [1], 1]);
});

test('the active lock is none of the cache locks', () => {
  const { add } = start();
  assert.throws(() => add(active('PR')), AssertionFailure);
});

test('what is remembered of BASTs for unknown locks is bounded, the newest are kept', () => {
  const { locks, add } = start();
  for (let i = 1; i <= 5000; i++) locks.called(handle(i));
  assert.equal(add(inode(1, 'PR'), 1).cancelling, false);
  assert.equal(add(inode(2, 'PR'), 5000).cancelling, true);
});

test('another instance: locks are believed as before, and go back under the names that it gave them', async () => {
  const { locks, add, released, cancelled } = start();
  const kept = add(inode(5, 'PR', 1));
  const called = add(data(6, 'PW'));
  locks.newInstance();
  // Means nothing to the new instance, which may give these numbers to others.
  locks.called(handle(1));
  assert.deepEqual([locks.toReplay(), locks.size], [[kept, called], 2]);
  assert.equal(locks.match('inode', fid(5), 'PR', 1), kept);
  locks.granted(kept, handle(2));
  locks.granted(called, handle(1));
  await turn();
  assert.deepEqual([released, cancelled, locks.size], [[1], [[1]], 1], 'the callback was for the new name');
  locks.called(handle(2));
  await turn();
  assert.deepEqual([cancelled, locks.size], [[[1], [2]], 0]);
});

test('another instance: a lock given back before it is granted again is not mentioned; one that crossed goes back', async () => {
  const { locks, add, cancelled, finish } = start({ hold: true });
  const before = add(data(5, 'PW'));
  const crossed = add(data(6, 'PW'));
  const still = add(data(7, 'PW'));
  for (const lock of [before, crossed, still]) locks.called(lock.handle);
  const given = add(inode(8, 'PR', 1));
  locks.addRef(given);
  locks.newInstance();
  finish(before);
  await turn();
  assert.deepEqual(locks.toReplay(), [crossed, still, given]);
  finish(crossed);
  await turn();
  const finishStill = (): void => finish({ ...still, handle: handle(3) });
  for (const [index, lock] of [crossed, still, given].entries()) locks.granted(lock, handle(100 + index));
  await turn();
  assert.deepEqual([cancelled, locks.size], [[[100]], 2]);
  finishStill();
  await turn();
  assert.deepEqual([cancelled, locks.size], [[[100], [101]], 1]);
});

test('another instance: what was to be sent to the last one is void, and a drain under way ends with nothing', async () => {
  const { locks, add, cancelled, finish } = start({ hold: true });
  const first = add(data(5, 'PW'));
  const second = add(data(6, 'PW'));
  const drained = locks.cancelAll();
  await turn();
  finish(first);
  await turn();
  locks.newInstance();
  assert.deepEqual(locks.toReplay(), [second]);
  locks.granted(second, handle(50));
  finish({ ...second, handle: handle(2) });
  assert.deepEqual(await drained, []);
  await turn();
  assert.deepEqual([cancelled, locks.size], [[[50]], 0]);
});

test('a lock that the new instance refuses is released and never sent back; until then it is not found', async () => {
  const { locks, add, released, cancelled, finish } = start({ hold: true });
  const lock = add(data(5, 'PW'));
  const other = add(data(5, 'PR'));
  locks.newInstance();
  locks.toReplay();
  locks.granted(other, handle(9));
  locks.forget(lock);
  assert.deepEqual(
    [released, locks.forgets('data', fid(5)), locks.find('data', fid(5), 'PW', 0), locks.size],
    [[1], true, undefined, 1],
  );
  finish(lock);
  await turn();
  assert.deepEqual([locks.forgets('data', fid(5)), cancelled], [false, []]);
  assert.equal(locks.match('data', fid(5), 'PR', 0), other);
});

test('locks of an inode that is gone go back without a release, once nobody uses them', async () => {
  const { locks, add, released, cancelled } = start();
  add(inode(5, 'PR', 3));
  const used = add(data(5, 'PW'));
  add(inode(6, 'PR', 3));
  locks.addRef(used);
  locks.giveBackUnused(fid(5));
  await turn();
  assert.deepEqual([released, cancelled, locks.match('data', fid(5), 'PW', 0)], [[], [[1]], undefined]);
  locks.dropRef(used);
  await turn();
  assert.deepEqual([cancelled, locks.size], [[[1], [2]], 1]);
});
