/**
 * A full metadata device is served, upgraded, mounted and emptied: what the server changes for itself needs no user's space.
 * The device is full of the pages that lmdb takes, so these worlds have lmdb, and with it real time.
 */

import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { FsError } from '../../../src/base/errno.js';
import { type Fid, type Name, ROOT_FID } from '../../../src/base/ids.js';
import { createServer } from '../../../src/server/server.js';
import type { Tx } from '../../../src/storage/api.js';
import { openTarget } from '../../../src/storage/target.js';
import { Sync, Write } from '../../../src/wire/data.js';
import { Setattr, Unlink } from '../../../src/wire/meta.js';
import { createFile, MIB, TEST_TIME } from '../../fixtures/storage_target.js';
import { type ServerWorld, serverWorld } from '../../worlds/server_world.js';

const META_BYTES = 16 * MIB;
const FULL = { meta: 'lmdb', metaBytes: META_BYTES, dataBytes: 64 * MIB } as const;

/** Files of random sizes until ENOSPC, then more until nothing is left of what is kept back for deletes. */
async function fillToTheEnd(world: ServerWorld): Promise<void> {
  const store = await world.target.open();
  let seed = 1;
  const random = (below: number): number => {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    return Math.floor((seed / 2 ** 31) * below);
  };
  let made = 0;
  let last = 0 as Fid;
  const full = async (step: () => Promise<unknown>): Promise<void> => {
    for (let refused = 0; refused < 3; ) {
      for (let wait = store.room(); wait !== undefined; wait = store.room()) await wait;
      try {
        await step();
      } catch (thrown) {
        assert.ok(thrown instanceof FsError && thrown.code === 'ENOSPC', String(thrown));
        refused += 1;
        await store.sync();
      }
    }
  };
  await full(async () => {
    for (let count = 0; count < 8; count++) {
      last = createFile(store, `${made++}-${'n'.repeat(random(200))}`);
      await store.data.write(last, 0, Buffer.alloc(random(4000), 1), { time: TEST_TIME });
    }
  });
  // 300 pages, which is more than what is kept back for deletes.
  for (let more = 0; more < 150; more++) {
    for (let wait = store.room(); wait !== undefined; wait = store.room()) await wait;
    store.execute((tx: Tx) => tx.putXattr(last, `user.${more}`, Buffer.alloc(8000)), { reserve: 'own' });
  }
  await store.markClean();
  await store.close();
}

async function removeAll(world: ServerWorld): Promise<void> {
  const client = await world.connected();
  const entries = world.last.target?.store.dirents(ROOT_FID, 0, 1_000_000) ?? [];
  assert.ok(entries.length > 500, `${entries.length} files`);
  for (let at = 0; at < entries.length; at += 16) {
    const batch = entries.slice(at, at + 16);
    await Promise.all(
      batch.map(({ name }) => client.call(Unlink, { parent: ROOT_FID, name, directory: false })),
    );
  }
  await client.call(Sync, {});
}

async function isUsable(world: ServerWorld): Promise<void> {
  const client = await world.connected('after');
  const { fid } = (await client.create('after')).attr;
  await client.call(
    Write,
    { fid, offset: 0, mtime: { sec: 1, nsec: 0 }, grantUsed: 0 },
    { bulk: [Buffer.alloc(3000, 'a')] },
  );
  await client.call(Sync, {});
  assert.equal(world.last.failure, undefined);
  assert.ok(
    statSync(world.target.devices.metaPath).size <= META_BYTES,
    'no commit went past the end of the device',
  );
}

async function fullWorld(t: TestContext): Promise<ServerWorld> {
  const world = await serverWorld(t, FULL);
  await fillToTheEnd(world);
  return world;
}

test('a target that is full to the end of its reserve is served, emptied by a new client and used again', async (t) => {
  const world = await fullWorld(t);
  await world.server();
  await removeAll(world);
  await isUsable(world);
});

test('an eviction is recorded on a target where users have no room', async (t) => {
  const world = await fullWorld(t);
  const server = await world.server();
  for (const name of ['a', 'b']) {
    await world.connected(name);
    server.evict(name, 'test');
  }
  await server.shutdown();
  const next = await world.server();
  assert.deepEqual(
    next.status().evictedBefore?.map(({ name }) => name),
    ['a', 'b'],
  );
});

test('mode, owner and times change on a target where users have no room', async (t) => {
  const world = await fullWorld(t);
  await world.server();
  const client = await world.connected();
  const [entry] = world.last.target?.store.dirents(ROOT_FID, 0, 1) ?? [];
  assert.ok(entry !== undefined);
  const { attr } = await client.call(Setattr, {
    fid: entry.fid,
    mode: 0o600,
    uid: 7,
    atime: { sec: 3, nsec: 0 },
  });
  assert.deepEqual([attr.mode & 0o777, attr.uid, attr.atime.sec], [0o600, 7, 3]);
});

test('a file of many steps is punched and cut on a target where users have no room', async (t) => {
  const world = await serverWorld(t, FULL);
  const windows = 400;
  const made = await world.target.open();
  const fids = ['punched', 'cut'].map((name) => createFile(made, name));
  for (const fid of fids) {
    for (let at = 0; at < windows; at++) {
      await made.data.write(fid, at * MIB, Buffer.alloc(4096, 1), { time: TEST_TIME });
    }
  }
  await made.markClean();
  await made.close();
  await fillToTheEnd(world);
  const store = await world.target.open();
  const [punched = 0 as Fid, cut = 0 as Fid] = fids;
  await store.data.clear(punched, { offset: 0, length: windows * MIB }, 'punch', true, { time: TEST_TIME });
  await store.data.truncate(cut, 0, { time: TEST_TIME });
  assert.deepEqual(
    fids.map((fid) => store.inode(fid)?.blocks),
    [0, 0],
  );
});

test('a full target is served by another version, crashes, evicts, shuts down and starts again', async (t) => {
  const world = await fullWorld(t);
  await world.server({ softwareVersion: '2.0.0' });
  const stays = await world.replaying('stays');
  await stays.call(Sync, {});
  await world.crash();
  const again = await world.server({ softwareVersion: '2.0.0', recoverySoftMs: 1, recoveryHardMs: 1 });
  await world.time.until('the window is over', () => again.state === 'active');
  const evicted = await world.connected('evicted');
  const opened = (world.last.target?.store.dirents(ROOT_FID, 0, 1) ?? [])[0];
  assert.ok(opened !== undefined);
  await evicted.call(Unlink, { parent: ROOT_FID, name: opened.name as Name, directory: false });
  again.evict('evicted', 'the test says so');
  assert.equal(await again.shutdown({ drainTimeoutMs: 1 }), 'clean');
  await world.server({ softwareVersion: '3.0.0', forceStart: true });
  await removeAll(world);
  await isUsable(world);
});

test('a start that fails after it has written puts version and clean mark back', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  await world.last.shutdown({ drainTimeoutMs: 1 });
  const failing = createServer(world.runtime, {
    listen: { host: 'memory', port: 1 },
    softwareVersion: '2.0.0',
  });
  const store = await openTarget(world.runtime, world.target.devices);
  store.orphans = () => {
    throw new FsError('EIO', 'the device fails');
  };
  await assert.rejects(failing.activate(store), { code: 'EIO' });
  const next = await openTarget(world.runtime, world.target.devices);
  const { softwareVersion, clean } = next.superblock;
  await next.close();
  assert.deepEqual({ softwareVersion, clean }, { softwareVersion: '1.0.0', clean: true });
  await world.server({ softwareVersion: '3.0.0' });
});
