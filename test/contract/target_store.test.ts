/** The store on real block devices: what a regular file for lmdb cannot show. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { closeSync, openSync, readdirSync, readSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { FsError } from '../../src/base/errno.js';
import { type Fid, ROOT_FID } from '../../src/base/ids.js';
import { type NodeBlockDevice, openBlockDevice, resolveDevice } from '../../src/runtime/node_block.js';
import type { TargetDevices } from '../../src/storage/api.js';
import { formatTarget } from '../../src/storage/mkfs.js';
import { openTarget } from '../../src/storage/target.js';
import { makeDevices, makeFolder } from '../fixtures/devices.js';
import { createFile, MIB, TEST_TIME, testRuntime } from '../fixtures/storage_target.js';

const skip = process.getuid?.() === 0 ? false : 'needs root';
const runtime = testRuntime();

interface Devices extends TargetDevices {
  readonly meta: NodeBlockDevice;
  readonly data: NodeBlockDevice;
}

async function loopDevices(t: TestContext, metaBytes: number, dataBytes: number): Promise<Devices> {
  const folder = makeFolder();
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const files = makeDevices(folder, '', metaBytes, dataBytes);
  const open = async (file: string): Promise<NodeBlockDevice> => {
    const resolved = await resolveDevice(file);
    const device = await openBlockDevice(resolved.path, { exclusive: true });
    t.after(async () => {
      await device.close();
      await resolved.release();
    });
    return device;
  };
  const meta = await open(files.meta);
  const data = await open(files.data);
  return { meta, data, metaPath: meta.path, metaSizeBytes: meta.sizeBytes, runtimeDir: join(folder, 'run') };
}

function digest(devices: Devices): string {
  const hash = createHash('sha256');
  for (const path of [devices.metaPath, devices.data.path]) {
    const file = openSync(path, 'r');
    const chunk = Buffer.alloc(MIB);
    for (let at = 0, bytes = 1; bytes > 0; at += bytes) {
      bytes = readSync(file, chunk, 0, chunk.length, at);
      hash.update(chunk.subarray(0, bytes));
    }
    closeSync(file);
  }
  return hash.digest('hex');
}

test('a target on block devices is formatted, served, left clean and opened without a change', {
  skip,
}, async (t) => {
  // Not a multiple of anything that lmdb likes.
  const devices = await loopDevices(t, 17 * MIB, 33 * MIB);
  await formatTarget(runtime, devices, { label: 'loop', force: false });
  const store = await openTarget(runtime, devices);
  await store.begin('1.0.0');
  const fid = createFile(store, 'f');
  await store.data.write(fid, 100, Buffer.alloc(3 * MIB, 5), { time: TEST_TIME });
  await store.markClean();
  await store.close();
  assert.deepEqual(readdirSync(devices.runtimeDir), []);
  const before = digest(devices);
  const again = await openTarget(runtime, devices);
  assert.deepEqual(
    {
      label: again.superblock.label,
      clean: again.superblock.clean,
      version: again.superblock.softwareVersion,
      size: again.inode(fid)?.sizeBytes,
      content: Buffer.concat(await again.data.read(fid, 99, 10)),
    },
    {
      label: 'loop',
      clean: true,
      version: '1.0.0',
      size: 3 * MIB + 100,
      content: Buffer.from([0, 5, 5, 5, 5, 5, 5, 5, 5, 5]),
    },
  );
  await again.close();
  assert.equal(digest(devices), before);
});

test('a meta device is filled to ENOSPC, emptied and filled again, and no commit meets its end', {
  skip,
}, async (t) => {
  const devices = await loopDevices(t, 16 * MIB, 16 * MIB);
  await formatTarget(runtime, devices, { label: 'full', force: false });
  const store = await openTarget(runtime, devices);
  await store.begin('1.0.0');
  let failure: Error | undefined;
  void store.failed.then((cause) => {
    failure = cause;
  });
  let made = 0;
  const fill = async (): Promise<number> => {
    for (let count = 0; ; count++) {
      for (let wait = store.room(); wait !== undefined; wait = store.room()) await wait;
      try {
        const fid = createFile(store, `${made++}-${'n'.repeat(made % 200)}`);
        await store.data.write(fid, 0, Buffer.alloc((made * 997) % 4000), { time: TEST_TIME });
      } catch (thrown) {
        assert.ok(thrown instanceof FsError && thrown.code === 'ENOSPC', String(thrown));
        return count;
      }
      if (count % 20 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const counts: number[] = [];
  for (let round = 0; round < 3; round++) {
    counts.push(await fill());
    await store.sync();
    // Every third one first: pages get emptier without coming free.
    const entries = store.dirents(ROOT_FID, 0, 1_000_000);
    const remove = async ({
      name,
      fid,
    }: {
      readonly name: (typeof entries)[number]['name'];
      readonly fid: Fid;
    }): Promise<void> => {
      for (let wait = store.room(); wait !== undefined; wait = store.room()) await wait;
      store.execute(
        (tx) => {
          tx.removeDirent(ROOT_FID, name);
          tx.destroyInode(fid);
        },
        { reserve: true },
      );
    };
    for (const rest of [0, 1, 2]) {
      for (const entry of entries.filter((_, index) => index % 3 === rest)) await remove(entry);
    }
    await store.sync();
    assert.equal(store.directoryEmpty(ROOT_FID), true);
  }
  assert.equal(failure, undefined);
  const [first = 0] = counts;
  assert.ok(
    first > 1000 && counts.every((count) => count > 0.8 * first),
    `files in each round: ${counts.join(' ')}`,
  );
  await store.markClean();
  await store.close();
});
