/**
 * A database whose last transaction or list of free pages is damaged: fsck says what is whole, and --repair goes on from
 * there. The target is used heavily afterwards: a wrong list of free pages would write over what is in use.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Fid, Name } from '../../../../src/base/ids.js';
import { ROOT_FID } from '../../../../src/base/ids.js';
import { LMDB_PAGE_BYTES, type LmdbMeta, readMetas } from '../../../../src/storage/meta/meta_probe.js';
import { createFile, TEST_TIME } from '../../../fixtures/storage_target.js';
import { type FsckWorld, fsckWorld } from '../../../worlds/fsck_world.js';

const PAGE = LMDB_PAGE_BYTES;

async function metas(world: FsckWorld): Promise<{ readonly last: LmdbMeta; readonly before: LmdbMeta }> {
  const both = await readMetas(async (offset, target) => {
    target.set(world.peek(offset, target.length));
  }, world.target.devices.metaSizeBytes);
  const [one, other] = both;
  assert(one !== undefined && other !== undefined);
  return one.transaction > other.transaction ? { last: one, before: other } : { last: other, before: one };
}

/** Many files, some removed again, in several transactions: there are free pages. */
async function used(t: Parameters<typeof fsckWorld>[0]): Promise<FsckWorld> {
  const world = await fsckWorld(t);
  const store = await world.target.open();
  for (let round = 0; round < 5; round++) {
    for (let count = 0; count < 100; count++) createFile(store, `file ${round} ${count}`);
    await store.sync();
    for (let count = 0; count < 50; count++) {
      const name = `file ${round} ${count}` as Name;
      const fid = store.dirent(ROOT_FID, name)?.fid as Fid;
      store.execute((tx) => {
        tx.removeDirent(ROOT_FID, name);
        tx.destroyInode(fid);
      });
    }
    await store.sync();
  }
  // Most pages come free at the end.
  for (let round = 0; round < 5; round++) {
    for (let count = 50; count < 100; count++) {
      const name = `file ${round} ${count}` as Name;
      const fid = store.dirent(ROOT_FID, name)?.fid as Fid;
      store.execute((tx) => {
        tx.removeDirent(ROOT_FID, name);
        tx.destroyInode(fid);
      });
    }
    await store.sync();
  }
  await store.markClean();
  await store.close();
  world.target.store = undefined;
  return world;
}

/** Serves the target for a while, with every page of the free list used, and checks it. */
async function work(world: FsckWorld): Promise<void> {
  const store = await world.target.open();
  for (let round = 0; round < 12; round++) {
    for (let count = 0; count < 10; count++) {
      const fid = createFile(store, `work ${round} ${count}`);
      if (count % 5 === 0) await store.data.write(fid, 0, Buffer.alloc(3000, count), { time: TEST_TIME });
    }
    await store.sync();
  }
  await store.markClean();
  await store.close();
  world.target.store = undefined;
  assert.deepEqual(world.lines(await world.fsck({ checksums: true })), []);
}

const zeros = (world: FsckWorld, page: number): void => world.poke(page * PAGE, Buffer.alloc(PAGE));

test('a root page that was lost: the transaction before is gone back to', async (t) => {
  const world = await used(t);
  const { last, before } = await metas(world);
  assert(last.main.root !== undefined);
  zeros(world, last.main.root);
  const found = await world.fsck();
  const lines = world.lines(found);
  assert.match(
    lines.at(-1) ?? '',
    /^page: the snapshot of transaction \d+ is whole; what a later one changed is lost/,
  );
  assert.deepEqual([found.repaired, found.repairable], [0, 2]);
  // The transaction that was lost wrote the clean mark.
  await assert.rejects(world.fsck({ repair: true }), { code: 'EBUSY' });
  const repaired = await world.fsck({ repair: true, force: true });
  assert.deepEqual([repaired.left, repaired.repaired, repaired.superblock?.clean], [0, 2, false]);
  assert.match(world.lines(repaired)[1] ?? '', /: gone back to$/);
  // One more than before: that snapshot is of a target that was served, and its redo log was applied.
  assert.equal((await metas(world)).last.transaction, before.transaction + 1);
  assert.deepEqual(world.lines(await world.fsck()), []);
  await work(world);
});

test('a meta page that was lost: the other one is gone on from', async (t) => {
  for (const which of ['last', 'before'] as const) {
    const world = await used(t);
    const both = await metas(world);
    const { last, before } = both;
    zeros(world, both[which].transaction % 2);
    const found = await world.fsck();
    assert.ok(found.repairable > 0, world.lines(found).join('\n'));
    const repaired = await world.fsck({ repair: true, force: true });
    assert.equal(repaired.left, 0, world.lines(repaired).join('\n'));
    const now = (await metas(world)).last.transaction;
    assert.equal(now, which === 'last' ? before.transaction + 1 : last.transaction);
    await work(world);
  }
});

test('a list of free pages that was lost is made anew from what is reached', async (t) => {
  const world = await used(t);
  const { last } = await metas(world);
  assert(last.free.root !== undefined);
  zeros(world, last.free.root);
  await assert.rejects(world.target.open(), { code: 'EIO', message: /is damaged: database page \d+/ });
  world.target.store = undefined;
  const found = await world.fsck();
  assert.match(world.lines(found).at(-1) ?? '', /^free-list: .*; what no record reaches is free$/);
  const repaired = await world.fsck({ repair: true });
  assert.deepEqual([repaired.left, repaired.repaired], [0, 1], world.lines(repaired).join('\n'));
  const after = (await metas(world)).last;
  assert.deepEqual([after.transaction, after.lastPage], [last.transaction, last.lastPage]);
  const freeRuns = world.peek((after.free.root ?? 0) * PAGE + PAGE + 24, 8).readUInt32LE(0);
  assert.ok(freeRuns > 0, 'something is listed');
  await work(world);
  // What was free is used: the database grows as one that lost nothing.
  const sound = await used(t);
  const soundBefore = (await metas(sound)).last.lastPage;
  await work(sound);
  const grown = (await metas(world)).last.lastPage - last.lastPage;
  const expected = (await metas(sound)).last.lastPage - soundBefore;
  assert.ok(grown <= expected + 16, `${grown} pages more, ${expected} without the damage`);
  t.diagnostic(`${grown} pages more, ${expected} without the damage`);
});

test('when both snapshots lost the same page, nothing is repaired', async (t) => {
  const world = await used(t);
  const { last, before } = await metas(world);
  for (const root of [last.main.root, before.main.root]) if (root !== undefined) zeros(world, root);
  const report = await world.fsck({ repair: true, force: true });
  assert.deepEqual([report.repaired, report.repairable], [0, 0]);
  assert.ok(report.left > 0);
});
