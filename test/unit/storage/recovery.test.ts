/** A store after a crash: replays with their old transnos, until its own begin. And a store that is held. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type Fid, type Name, ROOT_FID, type Transno } from '../../../src/base/ids.js';
import type { TargetStore, Within } from '../../../src/storage/api.js';
import { createFile, MIB, TEST_TIME, type TestTarget, testTarget } from '../../fixtures/storage_target.js';
import { virtualTarget } from '../../worlds/world_target.js';

const TIME = TEST_TIME;

/** A store that has crashed with changes that are not durable, and recovers. */
async function recovering(
  t: TestContext,
): Promise<{ target: TestTarget; store: TargetStore; last: Transno }> {
  const target = await testTarget(t);
  const before = await target.open({ commitIntervalMs: 10_000 });
  createFile(before, 'durable');
  await before.sync();
  const last = before.lastTransno;
  createFile(before, 'lost');
  const store = await target.crash(undefined, { commitIntervalMs: 10_000 }, { recovering: true });
  return { target, store, last };
}

test('while it recovers replays keep their transnos, and nothing else gets one', async (t) => {
  const { store, last } = await recovering(t);
  assert.deepEqual([store.lastTransno, store.lastCommitted], [last, last]);
  const internal = store.execute((tx) => tx.putOrphan(77 as Fid));
  const replay = (last + 5) as Transno;
  const replayed = store.execute((tx) => [tx.putOrphan(78 as Fid), tx.transno], { transno: replay });
  assert.deepEqual([internal.transno, replayed.transno, replayed.result[1]], [0, replay, replay]);
  for (const early of [replay, last]) {
    assert.throws(() => store.execute((tx) => tx.putOrphan(79 as Fid), { transno: early as Transno }));
  }
  assert.deepEqual([store.lastTransno, store.lastCommitted], [replay, last]);
  await store.sync();
  assert.equal(store.lastCommitted, replay);
  store.endRecovery();
  const { transno } = store.execute((tx) => tx.putOrphan(80 as Fid));
  assert.equal(transno, store.superblock.instance * 2 ** 32 + 1);
  assert.throws(() => store.execute((tx) => tx.putOrphan(81 as Fid), { transno: (transno + 1) as Transno }));
  assert.deepEqual(store.orphans(), [77, 78, 80]);
});

test('a crash in the middle of recovery asks for those replays again that are not durable', async (t) => {
  const { target, store, last } = await recovering(t);
  const replay = (fid: number, transno: number): void => {
    store.execute((tx) => tx.putOrphan(fid as Fid), { transno: transno as Transno });
  };
  replay(71, last + 1);
  await store.sync();
  replay(72, last + 2);
  const again = await target.crash(undefined, undefined, { recovering: true });
  assert.deepEqual([again.lastCommitted, again.orphans()], [last + 1, [71]]);
  again.execute((tx) => tx.putOrphan(72 as Fid), { transno: (last + 2) as Transno });
  again.endRecovery();
  await again.sync();
  // Everything that could be replayed is durable: clients may forget it.
  assert.equal(again.lastCommitted, again.superblock.instance * 2 ** 32);
});

test('data operations are replayed with their transnos, whatever steps they take', async (t) => {
  const { store, last } = await recovering(t);
  const { fid } = store.dirent(ROOT_FID, 'durable' as Name) ?? {};
  assert.ok(fid !== undefined);
  const transno = (step: number): Transno => (last + step) as Transno;
  const seen: Transno[] = [];
  const within: Within = (tx, _inode, isLast) => {
    if (isLast) seen.push(tx.transno);
  };
  const { data } = store;
  const done = [
    await data.write(fid, 0, Buffer.from('inline'), { time: TIME, within, transno: transno(1) }),
    await data.write(fid, 0, Buffer.alloc(3 * MIB, 1), { time: TIME, within, transno: transno(2) }),
    await data.allocate(fid, { offset: 0, length: 5 * MIB }, false, {
      time: TIME,
      within,
      transno: transno(3),
    }),
    await data.clear(fid, { offset: 0, length: 8192 }, 'punch', true, {
      time: TIME,
      within,
      transno: transno(4),
    }),
    await data.copy({ fid: fid, offset: 0 }, { fid: fid, offset: 8 * MIB }, 5 * MIB, {
      time: TIME,
      within,
      transno: transno(5),
    }),
    // More windows than one transaction takes.
    await data.truncate(fid, 200 * MIB, { time: TIME, within, transno: transno(6) }),
    await data.allocate(fid, { offset: 100 * MIB, length: 2 * MIB }, true, {
      time: TIME,
      within,
      transno: transno(7),
    }),
    await data.truncate(fid, 10, { time: TIME, within, transno: transno(8) }),
  ];
  const expected = [1, 2, 3, 4, 5, 6, 7, 8].map(transno);
  assert.deepEqual([done.map((one) => one.transno), seen], [expected, expected]);
  assert.equal(store.lastTransno, transno(8));
});

test('held: operations go on being executed and nothing is committed any more', async (t) => {
  const target = await virtualTarget(t);
  let held = false;
  target.runtime.faults = { strikes: () => held };
  const store = await target.open({ commitIntervalMs: 1 });
  createFile(store, 'before');
  await store.sync();
  const { lastCommitted } = store;
  held = true;
  createFile(store, 'after');
  const synced = assert.rejects(store.sync(), { code: 'EIO' });
  await target.time.sleep(20);
  held = false;
  createFile(store, 'later');
  await target.time.sleep(20);
  assert.equal(store.lastCommitted, lastCommitted);
  const next = await target.crash();
  await synced;
  assert.deepEqual(
    next.dirents(ROOT_FID, 0, 9).map((entry) => entry.name),
    ['before'],
  );
});
