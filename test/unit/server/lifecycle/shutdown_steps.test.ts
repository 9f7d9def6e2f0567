/** What happens between two steps of a controlled shutdown: clients that are just back, second requests, the end of a server. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { ROOT_FID } from '../../../../src/base/ids.js';
import type { Server, ServerOptions } from '../../../../src/server/server.js';
import { openTarget } from '../../../../src/storage/target.js';
import { Shutdown } from '../../../../src/wire/admin.js';
import { Sync } from '../../../../src/wire/data.js';
import { FLAG_RECOVERY } from '../../../../src/wire/header.js';
import { Replayed, ReplayLocks } from '../../../../src/wire/session.js';
import { type RawClient, type ServerWorld, serverWorld } from '../../../worlds/server_world.js';

const RECOVERY = { flags: FLAG_RECOVERY };

async function isClean(world: ServerWorld): Promise<boolean> {
  const store = await openTarget(world.runtime, world.target.devices);
  const { clean } = store.superblock;
  await store.close();
  return clean;
}

async function drain(client: RawClient): Promise<void> {
  await client.time.until(`${client.name} is called back`, () =>
    client.basts.some(({ type }) => type === 'active'),
  );
  client.basts.length = 0;
  await client.giveUpActive();
}

interface Returning {
  readonly world: ServerWorld;
  readonly server: Server;
  readonly client: RawClient;
}

/** The server was killed and is back; its one client has recovered, and does not have the active lock yet. */
async function returning(t: TestContext, options: Partial<ServerOptions> = {}): Promise<Returning> {
  const world = await serverWorld(t);
  await world.server();
  const client = await world.replaying('c');
  await client.call(Sync, {});
  world.hold();
  await client.create('answered');
  await world.crash();
  const server = await world.server(options);
  await client.connect({ hasMoreThanOpens: true });
  await client.replayAll();
  await client.recover();
  assert.equal(server.state, 'active');
  return { world, server, client };
}

test('a client that is just back from a crash is not drained before it had the active lock', async (t) => {
  const { world, server, client } = await returning(t);
  const result = server.shutdown();
  assert.deepEqual(
    server.status().clients.map(({ state }) => state),
    ['draining'],
  );
  await client.goOn();
  // What was not answered before the crash is sent again now.
  await client.create('sent again');
  await drain(client);
  assert.deepEqual([await result, server.status().evicted], ['clean', []]);
  await world.server({ softwareVersion: '2.0.0' });
  assert.equal((await client.connect()).outcome, 'recover');
  await client.recover();
  await client.goOn();
  const found = await Promise.all(['answered', 'sent again'].map((name) => client.lookup(name)));
  assert.ok(found.every(({ attr }) => attr !== undefined));
});

test('a client that is back from a crash and never asks for the active lock is evicted by the drain timeout', async (t) => {
  const { world, server, client } = await returning(t);
  assert.equal(await server.shutdown({ drainTimeoutMs: 50 }), 'clean');
  assert.match(client.evictions[0] ?? '', /did not drain within 50 ms/);
  await world.server({ softwareVersion: '2.0.0' });
  assert.equal((await client.connect()).outcome, 'evicted');
});

test('a client that did not hear of the end of its recovery goes through it again while the server drains', async (t) => {
  const { server, client } = await returning(t);
  // As if the answer to RECOVERY_DONE had not come: it names the instance before.
  client.instance = (client.instance ?? 0) - 1;
  const result = server.shutdown();
  await client.lose();
  assert.equal((await client.connect({ hasMoreThanOpens: true })).outcome, 'recover');
  await client.call(Replayed, {}, RECOVERY);
  await client.call(ReplayLocks, { locks: [] }, RECOVERY);
  await client.recover();
  await client.goOn();
  await drain(client);
  assert.deepEqual([await result, server.status().evicted], ['clean', []]);
});

test('a shutdown that waits for a client that is just back can be taken back', async (t) => {
  const { server, client } = await returning(t);
  const result = server.shutdown();
  assert.equal(server.cancelShutdown(), true);
  assert.deepEqual([await result, server.state], ['cancelled', 'active']);
  await client.goOn();
  await client.create('f');
  const second = server.shutdown();
  await drain(client);
  assert.equal(await second, 'clean');
});

