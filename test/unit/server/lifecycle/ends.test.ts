/** Requests that come at an odd moment of a server's life: in the middle of a start, right behind one another, after its end. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { FsError } from '../../../../src/base/errno.js';
import { ROOT_FID } from '../../../../src/base/ids.js';
import { createServer, type Server } from '../../../../src/server/server.js';
import type { TargetStore } from '../../../../src/storage/api.js';
import { openTarget } from '../../../../src/storage/target.js';
import { Write } from '../../../../src/wire/data.js';
import { type RawClient, type ServerWorld, serverWorld } from '../../../worlds/server_world.js';

const LISTEN = { host: 'memory', port: 1 };

interface Standby {
  readonly world: ServerWorld;
  readonly server: Server;
  readonly store: TargetStore;
  /** How often the store was closed. */
  closes(): number;
}

/** A server in standby, and the target that it is about to serve. */
async function standby(t: TestContext): Promise<Standby> {
  const world = await serverWorld(t);
  return { world, ...(await another(world)) };
}

async function another(world: ServerWorld): Promise<Omit<Standby, 'world'>> {
  const onState = (text: string): void => void world.said.push(text);
  const server = createServer(world.runtime, { listen: LISTEN, softwareVersion: '1.0.0', onState });
  await server.listen();
  const store = await openTarget(world.runtime, world.target.devices);
  let closes = 0;
  const close = store.close.bind(store);
  store.close = () => {
    closes += 1;
    return close();
  };
  return { server, store, closes: () => closes };
}

/** What the target says of the last instance. */
async function lastInstance(world: ServerWorld): Promise<{ instance: number; clean: boolean }> {
  const store = await openTarget(world.runtime, world.target.devices);
  const { instance, clean } = store.superblock;
  await store.close();
  return { instance, clean };
}

async function drain(client: RawClient): Promise<void> {
  await client.time.until(`${client.name} is called back`, () =>
    client.basts.some(({ type }) => type === 'active'),
  );
  client.basts.length = 0;
  await client.giveUpActive();
}

test('a server that is stopped while it starts stays stopped, and closes its store once', async (t) => {
  const { world, server, store, closes } = await standby(t);
  const activated = server.activate(store).catch((error: unknown) => error);
  const stopped = server.stop();
  await Promise.all([activated, stopped, server.closed]);
  assert.deepEqual([server.state, world.said.at(-1), closes()], ['stopped', 'stopped', 1]);
});

test('a shutdown that is asked for while the server starts follows the start, and leaves the mark', async (t) => {
  const { world, server, store } = await standby(t);
  const activated = server.activate(store);
  const result = server.shutdown();
  await activated;
  assert.deepEqual([await result, server.state], ['clean', 'stopped']);
  assert.deepEqual(await lastInstance(world), { instance: 1, clean: true });
});

test('a shutdown that is asked for while the server starts may be taken back', async (t) => {
  const { server, store } = await standby(t);
  const activated = server.activate(store);
  const result = server.shutdown();
  assert.equal(server.cancelShutdown(), true);
  await activated;
  assert.deepEqual([await result, server.state], ['cancelled', 'active']);
  await server.stop();
});

test('a server that was stopped takes no target any more, and changes nothing of it', async (t) => {
  const { world, server, store, closes } = await standby(t);
  await server.stop();
  await assert.rejects(server.activate(store), { code: 'ESHUTDOWN' });
  assert.deepEqual([server.state, closes()], ['stopped', 1]);
  assert.equal((await lastInstance(world)).instance, 0);
});

test('a shutdown without clients is taken back when the answer says so', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  const result = server.shutdown();
  assert.equal(server.cancelShutdown(), true);
  assert.deepEqual([await result, server.state], ['cancelled', 'active']);
  // The lock that it had for a moment is free again.
  const client = await world.connected('c');
  await client.create('f');
});

test('a shutdown right behind one that was taken back is a new one', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  const client = await world.connected('c');
  const first = server.shutdown();
  assert.equal(server.cancelShutdown(), true);
  const second = server.shutdown();
  assert.equal(await first, 'cancelled');
  await drain(client);
  assert.equal(await second, 'clean');
});

test('whoever stops a server twice has its store closed once', async (t) => {
  const { server, store, closes } = await standby(t);
  await server.activate(store);
  await Promise.all([server.stop(), server.stop()]);
  assert.deepEqual([server.state, closes()], ['stopped', 1]);
});

test('a server that is stopped when the mark is there closes its store once, and says that it ended clean', async (t) => {
  const { world, server, store, closes } = await standby(t);
  await server.activate(store);
  world.said.push = (...texts) => {
    if (texts.includes('the clean mark is written')) void server.stop();
    return texts.length;
  };
  assert.deepEqual([await server.shutdown(), closes()], ['clean', 1]);
});

test('a shutdown of a server that was stopped without the mark does not say that it ended clean', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  const stopped = server.stop();
  await assert.rejects(server.shutdown(), { code: 'ECANCELED' });
  await stopped;
  await assert.rejects(server.shutdown(), { code: 'ECANCELED' });
  assert.equal((await lastInstance(world)).clean, false);
});

test('a shutdown of a server whose target has failed says why', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  const client = await world.connected('c');
  const { fid } = (await client.create('f', { parent: ROOT_FID })).attr;
  const bulk = [Buffer.alloc(1 << 20, 'x')];
  await client.call(Write, { fid, offset: 0, mtime: { sec: 1, nsec: 0 }, grantUsed: 0 }, { bulk });
  world.target.devices.data.failing = new FsError('EIO', 'the disk is gone');
  await assert.rejects(async () => server.target?.store.sync(), { code: 'EIO' });
  await server.closed;
  world.target.devices.data.failing = undefined;
  assert.match(server.failure?.message ?? '', /the disk is gone/);
  await assert.rejects(server.shutdown(), /the disk is gone/);
});

test('a server that is stopped while it begins to listen keeps no port', async (t) => {
  const world = await serverWorld(t);
  const server = createServer(world.runtime, { listen: LISTEN, softwareVersion: '1.0.0' });
  const listens = server.listen().catch((error: unknown) => error);
  await server.stop();
  const refused = await listens;
  assert.ok(refused instanceof FsError && refused.code === 'ESHUTDOWN');
  const next = await another(world);
  await next.store.close();
  await next.server.stop();
});
