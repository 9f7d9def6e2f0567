/** Devices that became larger: said while they are not used, and used after holdfast grow. */

import assert from 'node:assert/strict';
import { truncateSync } from 'node:fs';
import { test } from 'node:test';
import type { Fid } from '../../../src/base/ids.js';
import type { TargetStore, WriteGuard } from '../../../src/storage/api.js';
import { fsckTarget } from '../../../src/storage/fsck/fsck.js';
import { type Grown, growTarget } from '../../../src/storage/grow.js';
import { formatTarget } from '../../../src/storage/mkfs.js';
import { readSuperblock } from '../../../src/storage/target.js';
import { MemoryDevice } from '../../fixtures/memory_device.js';
import { createFile, MIB, TEST_TIME, TestTarget } from '../../fixtures/storage_target.js';

const GUARD: WriteGuard = {
  check: async () => undefined,
  lost: new Promise(() => {}),
} as unknown as WriteGuard;

/** Not a whole group of blocks: the last one ends with the device. */
const DATA_BYTES = 40 * MIB;
const META_BYTES = 16 * MIB;

function enlarge(target: TestTarget, metaBytes: number, dataBytes: number): void {
  const data = new MemoryDevice(dataBytes);
  data.content.set(target.devices.data.content);
  truncateSync(target.devices.metaPath, metaBytes);
  target.devices = { ...target.devices, metaSizeBytes: metaBytes, data };
}

function grow(target: TestTarget, force = false): Promise<Grown> {
  return growTarget(target.runtime, target.devices, { force, claim: async () => GUARD });
}

async function stop(target: TestTarget, store: TargetStore): Promise<void> {
  await store.markClean();
  await store.close();
  target.store = undefined;
}

async function untilFull(change: (index: number) => Promise<void>): Promise<number> {
  for (let count = 0; ; count++) {
    try {
      await change(count);
    } catch (thrown) {
      assert.equal((thrown as { code?: string }).code, 'ENOSPC');
      return count;
    }
  }
}

async function fullTarget(t: { after(fn: () => Promise<void>): void }): Promise<{
  readonly target: TestTarget;
  readonly files: readonly Fid[];
}> {
  const target = new TestTarget(META_BYTES, DATA_BYTES);
  t.after(() => target.end());
  await formatTarget(target.runtime, target.devices, { label: 'test', force: false, recordChecksums: false });
  const store = await target.open();
  const files: Fid[] = [];
  await untilFull(async (count) => {
    const fid = createFile(store, `data ${count}`);
    await store.data.write(fid, 0, Buffer.alloc(5000, count + 1), { time: TEST_TIME });
    files.push(fid);
    await store.data.allocate(fid, { offset: 0, length: MIB }, false, { time: TEST_TIME });
  });
  await untilFull(async (count) => {
    await store.room();
    createFile(store, `${'a long name '.repeat(18)} ${count}`);
  });
  assert.deepEqual(store.unusedBytes, { meta: 0, data: 0 });
  await stop(target, store);
  return { target, files };
}

test('a target that is full on both devices grows, and everything of it is there', async (t) => {
  const { target, files } = await fullTarget(t);
  const before = await readSuperblock(target.runtime, target.devices);
  enlarge(target, 2 * META_BYTES, 2 * DATA_BYTES + 1000);
  const grown = await grow(target);
  assert.deepEqual(
    [grown.meta, grown.data],
    [
      { beforeBytes: META_BYTES, bytes: 2 * META_BYTES },
      { beforeBytes: DATA_BYTES, bytes: 2 * DATA_BYTES },
    ],
  );
  const after = await readSuperblock(target.runtime, target.devices);
  const sizes = { metaSizeBytes: 2 * META_BYTES, dataSizeBytes: 2 * DATA_BYTES };
  assert.deepEqual(after, { ...before, ...sizes }, 'still a target that earlier releases read');
  assert.deepEqual((await fsckTarget(target.runtime, target.devices, { checksums: true })).findings, []);

  const store = await target.open();
  assert.deepEqual(store.unusedBytes, { meta: 0, data: 0 });
  for (const [at, fid] of files.entries()) {
    const [read] = await store.data.read(fid, 0, 5000);
    assert.ok(read && Buffer.from(read).equals(Buffer.alloc(5000, at + 1)), `file ${at}`);
  }
  const more = await untilFull(async (count) => {
    const fid = createFile(store, `more ${count}`);
    await store.data.allocate(fid, { offset: 0, length: MIB }, false, { time: TEST_TIME });
  });
  // As much as was added, with what was left of the last MiB and the header's place.
  assert.ok(more >= DATA_BYTES / MIB - 1, `${more} MiB more`);
  await stop(target, store);
  assert.deepEqual((await fsckTarget(target.runtime, target.devices, { checksums: true })).findings, []);
  assert.deepEqual((await grow(target)).data, { beforeBytes: 2 * DATA_BYTES, bytes: 2 * DATA_BYTES });
});

test('a larger device is said to be unused until the target grows', async (t) => {
  const target = new TestTarget(META_BYTES, DATA_BYTES);
  t.after(() => target.end());
  await formatTarget(target.runtime, target.devices, { label: 'test', force: false });
  enlarge(target, META_BYTES + MIB, DATA_BYTES + 5000);
  const store = await target.open();
  assert.deepEqual(store.unusedBytes, { meta: MIB, data: 4096 });
  await stop(target, store);
});

test('a target that was not stopped cleanly grows by force only, and stays unclean', async (t) => {
  const target = new TestTarget(META_BYTES, DATA_BYTES);
  t.after(() => target.end());
  await formatTarget(target.runtime, target.devices, { label: 'test', force: false });
  const store = await target.open();
  const fid = createFile(store, 'f');
  await store.data.write(fid, 0, Buffer.alloc(100_000, 5), { time: TEST_TIME });
  await store.sync();
  await store.close();
  enlarge(target, META_BYTES, 2 * DATA_BYTES);
  await assert.rejects(grow(target), { code: 'EBUSY', message: /not stopped cleanly.*--force/ });
  assert.equal((await readSuperblock(target.runtime, target.devices)).dataSizeBytes, DATA_BYTES);
  assert.equal((await grow(target, true)).data.bytes, 2 * DATA_BYTES);
  assert.equal((await readSuperblock(target.runtime, target.devices)).clean, false);
  const again = await target.open(undefined, '1.0.0', { recovering: true });
  assert.equal((await again.data.read(fid, 0, 100_000))[0]?.length, 100_000);
});

test('a grow that ends between its two writes is done again', async (t) => {
  const { target } = await fullTarget(t);
  enlarge(target, META_BYTES, 2 * DATA_BYTES);
  const { data } = target.devices;
  const flush = data.flush.bind(data);
  data.flush = async () => {
    await flush();
    throw new Error('killed');
  };
  await assert.rejects(grow(target), /killed/);
  data.flush = flush;
  assert.deepEqual((await fsckTarget(target.runtime, target.devices)).findings, []);
  assert.equal((await grow(target)).data.bytes, 2 * DATA_BYTES);
  assert.deepEqual((await fsckTarget(target.runtime, target.devices)).findings, []);
});
