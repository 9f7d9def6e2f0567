/** WRITEs of a client that is evicted while they are on their way through the server. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Fid } from '../../../../src/base/ids.js';
import { Deferred } from '../../../../src/base/wait.js';
import { Write } from '../../../../src/wire/data.js';
import { Enqueue } from '../../../../src/wire/lock.js';
import { type RawClient, serverWorld } from '../../../worlds/server_world.js';

const BYTES = 64 << 10;

function write(client: RawClient, fid: Fid): Promise<unknown> {
  const request = { fid, offset: 0, mtime: { sec: 1, nsec: 0 }, grantUsed: 0 };
  return client.call(Write, request, { bulk: [Buffer.alloc(BYTES, 1)] });
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
  const { data } = target.store;
  const storeWrite = data.write.bind(data);
  const device = new Deferred<void>();
  data.write = async (...change) => {
    await device.promise;
    return storeWrite(...change);
  };
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
