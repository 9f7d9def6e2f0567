/** Checksums of records: their bytes, what they find, and how targets of earlier releases get them. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Fid } from '../../../../src/base/ids.js';
import { fidKey, fidNumberKey, KEY } from '../../../../src/storage/format/keys.js';
import { fsckTarget } from '../../../../src/storage/fsck/fsck.js';
import { metaMedium } from '../../../../src/storage/meta/lmdb_store.js';
import { ChecksummedDatabase, recordName } from '../../../../src/storage/meta/record_checksums.js';
import type { MetaDatabase } from '../../../../src/storage/meta_medium.js';
import { formatTarget } from '../../../../src/storage/mkfs.js';
import { readSuperblock } from '../../../../src/storage/target.js';
import { tableChecksum } from '../../../fixtures/memory_device.js';
import { createFile, MIB, TEST_TIME, TestTarget } from '../../../fixtures/storage_target.js';

const FID = 18 as Fid;

/** A database of a few records in memory. */
function memory(): MetaDatabase & { readonly records: Map<string, Buffer> } {
  const records = new Map<string, Buffer>();
  return {
    records,
    get: (key) => {
      const value = records.get(key.toString('latin1'));
      return value === undefined ? undefined : Buffer.from(value);
    },
    prefetch: () => undefined,
    range: (start, end) =>
      [...records]
        .map(([key, value]) => ({ key: Buffer.from(key, 'latin1'), value: Buffer.from(value) }))
        .filter(({ key }) => Buffer.compare(start, key) <= 0 && Buffer.compare(key, end) < 0),
    commit: async (write) =>
      write({
        put: (key, value) => records.set(key.toString('latin1'), Buffer.from(value)),
        remove: (key) => records.delete(key.toString('latin1')),
      }),
    carriesBytes: 0,
    use: () => ({ usedPages: 0, lastPage: 0, lastRecords: 0, waitingRecords: 0, waitingBytes: 0 }),
    close: async () => undefined,
  };
}

const key = fidKey(KEY.inode, FID);

test('the bytes of a value with its checksum, small and large', async () => {
  const raw = memory();
  const db = new ChecksummedDatabase(raw, tableChecksum, { write: true, required: true });
  const large = Buffer.alloc(600, 7);
  large[0] = 1;
  await db.commit((writer) => {
    writer.put(key, Buffer.from('01616263', 'hex'));
    writer.put(fidKey(KEY.xattr, FID), large);
  });
  const stored = [...raw.records.values()];
  assert.deepEqual(
    [
      stored[0]?.toString('hex'),
      stored[1]?.subarray(0, 2).toString('hex'),
      stored[1]?.subarray(600).toString('hex'),
    ],
    ['8161626366f98699', '8107', '5d9ca38c'],
  );
  assert.deepEqual(db.get(key)?.toString('hex'), '01616263');
  assert.deepEqual(db.get(fidKey(KEY.xattr, FID)), large);
});

test('a value that was changed, or lies under another key, is an error that names the record', async () => {
  const raw = memory();
  const db = new ChecksummedDatabase(raw, tableChecksum, { write: true, required: true });
  await db.commit((writer) => writer.put(key, Buffer.from('01616263', 'hex')));
  const sound = raw.records.get(key.toString('latin1')) ?? assert.fail();
  const other = fidKey(KEY.inode, 19 as Fid);
  raw.records.set(other.toString('latin1'), sound);
  assert.throws(() => db.get(other), {
    code: 'EIO',
    message: 'damaged record on the meta device: inode of fid 19 does not match its checksum',
  });
  for (let bit = 0; bit < 8 * sound.length; bit++) {
    const changed = Buffer.from(sound);
    changed[bit >>> 3] = (changed[bit >>> 3] ?? 0) ^ (1 << (bit & 7));
    raw.records.set(key.toString('latin1'), changed);
    assert.throws(() => db.get(key), { code: 'EIO' }, `bit ${bit}`);
    assert.throws(() => [...db.range(key, fidKey(KEY.inode, 19 as Fid))], { code: 'EIO' }, `bit ${bit}`);
  }
  const lenient = new ChecksummedDatabase(raw, tableChecksum, { write: true, required: true, lenient: true });
  assert.equal(lenient.get(key)?.length, 0);
  assert.equal(recordName(fidNumberKey(KEY.blockMap, FID, 3)), 'block map 3 of fid 18');
});

