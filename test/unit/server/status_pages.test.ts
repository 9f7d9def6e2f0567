import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connectionsMax } from '../../../src/cli/descriptors.js';
import { readStatus } from '../../../src/cli/server_status.js';
import { Requester } from '../../../src/rpc/requester.js';
import type { Runtime } from '../../../src/runtime/ports.js';
import { LOCAL } from '../../../src/server/access/rights.js';
import { ClientExport } from '../../../src/server/export/export.js';
import { Status } from '../../../src/wire/admin.js';
import { BODY_MAX } from '../../../src/wire/header.js';
import { encode } from '../../../src/wire/schema.js';
import type { ConnectRequest } from '../../../src/wire/session.js';
import { type ServerWorld, serverWorld } from '../../worlds/server_world.js';

const CLIENTS = 10_000;

/** Exports as CONNECT makes them, without the connections. */
function addClients(world: ServerWorld, runtime: Runtime): void {
  const { target } = world.last;
  assert.ok(target !== undefined);
  for (let n = 0; n < CLIENTS; n += 1) {
    // Not in the order of their numbers.
    const digits = ((n * 7919) % CLIENTS).toString(16).padStart(8, '0');
    const uuid = `${digits}-0000-4000-8000-000000000000` as ConnectRequest['uuid'];
    const identity = { uuid, name: `host${n}.example.org:/home/projects/${n}`, softwareVersion: '1.0.0' };
    target.exports.add(
      new ClientExport(
        identity,
        LOCAL,
        new Requester(),
        runtime.clock.nowMs(),
        target.kept.of('local'),
        target.life,
      ),
    );
  }
}

test('the status of 10,000 clients comes in pages, each client once; who asks for no page gets what fits', async (t) => {
  const world = await serverWorld(t, {});
  await world.server();
  addClients(world, world.runtime);
  const admin = world.client('admin');
  await admin.connect({ role: 'admin' });
  const whole = await admin.call(Status, {});
  const summary = await admin.call(Status, { limit: 0 });
  const all = await readStatus(admin.requester);
  const uuids = new Set(all.clients.map(({ uuid }) => uuid));
  assert.deepEqual([summary.clients.length, summary.clientCount], [0, CLIENTS]);
  assert.deepEqual([all.clients.length, uuids.size, all.state], [CLIENTS, CLIENTS, 'active']);
  assert.ok(encode(Status.reply, whole).length <= BODY_MAX && whole.clients.length > 1000);
  assert.deepEqual([whole.clientCount, whole.more], [CLIENTS, undefined]);
});

test('a few clients are on one page, in the order in which they came, and a client that leaves ends no paging', async (t) => {
  const world = await serverWorld(t, {});
  await world.server();
  for (const name of ['zoe', 'ann', 'bob', 'eve']) await world.connected(name);
  const admin = world.client('admin');
  await admin.connect({ role: 'admin' });
  const names = async (pageClients?: number): Promise<string[]> =>
    (await readStatus(admin.requester, pageClients)).clients.map(({ name }) => name);
  assert.deepEqual(await names(), ['zoe', 'ann', 'bob', 'eve']);
  addClients(world, world.runtime);
  const first = await admin.call(Status, { limit: 5000 });
  world.last.evict(first.clients.at(-1)?.name ?? '', 'test');
  const rest = await readStatus({ call: admin.requester.call.bind(admin.requester) }, 3000);
  const second = await admin.call(Status, { after: first.more, limit: 6000 });
  assert.equal(rest.clients.length, CLIENTS + 3);
  assert.ok(
    first.clients.length > 1000 &&
      second.clients.every(({ uuid }) => uuid > (first.clients.at(-1)?.uuid ?? '')),
  );
});

test('connections are limited by the descriptors, less those that are kept', () => {
  const limits = 'Max open files            1024                 4096                 files     \n';
  assert.deepEqual([connectionsMax(limits), connectionsMax('')], [896, Number.POSITIVE_INFINITY]);
});
