/** CONNECT against a real server: facts that the table of outcomes takes as given must be those of the client that connects. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ROOT_FID } from '../../../../src/base/ids.js';
import { evict } from '../../../../src/server/target/eviction.js';
import { Getattr } from '../../../../src/wire/meta.js';
import type { ConnectRequest } from '../../../../src/wire/session.js';
import { serverWorld } from '../../../worlds/server_world.js';

test('an older connection of a client is refused, and the later one goes on', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  const client = await world.connected('c');
  const { instance } = client;
  const uuid = client.uuid as ConnectRequest['uuid'];
  // The second connection is number 2. What comes with number 1 or 2 was sent before it.
  assert.equal((await client.connect()).outcome, 'resumed');
  for (const connCount of [1, 2]) {
    for (const previousInstance of [undefined, instance, 0]) {
      const late = world.client('late').connect({ uuid, connCount, previousInstance });
      await assert.rejects(late, { code: 'EAGAIN' });
    }
  }
  assert.equal((await client.call(Getattr, { fid: ROOT_FID, want: 0 })).attr.fid, ROOT_FID);
  assert.deepEqual(
    [server.status().clients.map(({ name, state }) => [name, state]), client.closed],
    [[['c', 'connected']], false],
  );
});

test('a client that was evicted waits until its last write has ended, and is then told', async (t) => {
  const world = await serverWorld(t);
  const { target } = await world.server();
  const client = await world.connected('c');
  const exported = target?.exports.get(client.uuid as ConnectRequest['uuid']);
  assert.ok(target !== undefined && exported !== undefined);
  exported.writes.add();
  evict(target, exported, 'the test says so');
  const { instance } = client;
  for (const previousInstance of [instance, undefined]) {
    const { outcome, reason } = await client.connect({ previousInstance });
    assert.deepEqual([outcome, reason], ['wait', 'what is left of this client is being cleaned up']);
  }
  client.instance = instance;
  exported.writes.done();
  await world.time.until('nothing is left of it', () => target.leaving.size === 0);
  const told = await client.connect();
  assert.deepEqual([told.outcome, told.reason], ['evicted', 'the test says so']);
  assert.equal((await client.connect({ previousInstance: undefined })).outcome, 'new');
});

test('what a client calls itself is shown to administrators without what a terminal obeys', async (t) => {
  const world = await serverWorld(t, {});
  const server = await world.server();
  const name = 'web\x1b]0;pwn\x07\nholdfast: all is well\u202e';
  const client = world.client('web');
  await client.connect({ name, softwareVersion: '1.0\x9b2J' });
  const [shown] = server.status().clients;
  assert.deepEqual(
    [shown?.name, shown?.softwareVersion],
    ['web\ufffd]0;pwn\ufffd holdfast: all is well\ufffd', '1.0\ufffd2J'],
  );
});

test('a server that wants a lowest version refuses older clients with a line that names whom to upgrade', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server({ softwareVersion: '2.0.0', lowestPeer: '1.5.0' });
  const old = world.client('old');
  await assert.rejects(old.connect(), {
    code: 'EPROTO',
    message: 'CONNECT: server 2.0.0 takes no client below 1.5.0, and this one is 1.0.0; upgrade the client',
  });
  const good = world.client('good');
  good.softwareVersion = '1.5.0+0123456789ab';
  assert.equal((await good.connect()).outcome, 'new');
  assert.deepEqual(
    server.status().clients.map(({ name }) => name),
    ['good'],
  );
});