test('records without a checksum are read until all have one', async () => {
  const raw = memory();
  const plain = Buffer.from('01616263', 'hex');
  raw.records.set(key.toString('latin1'), plain);
  assert.deepEqual(
    new ChecksummedDatabase(raw, tableChecksum, { write: true, required: false }).get(key),
    plain,
  );
  const strict = new ChecksummedDatabase(raw, tableChecksum, { write: true, required: true });
  assert.throws(() => strict.get(key), { code: 'EIO', message: /inode of fid 18 has no checksum$/ });
});

/** A target as an earlier release made it, with a few hundred files. */
async function earlier(t: { after(fn: () => Promise<void>): void }): Promise<{
  readonly target: TestTarget;
  readonly fids: readonly Fid[];
}> {
  const target = new TestTarget(16 * MIB, 64 * MIB);
  t.after(() => target.end());
  const { runtime, devices } = target;
  await formatTarget(runtime, devices, { label: 'test', force: false, recordChecksums: false });
  const store = await target.open();
  const fids = Array.from({ length: 300 }, (_, at) => createFile(store, `file ${at}`));
  for (const [at, fid] of fids.entries()) {
    await store.data.write(fid, 0, Buffer.alloc(at % 2 === 0 ? 100 : 10_000, at), { time: TEST_TIME });
  }
  await store.markClean();
  await store.close();
  target.store = undefined;
  return { target, fids };
}

test('a target of an earlier release gets checksums when it is asked for, and goes on after an interruption', async (t) => {
  const { target, fids } = await earlier(t);
  const { runtime, devices } = target;
  const features = async (): Promise<number> => (await readSuperblock(runtime, devices)).featuresIncompat;
  assert.equal((await fsckTarget(runtime, devices, { repair: true })).left, 0);
  assert.equal(await features(), 0, 'nobody asked for it');

  // The third transaction fails: the process is gone.
  const medium = metaMedium(devices);
  const dying = {
    ...devices,
    metaMedium: {
      ...medium,
      open: (): MetaDatabase => {
        const db = medium.open();
        let commits = 0;
        return {
          get: (of) => db.get(of),
          prefetch: () => undefined,
          range: (start, end, limit) => db.range(start, end, limit),
          carriesBytes: 0,
          use: () => db.use(),
          close: () => db.close(),
          commit: async (write) => {
            if (++commits === 3) throw new Error('killed');
            await db.commit(write);
          },
        };
      },
    },
  };
  await assert.rejects(fsckTarget(runtime, dying, { repair: true, addChecksums: true }), /killed/);
  assert.equal(await features(), 1);
  assert.equal((await fsckTarget(runtime, devices)).left, 0, 'sound in between');
  const between = await target.open();
  assert.equal((await between.data.read(fids[1] ?? assert.fail(), 0, 20_000))[0]?.length, 10_000);
  await between.markClean();
  await between.close();

  const report = await fsckTarget(runtime, devices, { repair: true, addChecksums: true });
  assert.ok((report.checksumsAdded ?? 0) > 300, `${report.checksumsAdded}`);
  assert.deepEqual([report.left, report.checksumsLackRoom, await features()], [0, undefined, 3]);
  assert.equal((await fsckTarget(runtime, devices, { repair: true, addChecksums: true })).checksumsAdded, 0);
  const store = await target.open();
  for (const [at, fid] of fids.entries()) {
    const [read] = await store.data.read(fid, 0, 20_000);
    assert.deepEqual(read && Buffer.from(read), Buffer.alloc(at % 2 === 0 ? 100 : 10_000, at));
    assert.notEqual(store.inode(fid)?.digest, undefined);
  }
});
