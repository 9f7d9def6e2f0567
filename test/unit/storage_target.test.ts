import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { type Name, ROOT_FID } from '../../src/base/ids.js';
import { openTarget } from '../../src/storage/target.js';
import { createFile, TEST_TIME, testTarget } from '../fixtures/storage_target.js';

const TIME = TEST_TIME;

test('what was executed and synced is there after a crash, what was not is gone', async (t) => {
  const target = await testTarget(t);
  let store = await target.open({ commitIntervalMs: 1000 });
  const kept = createFile(store, 'kept');
  await store.data.write(kept, 0, Buffer.from('hello'), TIME);
  await store.sync();
  const lost = createFile(store, 'lost');
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
  createFile(store, 'a');
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
