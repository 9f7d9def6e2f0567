/** Whom a server evicted is kept on the target: the servers that come after it say it. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { wallMs } from '../../../src/runtime/ports.js';
import type { Server } from '../../../src/server/server.js';
import { EVICTIONS_KEPT } from '../../../src/storage/api.js';
import { evictionKey } from '../../../src/storage/format/keys.js';
import { DrainProgress, type EarlierEvictionMessage } from '../../../src/wire/admin.js';
import { Disconnect } from '../../../src/wire/session.js';
import { CLIENT, fsckWorld } from '../../worlds/fsck_world.js';
import { type RawClient, type ServerWorld, serverWorld } from '../../worlds/server_world.js';

function before(server: Server): readonly EarlierEvictionMessage[] {
  return server.status().evictedBefore ?? [];
}
/** Name, instance, and what is known of what it had. */
function shown(server: Server): unknown[] {
  return before(server).map(({ name, instance, had }) => [name, instance, had?.opens, had?.dirtyBytes]);
}
async function drained(client: RawClient): Promise<void> {
  await client.time.until('it is called back', () => client.basts.some(({ type }) => type === 'active'));
  await client.giveUpActive();
}
/** Two clients, the second of which does not drain: it has a file open and says how much is not written. */
async function upgraded(t: TestContext): Promise<{ world: ServerWorld; next: Server; a: RawClient }> {
  const world = await serverWorld(t);
  const server = await world.server();
  const [a, b] = [await world.connected('a'), await world.connected('b')];
  await b.create('f', { fh: b.newFh(), flags: 2 });
  const result = server.shutdown({ drainTimeoutMs: 50 });
  b.requester.notify(DrainProgress, { dirtyBytes: 77, rpcsInFlight: 0, locks: 1 });
  await drained(a);
  assert.deepEqual([await result, before(server)], ['clean', []]);
  return { world, next: await world.server({ softwareVersion: '2.0.0' }), a };
}

test('the next server shows whom the one before it evicted, when, why, and what it had', async (t) => {
  const { world, next } = await upgraded(t);
  const [one] = before(next);
  assert.deepEqual([shown(next), next.status().evicted], [[['b', 1, 1, 77]], []]);
  assert.match(one?.reason ?? '', /did not drain within 50 ms/);
  assert.ok(Math.abs((one?.atMs ?? 0) - wallMs(world.time.clock)) < 60_000, `${one?.atMs}`);
});

test('a crash keeps what is known of evictions, and adds those of clients that did not come back', async (t) => {
  const { world, next, a } = await upgraded(t);
  await a.connect();
  await a.recover();
  await a.goOn();
  await a.create('g');
  assert.equal(next.state, 'active');
  await world.crash();
  const third = await world.server({ softwareVersion: '2.0.0', recoverySoftMs: 50 });
  await world.time.until('nobody is waited for', () => third.state === 'active');
  assert.deepEqual(
    [shown(third), third.status().evicted.map(({ name }) => name)],
    [[['b', 1, 1, 77]], ['a']],
  );
  await third.target?.store.sync();
  await world.crash();
  const fourth = await world.server({ softwareVersion: '2.0.0' });
  assert.deepEqual(shown(fourth), [
    ['b', 1, 1, 77],
    ['a', 3, undefined, undefined],
  ]);
});

test('a forced start that is killed at once has recorded whom it evicted', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  await world.connected('a');
  await world.crash();
  const forced = await world.server({ softwareVersion: '2.0.0', forceStart: true });
  assert.deepEqual([shown(forced), forced.status().evicted.length], [[], 1]);
  world.hold();
  await world.crash();
  const next = await world.server({ softwareVersion: '2.0.0' });
  assert.deepEqual(shown(next), [['a', 2, undefined, undefined]]);
  assert.match(before(next)[0]?.reason ?? '', /forced the start of version 2\.0\.0/);
});

test('the newest evictions are kept, a goodbye is none', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  const last = EVICTIONS_KEPT + 5;
  for (let n = 1; n <= last; n++) {
    const client = await world.connected(`c${n}`);
    server.evict(client.name, 'test');
  }
  assert.equal(await server.shutdown(), 'clean');
  const names = Array.from({ length: EVICTIONS_KEPT }, (_, at) => `c${at + last - EVICTIONS_KEPT + 1}`);
  const next = await world.server();
  assert.deepEqual(
    before(next).map(({ name }) => name),
    names,
  );
  await (await world.connected('more')).call(Disconnect, {});
  assert.equal(await next.shutdown(), 'clean');
  const third = await world.server();
  assert.deepEqual(
    before(third).map(({ name }) => name),
    names,
  );
});

test('of damaged records of evictions each is missing alone, and the target is served', async (t) => {
  const world = await fsckWorld(t);
  const store = await world.target.open();
  const eviction = { uuid: CLIENT, reason: 'test', instance: 1, atMs: 5, had: undefined };
  for (const name of ['a', 'b', 'c']) store.execute((tx) => tx.putEviction({ ...eviction, name }));
  await store.markClean();
  await store.close();
  await world.damage((writer) => writer.put(evictionKey(2), Buffer.from([1, 2])));
  const next = await world.target.open();
  next.execute((tx) => tx.putEviction({ ...eviction, name: 'd' }));
  assert.deepEqual(
    next.evictions().map(({ name, number }) => [name, number]),
    [
      ['a', 1],
      ['c', 3],
      ['d', 4],
    ],
  );
});