test('after a clean stop a shutdown during recovery leaves the mark: there is nothing to replay', async (t) => {
  const world = await serverWorld(t);
  const first = await world.server();
  const [a, b] = [await world.replaying('a'), await world.replaying('b')];
  await a.create('f');
  const result = first.shutdown();
  await Promise.all([drain(a), drain(b)]);
  await result;
  const second = await world.server({ softwareVersion: '2.0.0' });
  await a.connect();
  assert.equal(await second.shutdown(), 'clean');
  const third = await world.server({ softwareVersion: '3.0.0' });
  const outcomes = [(await a.connect()).outcome, (await b.connect()).outcome];
  await Promise.all([a.recover(), b.recover()]);
  await Promise.all([a.goOn(), b.goOn()]);
  assert.deepEqual([outcomes, third.state, third.status().evicted], [['recover', 'recover'], 'active', []]);
  assert.ok((await b.lookup('f')).attr !== undefined);
});

test('of two shutdown requests the shorter drain timeout holds, whichever came first', async (t) => {
  for (const [first, second] of [
    [60_000, 40],
    [40, 60_000],
  ]) {
    const world = await serverWorld(t);
    const server = await world.server();
    const client = await world.connected('c');
    const admin = world.client('admin');
    await admin.connect({ role: 'admin' });
    const texts = [
      (await admin.call(Shutdown, { drainTimeoutMs: first })).text,
      (await admin.call(Shutdown, { drainTimeoutMs: second })).text,
      (await admin.call(Shutdown, {})).text,
    ];
    await server.closed;
    const joins = 'joins the shutdown that is under way already';
    assert.deepEqual(texts, ['shutting down', joins, joins]);
    assert.match(client.evictions[0] ?? '', /did not drain within 40 ms/);
    assert.equal(await isClean(world), true);
  }
});

test('an administrator who shuts down in the middle of a recovery is told that there is no mark', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  await (await world.replaying('c')).call(Sync, {});
  await world.crash();
  await world.server();
  const admin = world.client('admin');
  await admin.connect({ role: 'admin' });
  const { accepted, text } = await admin.call(Shutdown, {});
  assert.deepEqual([accepted, /without the clean mark.*only this version/.test(text)], [true, true]);
  await world.last.closed;
  assert.equal(await isClean(world), false);
});

for (const [step, marked] of [
  ['draining', false],
  ['committing', false],
  ['all clients are drained; commits', false],
  ['the clean mark is written', true],
] as const) {
  test(`a server that ends when it says "${step}" has ${marked ? 'left' : 'left no'} mark`, async (t) => {
    const world = await serverWorld(t);
    let ended: Promise<void> | undefined;
    const server = await world.server({
      onState: (text) => {
        if (text === step) ended = world.last.stop();
      },
    });
    const client = await world.replaying('c');
    await client.create('f', { parent: ROOT_FID });
    const result = server.shutdown().catch((error: unknown) => error);
    if (step !== 'draining') await drain(client);
    await result;
    assert.ok(ended !== undefined);
    await ended;
    assert.equal(await isClean(world), marked);
    await world.server();
    await client.comeBack();
    assert.ok((await client.lookup('f')).attr !== undefined);
  });
}

for (const step of ['the BAST', 'a part of its drain', 'the active lock was given back'] as const) {
  test(`a client that dies after ${step} is evicted alone, or not missed`, async (t) => {
    const world = await serverWorld(t);
    const server = await world.server();
    const [dying, good] = [await world.replaying('dying'), await world.replaying('good')];
    const result = server.shutdown({ drainTimeoutMs: 100 });
    await world.time.until('it is called back', () => dying.basts.some(({ type }) => type === 'active'));
    if (step === 'a part of its drain') await dying.create('flushed');
    if (step === 'the active lock was given back') await dying.giveUpActive();
    await dying.lose();
    await drain(good);
    assert.equal(await result, 'clean');
    const isMissed = step !== 'the active lock was given back';
    assert.deepEqual(
      server.status().evicted.map(({ name }) => name),
      isMissed ? ['dying'] : [],
    );
    const next = await world.server({ softwareVersion: '2.0.0', recoverySoftMs: 100 });
    assert.equal((await good.connect()).outcome, 'recover');
    // Whoever was drained is known to the next instance, and waited for.
    await good.recover();
    assert.deepEqual(
      next.status().evicted.map(({ name }) => name),
      isMissed ? [] : ['dying'],
    );
    await good.goOn();
  });
}
