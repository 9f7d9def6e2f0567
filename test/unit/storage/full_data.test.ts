/** A full data device: what a file has can be overwritten at any fill, and what it has is not charged again. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { FsError } from '../../../src/base/errno.js';
import { type Fid, ROOT_FID } from '../../../src/base/ids.js';
import type { TargetStore } from '../../../src/storage/api.js';
import { BLOCK_BYTES } from '../../../src/storage/format/block_map.js';
import { Fallocate, Write } from '../../../src/wire/data.js';
import {
  createFile,
  MIB,
  type TestTarget,
  TEST_TIME as TIME,
  testTarget,
} from '../../fixtures/storage_target.js';
import { serverWorld } from '../../worlds/server_world.js';

const WAL_BYTES = 2 * MIB;

function isNoSpace(thrown: unknown): boolean {
  assert.ok(thrown instanceof FsError && thrown.code === 'ENOSPC', String(thrown));
  return true;
}

/** Blocks of `fid`, one after the other, until there is no room. @returns the size it reached. */
async function fill(store: TargetStore, fid: Fid): Promise<number> {
  let size = 0;
  for (const step of [MIB, BLOCK_BYTES]) {
    try {
      for (; ; size += step) await store.data.write(fid, size, Buffer.alloc(step, 1), { time: TIME });
    } catch (thrown) {
      isNoSpace(thrown);
    }
  }
  await store.sync();
  return size;
}

/** A device on which nothing can be added, with a file of each kind. */
async function fullTarget(t: TestContext): Promise<{
  readonly target: TestTarget;
  readonly store: TargetStore;
  /** Allocated and never written. */
  readonly wal: Fid;
  readonly written: Fid;
  readonly filler: Fid;
}> {
  const target = await testTarget(t, { dataBytes: 16 * MIB });
  const store = await target.open();
  const [wal, written, filler] = ['wal', 'written', 'filler'].map((name) => createFile(store, name)) as [
    Fid,
    Fid,
    Fid,
  ];
  await store.data.allocate(wal, { offset: 0, length: WAL_BYTES }, false, { time: TIME });
  await store.data.write(written, 0, Buffer.alloc(WAL_BYTES, 2), { time: TIME });
  await fill(store, filler);
  await assert.rejects(
    async () => store.data.write(wal, WAL_BYTES, Buffer.alloc(BLOCK_BYTES), { time: TIME }),
    isNoSpace,
  );
  return { target, store, wal, written, filler };
}

async function contentOf(store: TargetStore, fid: Fid): Promise<Buffer> {
  return Buffer.concat(await store.data.read(fid, 0, 1 << 30));
}

function needBytes(content: Buffer, byte: number, what: string): void {
  const at = content.findIndex((found) => found !== byte);
  assert.equal(at, -1, `${what}: byte ${at} is ${content[at]}`);
}

test('a full device takes an overwrite of any length, and of what is allocated, across a restart', async (t) => {
  const { target, store, wal, written } = await fullTarget(t);
  await store.data.write(written, 100, Buffer.alloc(100, 3), { time: TIME });
  for (const [round, fid] of [wal, written, wal, written].entries()) {
    const executed = await store.data.write(fid, 0, Buffer.alloc(WAL_BYTES, 10 + round), { time: TIME });
    assert.equal(executed.result.blocks, (WAL_BYTES / BLOCK_BYTES) * 8);
  }
  await assert.rejects(
    async () => store.data.write(written, WAL_BYTES, Buffer.alloc(BLOCK_BYTES), { time: TIME }),
    isNoSpace,
  );
  const again = await target.reopen();
  needBytes(await contentOf(again, wal), 12, 'wal');
  needBytes(await contentOf(again, written), 13, 'written');
});

test('a full device takes small overwrites from many at once, and truncates between them', async (t) => {
  const { store, written, filler, wal } = await fullTarget(t);
  const work: MaybeDone[] = [];
  for (let index = 0; index < 400; index++) {
    const fid = index % 2 === 0 ? written : wal;
    const offset = ((index * 7919) % (WAL_BYTES / 512)) * 512;
    work.push(store.data.write(fid, offset, Buffer.alloc(512 + (index % 5) * 4096, 2), { time: TIME }));
    if (index % 40 === 0) work.push(store.data.write(fid, 0, Buffer.alloc(MIB, 2), { time: TIME }));
  }
  const { sizeBytes } = store.inode(filler) ?? { sizeBytes: 0 };
  work.push(store.data.truncate(filler, sizeBytes - 100, { time: TIME }));
  for (const done of await Promise.allSettled(work.map(async (one) => one))) {
    assert.equal(done.status, 'fulfilled', String(done.status === 'rejected' && done.reason));
  }
  needBytes(await contentOf(store, written), 2, 'written');
});
type MaybeDone = ReturnType<TargetStore['data']['write']>;

