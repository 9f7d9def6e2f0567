/** A target that cannot say what its orphans are is not served: neither after a start, nor after a recovery. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { FsError } from '../../../../src/base/errno.js';
import { createServer, type Server } from '../../../../src/server/server.js';
import type { TargetStore } from '../../../../src/storage/api.js';
import { openTarget } from '../../../../src/storage/target.js';
import { type RawClient, serverWorld } from '../../../worlds/server_world.js';

const DAMAGED = 'the page of the orphans is damaged';

function damageOrphans(store: TargetStore | undefined): void {
  assert.ok(store !== undefined);
  store.orphans = () => {
    throw new FsError('EIO', DAMAGED);
  };
}

/** A server that recovers: it waits for one client, which has replayed everything. */
async function recovering(t: TestContext): Promise<{ server: Server; known: RawClient }> {
  const world = await serverWorld(t);
  await world.server();
  const known = await world.replaying('known');
  await world.crash();
  const server = await world.server();
  await known.connect();
  await known.replayAll();
  return { server, known };
}

test('a server that cannot read its orphans when its recovery ends stops without the mark, and says why', async (t) => {
  const { server, known } = await recovering(t);
  const store = server.target?.store;
  damageOrphans(store);
  await known.recover();
  await known.time.until('it has stopped', () => server.state === 'stopped');
  assert.deepEqual([server.failure?.message, store?.superblock.clean], [DAMAGED, false]);
  await assert.rejects(server.shutdown(), { code: 'EIO' });
});

test('a server that cannot read its orphans when it starts does not start', async (t) => {
  const world = await serverWorld(t);
  const server = createServer(world.runtime, {
    listen: { host: 'memory', port: 1 },
    softwareVersion: '1.0.0',
  });
  const store = await openTarget(world.runtime, world.target.devices);
  damageOrphans(store);
  await assert.rejects(server.activate(store), new RegExp(DAMAGED));
  assert.equal(server.state, 'standby');
  await server.stop();
});
