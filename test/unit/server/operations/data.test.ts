/** WRITEs on their way through the server: of a client that is evicted meanwhile, and of one that was promised space. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Fid } from '../../../../src/base/ids.js';
import { Deferred } from '../../../../src/base/wait.js';
import type { ServedTarget } from '../../../../src/server/target/served_target.js';
import { Fallocate, Sync, Write } from '../../../../src/wire/data.js';
import { Enqueue } from '../../../../src/wire/lock.js';
import { type RawClient, serverWorld } from '../../../worlds/server_world.js';

const BYTES = 64 << 10;

function write(client: RawClient, fid: Fid, grantUsed = 0): Promise<unknown> {
  const request = { fid, offset: 0, mtime: { sec: 1, nsec: 0 }, grantUsed };
  return client.call(Write, request, { bulk: [Buffer.alloc(BYTES, 1)] });
}

/** Writes to the store wait until this is resolved. */
function stalled({ store: { data } }: ServedTarget): Deferred<void> {
  const write = data.write.bind(data);
  const device = new Deferred<void>();
  data.write = async (...change) => {
    await device.promise;
    return write(...change);
  };
  return device;
}

test('a WRITE that waits for room when its client is evicted is not executed', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  const a = await world.connected('a');
  const { fid } = (await a.create('f')).attr;
  await a.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  const store = server.target?.store;
  assert.ok(store !== undefined);
  const room = new Deferred<void>();
  // As on a meta device that is nearly full: the first look finds no room before a commit.
  store.room = () => {
    store.room = () => undefined;
    return room.promise;
  };
  a.locksContent = false;
  void write(a, fid).catch(() => undefined);
  await world.time.until('the WRITE waits', () => (server.target?.modifying.count ?? 0) > 0);
  server.evict('a', 'the test wants it');
  // Its lock is still there: the eviction is not durable yet.
  room.resolve();
  await world.time.until('the WRITE has ended', () => server.target?.modifying.count === 0);
  assert.equal(store.inode(fid)?.sizeBytes, 0);
  for (const table of server.checked()) table.checkInvariants();
});

test('the last WRITE of a client that is evicted is promised nothing', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  const a = await world.connected('a');
  const { fid } = (await a.create('f')).attr;
  await a.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  const { target } = server;
  assert.ok(target !== undefined);
  const device = stalled(target);
  const [client] = target.exports;
  a.locksContent = false;
  void write(a, fid).catch(() => undefined);
  await world.time.until('the store works on it', () => client?.writes.count === 1);
  server.evict('a', 'the test wants it');
  device.resolve();
  await world.time.until('everything of the client is gone', () => target.leaving.size === 0);
  assert.equal(target.grants.promisedBytes, 0);
  for (const table of server.checked()) table.checkInvariants();
});

test('a WRITE that was paid and has not got its blocks yet finds them, whatever others ask for meanwhile', async (t) => {
  const world = await serverWorld(t, { dataBytes: 64 << 20 });
  const server = await world.server();
  const { target } = server;
  assert.ok(target !== undefined);
  const [a, b] = [await world.connected('a'), await world.connected('b')];
  const { fid } = (await a.create('f')).attr;
  await a.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  const other = (await b.create('g')).attr.fid;
  const device = stalled(target);
  const [client] = target.exports;
  const left = target.store.availableBytes() - target.grants.promisedBytes;
  const written = write(a, fid, BYTES);
  await world.time.until('the store works on it', () => client?.writes.count === 1);
  // All that is left, and the bytes that were paid: they are neither promised nor used at this moment.
  const request = { fid: other, mode: 0, offset: 0, length: left + BYTES };
  const allocated = b.call(Fallocate, request).then(
    () => 'no error',
    (error: { readonly code?: string }) => error.code,
  );
  await world.time.sleep(100);
  for (const table of server.checked()) table.checkInvariants();
  device.resolve();
  await world.time.within('the WRITE', written);
  assert.equal(await world.time.within('the FALLOCATE', allocated), 'ENOSPC');
  assert.equal(target.store.inode(fid)?.sizeBytes, BYTES);
});

test('SYNC covers the WRITEs that its client has sent before it, also those that wait for the device', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  const [a, b] = [await world.connected('a'), await world.connected('b')];
  const { fid } = (await a.create('f')).attr;
  await a.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  assert.ok(server.target !== undefined);
  const device = stalled(server.target);
  a.locksContent = false;
  const written = write(a, fid);
  let synced = false;
  const sync = a.call(Sync, {}).then(() => {
    synced = true;
  });
  await b.call(Sync, {});
  assert.equal(synced, false, "the SYNC of another client does not wait for a's WRITE");
  device.resolve();
  await Promise.all([written, sync]);
  await world.crash();
  const store = await world.target.open();
  assert.equal(store.inode(fid)?.sizeBytes, BYTES);
  await store.close();
});