test('a full device takes fallocate of what is there, with each mode, and gives room back', async (t) => {
  const { store, wal, written, filler } = await fullTarget(t);
  const blocks = (WAL_BYTES / BLOCK_BYTES) * 8;
  for (const fid of [wal, written]) {
    for (const keepSize of [false, true])
      await store.data.allocate(fid, { offset: 0, length: WAL_BYTES }, keepSize, { time: TIME });
    await store.data.clear(fid, { offset: 5000, length: MIB }, 'zero', false, { time: TIME });
    await store.data.clear(fid, { offset: 0, length: WAL_BYTES }, 'zero', true, { time: TIME });
    assert.equal(store.inode(fid)?.blocks, blocks);
    needBytes(await contentOf(store, fid), 0, 'zeroed');
    await store.data.write(fid, 0, Buffer.alloc(WAL_BYTES, 7), { time: TIME });
    await store.data.clear(fid, { offset: 5000, length: 9000 }, 'punch', true, { time: TIME });
    await fill(store, filler);
    await assert.rejects(
      async () => store.data.write(fid, 8192, Buffer.alloc(BLOCK_BYTES), { time: TIME }),
      isNoSpace,
    );
    await store.data.truncate(fid, 4097, { time: TIME });
    await fill(store, filler);
    await store.data.write(fid, 0, Buffer.alloc(4097, 8), { time: TIME });
    needBytes(await contentOf(store, fid), 8, 'overwritten');
  }
});

test('a crash inside an overwrite of a full device leaves each block as before or after it', async (t) => {
  const { target, store, written } = await fullTarget(t);
  let done = false;
  const writing = Promise.resolve(
    store.data.write(written, 0, Buffer.alloc(WAL_BYTES, 9), { time: TIME }),
  ).then(
    () => undefined,
    () => undefined,
  );
  void writing.then(() => {
    done = true;
  });
  const before = store.lastCommitted;
  while (store.lastCommitted < before + 4) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(done, false);
  const again = await target.crash((index) => index % 2 === 0);
  const content = await contentOf(again, written);
  assert.equal(content.length, WAL_BYTES);
  const seam = content.indexOf(2);
  assert.ok(seam > 0 && seam % BLOCK_BYTES === 0, `seam at ${seam}`);
  needBytes(content.subarray(0, seam), 9, 'written');
  needBytes(content.subarray(seam), 2, 'not written');
  await again.data.write(written, 0, Buffer.alloc(WAL_BYTES, 4), { time: TIME });
  needBytes(await contentOf(again, written), 4, 'written again');
});

test('what must not be missed is in each transaction of a long overwrite, the record only in the last', async (t) => {
  const { store, written } = await fullTarget(t);
  const seen: boolean[] = [];
  await store.data.write(written, 0, Buffer.alloc(MIB, 9), {
    time: TIME,
    within: (_tx, _inode, isLast) => {
      seen.push(isLast);
    },
  });
  assert.ok(seen.length > 1);
  assert.deepEqual(seen, [...seen.slice(1).map(() => false), true]);
});

test('the server charges an overwrite of a full device nothing, though the rest is promised', async (t) => {
  const world = await serverWorld(t, { dataBytes: 16 * MIB });
  await world.server();
  const client = await world.connected();
  const { fid } = (await client.create('wal')).attr;
  await client.create('filler');
  const mtime = { sec: 1, nsec: 0 };
  const overwrite = (offset: number, length: number): Promise<unknown> =>
    client.call(Write, { fid, offset, mtime, grantUsed: 0 }, { bulk: [Buffer.alloc(length, 5)] });
  await client.call(Fallocate, { fid, mode: 0, offset: 0, length: WAL_BYTES });
  const store = world.last.target?.store as TargetStore;
  const filler = store.dirent(ROOT_FID, 'filler' as never)?.fid as Fid;
  await fill(store, filler);
  for (let offset = 0; offset < WAL_BYTES; offset += MIB) await overwrite(offset, MIB);
  for (let offset = 0; offset < WAL_BYTES; offset += MIB) await overwrite(offset + 77, 100_000);
  for (const mode of [0, 1, 16, 17])
    await client.call(Fallocate, { fid, mode, offset: 3, length: WAL_BYTES - 3 });
  await assert.rejects(overwrite(WAL_BYTES, 4096), { code: 'ENOSPC' });
  await assert.rejects(client.call(Fallocate, { fid, mode: 1, offset: WAL_BYTES, length: 4096 }), {
    code: 'ENOSPC',
  });
});

test('a full metadata device takes overwrites of what is there', async (t) => {
  const target = await testTarget(t, { metaBytes: 16 * MIB, dataBytes: 16 * MIB });
  const store = await target.open();
  const [written, small] = [createFile(store, 'written'), createFile(store, 'small')];
  await store.data.write(written, 0, Buffer.alloc(WAL_BYTES, 2), { time: TIME });
  await store.data.write(small, 0, Buffer.alloc(3000, 2), { time: TIME });
  await assert.rejects(async () => {
    for (let index = 0; ; index++) {
      for (let wait = store.room(); wait !== undefined; wait = store.room()) await wait;
      store.execute((tx) => tx.putXattr(small, `user.${index}`, Buffer.alloc(8000)));
    }
  }, isNoSpace);
  for (let index = 0; index < 300; index++) {
    for (let wait = store.room(); wait !== undefined; wait = store.room()) await wait;
    const offset = (index * 7919 * 512) % (WAL_BYTES - 10_000);
    await store.data.write(written, offset, Buffer.alloc(512 + (index % 3) * 4096, 3), { time: TIME });
    await store.data.write(small, index, Buffer.alloc(100, 3), { time: TIME });
  }
  await assert.rejects(async () => {
    for (let index = 0; index < 100; index++) createFile(store, `more${index}`);
  }, isNoSpace);
  await store.sync();
});
