import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { S_IFREG } from '../../src/base/attr.js';
import { type Fid, type Name, ROOT_FID } from '../../src/base/ids.js';
import type { Inode, TargetStore } from '../../src/storage/api.js';
import { openTarget } from '../../src/storage/target.js';
import { testTarget } from '../fixtures/storage_target.js';

const TIME = { sec: 5, nsec: 6 };

function newFile(fid: Fid): Inode {
  return {
    fid,
    mode: S_IFREG | 0o644,
    nlink: 1,
    uid: 0,
    gid: 0,
    rdev: 0,
    sizeBytes: 0,
    blocks: 0,
    atime: TIME,
    mtime: TIME,
    ctime: TIME,
    btime: TIME,
    parent: 0,
  };
}

function create(store: TargetStore, name: string): Fid {
  return store.execute((tx) => {
    const { start } = tx.allocateFids(1);
    tx.putInode(newFile(start));
    tx.putDirent(ROOT_FID, name as Name, start, S_IFREG);
    return start;
  }).result;
}

test('what was executed and synced is there after a crash, what was not is gone', async (t) => {
  const target = await testTarget(t);
  let store = await target.open({ commitIntervalMs: 1000 });
  const kept = create(store, 'kept');
  await store.data.write(kept, 0, Buffer.from('hello'), TIME);
  await store.sync();
  const lost = create(store, 'lost');
  assert.equal(store.dirent(ROOT_FID, 'lost' as Name)?.fid, lost);
  store = await target.crash();
  assert.deepEqual(
    store.dirents(ROOT_FID, 0, 10).map((entry) => entry.name),
    ['kept'],
  );
  assert.equal(Buffer.concat(await store.data.read(kept, 0, 100)).toString(), 'hello');
  assert.equal(store.superblock.clean, false);
  assert.equal(store.superblock.instance, 2);
});

test('opening changes nothing on the devices before begin', async (t) => {
  const target = await testTarget(t);
  const store = await target.open();
  create(store, 'a');
  await store.markClean();
  await store.close();
  const digest = (): string =>
    createHash('sha256')
      .update(readFileSync(target.devices.metaPath))
      .update(target.devices.data.content)
      .digest('hex');
  const before = digest();
  const again = await openTarget(target.runtime, target.devices);
  assert.equal(again.superblock.clean, true);
  assert.equal(again.dirents(ROOT_FID, 0, 10).length, 1);
  await again.close();
  assert.equal(digest(), before);
});
