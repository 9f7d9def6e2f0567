import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { FsError } from '../../../../src/base/errno.js';
import { type Fid, ROOT_FID } from '../../../../src/base/ids.js';
import { createServer, type Server, type ServerOptions } from '../../../../src/server/server.js';
import { openTarget } from '../../../../src/storage/target.js';
import { DrainProgress, Shutdown, Status } from '../../../../src/wire/admin.js';
import { Read, Write } from '../../../../src/wire/data.js';
import { FLAG_RECOVERY } from '../../../../src/wire/header.js';
import { Enqueue } from '../../../../src/wire/lock.js';
import { Close, Getattr, Unlink } from '../../../../src/wire/meta.js';
import { nameOf, type RawClient, type ServerWorld, serverWorld } from '../../../worlds/server_world.js';

interface Started {
  readonly world: ServerWorld;
  readonly server: Server;
  readonly a: RawClient;
  readonly b: RawClient;
}
async function twoClients(t: TestContext, options: Partial<ServerOptions> = {}): Promise<Started> {
  const world = await serverWorld(t);
  const server = await world.server(options);
  return { world, server, a: await world.connected('a'), b: await world.connected('b') };
}
async function isClean(world: ServerWorld): Promise<boolean> {
  const store = await openTarget(world.runtime, world.target.devices);
  const { clean } = store.superblock;
  await store.close();
  return clean;
}
function states(server: Server): Record<string, string> {
  return Object.fromEntries(server.status().clients.map((client) => [client.name, client.state]));
}
async function drained(...clients: RawClient[]): Promise<void> {
  for (const client of clients) {
    await client.time.until(`${client.name} is called back`, () =>
      client.basts.some((bast) => bast.type === 'active'),
    );
    await client.giveUpActive();
  }
}
const unlinkF = { parent: ROOT_FID, name: nameOf('f'), directory: false };
const flock = {
  kind: 'posix',
  owner: '00000000000000aa',
  pid: 1,
  exclusive: true,
  start: 0,
  end: 10,
} as const;

test('a controlled shutdown waits for every client, then leaves the mark; clients come back with their opens', async (t) => {
  const { world, server, a, b } = await twoClients(t);
  const fh = a.newFh();
  const { fid } = (await a.create('f', { fh, flags: 2 })).attr;
  await a.call(Unlink, unlinkF);
  const result = server.shutdown();
  assert.equal(server.state, 'draining');
  await world.time.until('b is called back', () => b.basts.length === 1);
  b.requester.notify(DrainProgress, { dirtyBytes: 77, rpcsInFlight: 1, locks: 2 });
  await b.giveUpActive();
  assert.deepEqual(states(server), { a: 'draining', b: 'drained' });
  assert.equal(server.status().clients.find((client) => client.name === 'b')?.dirtyBytes, 77);
  // One that is not drained still works.
  await a.call(
    Write,
    { fid, offset: 0, mtime: { sec: 1, nsec: 0 }, grantUsed: 0 },
    { bulk: [Buffer.from('late')] },
  );
  await a.giveUpActive();
  assert.deepEqual([await result, server.state, a.evictions, b.evictions], ['clean', 'stopped', [], []]);
  assert.equal(await isClean(world), true);

  const next = await world.server({ softwareVersion: '2.0.0' });
  assert.deepEqual([next.state, states(next)], ['recovering', { a: 'recovering', b: 'recovering' }]);
  const reply = await a.connect();
  assert.deepEqual([reply.outcome, reply.softwareVersion, reply.instance], ['recover', '2.0.0', 2]);
  const aDone = a.recover([{ fid, fh, flags: 2 }]);
  // b does not know yet that a is through; nothing new is executed before it is done itself.
  await b.connect();
  await b.recover();
  assert.deepEqual([await aDone, next.state], [[], 'active']);
  await a.activate();
  const { bulk } = await a.answer(Read, { fid, offset: 0, length: 10 });
  assert.deepEqual([Buffer.from(bulk).toString(), next.status().orphans], ['late', 1]);
  await a.call(Close, { fhs: [fh] });
  assert.equal(next.status().orphans, 0);
});

test('a client that does not drain in time is evicted, alone, and the shutdown goes on', async (t) => {
  const { world, server, a, b } = await twoClients(t);
  const result = server.shutdown({ drainTimeoutMs: 50 });
  await drained(a);
  assert.equal(await result, 'clean');
  assert.match(b.evictions[0] ?? '', /did not drain within 50 ms/);
  const next = await world.server({ softwareVersion: '2.0.0' });
  assert.deepEqual(states(next), { a: 'recovering' });
  assert.equal((await b.connect()).outcome, 'evicted');
  assert.equal((await a.connect()).outcome, 'recover');
  await a.recover();
  b.instance = undefined;
  assert.equal((await b.connect()).outcome, 'new');
});

test('who asked for the shutdown is told at its end who was evicted, and meanwhile how long is left', async (t) => {
  const { world, a } = await twoClients(t);
  const admin = world.client('admin');
  await admin.connect({ role: 'admin' });
  await admin.call(Shutdown, { drainTimeoutMs: 500 }, { connectionOnly: true });
  const { drainLeftMs = -1 } = await admin.call(Status, {}, { connectionOnly: true });
  assert.ok(drainLeftMs > 0 && drainLeftMs <= 500, `${drainLeftMs} ms`);
  await drained(a);
  const end = await world.time.until('the end is told', () => admin.shutdownEnd);
  assert.deepEqual([end.evictedCount, end.evicted.map(({ name }) => name)], [1, ['b']]);
  assert.match(end.evicted[0]?.reason ?? '', /did not drain within 500 ms/);
});

test('a client without a connection does not hold the shutdown up beyond its limit', async (t) => {
  const { server, a, b } = await twoClients(t);
  await b.lose();
  const result = server.shutdown({ drainTimeoutMs: 50 });
  await drained(a);
  assert.deepEqual([await result, server.status().evicted.map((one) => one.name)], ['clean', ['b']]);
});

test('a client that lost its connection while draining comes back and finishes', async (t) => {
  const { server, a, b } = await twoClients(t);
  const result = server.shutdown();
  await drained(a);
  await b.lose();
  b.basts.length = 0;
  assert.equal((await b.connect()).outcome, 'resumed');
  await drained(b);
  assert.deepEqual([await result, server.status().evicted], ['clean', []]);
});

test('a shutdown can be taken back until the last client is drained', async (t) => {
  const { world, server, a, b } = await twoClients(t);
  const result = server.shutdown();
  await drained(a);
  const again = a.activate();
  const progressOfB = (): unknown => server.status().clients.find(({ name }) => name === 'b')?.dirtyBytes;
  b.requester.notify(DrainProgress, { dirtyBytes: 77, rpcsInFlight: 5, locks: 1 });
  await world.time.until('its progress is known', () => progressOfB() === 77);
  assert.equal(server.cancelShutdown(), true);
  assert.deepEqual([await result, server.state, progressOfB()], ['cancelled', 'active', 0]);
  await again;
  await b.create('f');
  assert.equal(server.cancelShutdown(), false);
  const second = server.shutdown();
  assert.equal(server.shutdown(), second);
  await drained(a);
  b.basts.length = 0;
  await world.time.until('b holds it still', () => states(server).b === 'draining');
  await b.giveUpActive();
  assert.deepEqual([await second, await isClean(world)], ['clean', true]);
});

test('the port is free for a standby before anything is committed', async (t) => {
  const world = await serverWorld(t);
  const seen: [string, boolean][] = [];
  const server = await world.server({ onState: (text) => seen.push([text, world.listens]) });
  assert.equal(await server.shutdown(), 'clean');
  assert.deepEqual(
    seen.filter(([text]) => text !== 'starting' && text !== 'active'),
    [
      ['draining', true],
      ['committing', false],
      ['all clients are drained; commits', false],
      ['the clean mark is written', false],
      ['stopped', false],
    ],
  );
});

test('who connects during a shutdown is told to wait, and a drained client has nothing executed', async (t) => {
  const { world, server, a, b } = await twoClients(t);
  const result = server.shutdown();
  await world.time.until('both are called back', () => a.basts.length + b.basts.length === 2);
  const late = world.client('late');
  const reply = await late.connect();
  assert.deepEqual([reply.outcome, reply.reason], ['wait', 'the server is shutting down']);
  await a.giveUpActive();
  const parked = a.create('parked', { parent: ROOT_FID });
  parked.catch(() => undefined);
  await b.giveUpActive();
  await result;
  await world.server();
  await a.connect();
  const recovering = a.recover();
  await b.connect();
  await b.recover();
  await recovering;
  assert.equal((await b.lookup('parked')).attr, undefined);
});

test('an administrator sees the progress and shuts down over the wire', async (t) => {
  const { world, server, a, b } = await twoClients(t);
  const admin = world.client('admin');
  await admin.connect({ role: 'admin' });
  assert.deepEqual(
    (await admin.call(Status, {})).clients.map((client) => client.state),
    ['connected', 'connected'],
  );
  const { accepted } = await admin.call(Shutdown, {});
  assert.deepEqual([accepted, (await admin.call(Status, {})).state], [true, 'draining']);
  assert.equal((await admin.call(Shutdown, { cancel: true })).accepted, true);
  await world.time.until('it is active again', () => server.state === 'active');
  await admin.call(Shutdown, {});
  await drained(a, b);
  await server.closed;
  await world.time.until('the connection ends', () => admin.closed);
});

test('new requests wait until the last known client has recovered', async (t) => {
  const { world, server, a, b } = await twoClients(t);
  const { fid } = (await a.create('f')).attr;
  await b.call(Enqueue, { type: 'flock', fid, mode: 'EX', flock, wait: false });
  const result = server.shutdown();
  await drained(a, b);
  await result;
  const next = await world.server({ softwareVersion: '2.0.0' });
  const late = world.client('late');
  assert.equal((await late.connect()).outcome, 'new');
  let answered = false;
  const waiting = late.activate().then(() => {
    answered = true;
  });
  await a.connect();
  // a replays a lock that conflicts with one that b has not replayed yet: it waited before and waits now.
  const replay = { type: 'flock', fid, mode: 'EX', wait: true, sequence: 9 } as const;
  const aFlock = { ...flock, owner: '00000000000000bb' };
  assert.equal(
    (await a.call(Enqueue, { ...replay, flock: aFlock }, { flags: FLAG_RECOVERY })).granted,
    false,
  );
  const aDone = a.recover();
  await b.connect();
  await b.call(Enqueue, { ...replay, flock, sequence: 1 }, { flags: FLAG_RECOVERY });
  assert.deepEqual([answered, next.state], [false, 'recovering']);
  await b.recover();
  await Promise.all([aDone, waiting]);
  assert.deepEqual([next.state, a.casts], ['active', []]);
});

test('a client that does not come back is evicted alone at the soft limit, with the orphans it kept', async (t) => {
  const { world, server, a, b } = await twoClients(t);
  const { fid } = (await b.create('f', { fh: b.newFh(), flags: 2 })).attr;
  await b.call(Unlink, unlinkF);
  const result = server.shutdown();
  await drained(a, b);
  await result;
  const next = await world.server({ recoverySoftMs: 60 });
  await a.connect();
  await a.recover();
  assert.deepEqual([next.state, next.status().evicted.map((one) => one.name)], ['active', ['b']]);
  assert.equal(await a.errno(Getattr, { fid, want: 0 }), 'ESTALE');
  const reply = await b.connect();
  assert.deepEqual([reply.outcome, /did not come back/.test(reply.reason ?? '')], ['evicted', true]);
});

test('a client that comes but does not finish is evicted at the hard limit', async (t) => {
  const { world, server, a, b } = await twoClients(t);
  const result = server.shutdown();
  await drained(a, b);
  await result;
  const next = await world.server({ recoverySoftMs: 30, recoveryHardMs: 90 });
  await b.connect();
  await a.connect();
  await a.recover();
  assert.deepEqual([next.state, next.status().evicted.map((one) => one.name)], ['active', ['b']]);
});

test('the end of a recovery may be lost: the client says it once more', async (t) => {
  const { world, server, a, b } = await twoClients(t);
  const fh = a.newFh();
  const { fid } = (await a.create('f', { fh, flags: 2 })).attr;
  const result = server.shutdown();
  await drained(a, b);
  await result;
  const next = await world.server();
  await a.connect();
  const lost = a.recover([{ fid, fh, flags: 2 }]);
  lost.catch(() => undefined);
  await world.time.until('a is done', () => next.target?.exports.size === 1);
  await a.lose();
  assert.equal((await a.connect()).outcome, 'recover');
  const again = a.recover([{ fid, fh, flags: 2 }]);
  await b.connect();
  await b.recover();
  assert.deepEqual([await again, next.status().clients.find((one) => one.name === 'a')?.opens], [[], 1]);
});

test('a client with more to replay than opens is evicted', async (t) => {
  const { world, server, a, b } = await twoClients(t);
  const result = server.shutdown();
  await drained(a, b);
  await result;
  await world.server({ softwareVersion: '2.0.0' });
  const reply = await a.connect({ hasMoreThanOpens: true });
  assert.equal(reply.outcome, 'evicted');
  await b.connect();
  await b.recover();
});

test('a shutdown in the middle of a recovery keeps the clients that are still away', async (t) => {
  const { world, server, a, b } = await twoClients(t);
  const result = server.shutdown();
  await drained(a, b);
  await result;
  const next = await world.server();
  await a.connect();
  assert.equal(await next.shutdown(), 'clean');
  const third = await world.server();
  assert.deepEqual(states(third), { a: 'recovering', b: 'recovering' });
});

test('a handle whose inode is gone is named as lost', async (t) => {
  const { world, server, a, b } = await twoClients(t);
  const result = server.shutdown();
  await drained(a, b);
  await result;
  await world.server();
  await b.connect();
  const bDone = b.recover();
  await a.connect();
  const fh = a.newFh();
  assert.deepEqual(await a.recover([{ fid: 999_999 as Fid, fh, flags: 0 }]), [fh]);
  await bDone;
});

test('a standby answers "not active yet", then serves', async (t) => {
  const world = await serverWorld(t);
  const options = { listen: { host: 'memory', port: 1 }, softwareVersion: '1.0.0' };
  const server = createServer(world.runtime, options);
  await server.listen();
  const admin = world.client('admin');
  await admin.connect({ role: 'admin' });
  const client = world.client('c');
  const reply = await client.connect();
  assert.deepEqual([reply.outcome, (await admin.call(Status, {})).state], ['wait', 'standby']);
  assert.match(reply.reason ?? '', /not active yet/);
  await server.activate(await openTarget(world.runtime, world.target.devices));
  assert.equal((await client.connect()).outcome, 'new');
  await server.stop();
});

test('a server stopped hard in the middle of a shutdown leaves no mark', async (t) => {
  const { world, server, a } = await twoClients(t);
  const result = server.shutdown();
  await drained(a);
  await server.stop();
  await assert.rejects(result, { code: 'ECANCELED' });
  assert.deepEqual([server.state, server.failure, await isClean(world)], ['stopped', undefined, false]);
});

test('a target that fails stops the server, without the mark, and says why', async (t) => {
  const { world, server, a, b } = await twoClients(t);
  const result = server.shutdown();
  await drained(a);
  const { fid } = (await b.create('f')).attr;
  const bulk = [Buffer.alloc(1 << 20, 'x')];
  await b.call(Write, { fid, offset: 0, mtime: { sec: 1, nsec: 0 }, grantUsed: 0 }, { bulk });
  world.target.devices.data.failing = new FsError('EIO', 'the disk is gone');
  await b.giveUpActive();
  await assert.rejects(result, { code: 'EIO' });
  await server.closed;
  world.target.devices.data.failing = undefined;
  assert.match(server.failure?.message ?? '', /the disk is gone/);
  assert.equal(await isClean(world), false);
});

test('a stopping server grants no application lock that was waited for', async (t) => {
  const { server, a, b } = await twoClients(t);
  const { fid } = (await a.create('f')).attr;
  await a.call(Enqueue, { type: 'flock', fid, mode: 'EX', flock, wait: false });
  const other = { ...flock, owner: '00000000000000bb' };
  assert.equal(
    (await b.call(Enqueue, { type: 'flock', fid, mode: 'EX', flock: other, wait: true })).granted,
    false,
  );
  const result = server.shutdown();
  await drained(a, b);
  await result;
  await a.time.until('the connections are closed', () => a.closed && b.closed);
  assert.deepEqual(b.casts, []);
});

test('an administrator may evict a client that is still waited for', async (t) => {
  const { world, server, a, b } = await twoClients(t);
  const result = server.shutdown();
  await drained(a, b);
  await result;
  const next = await world.server();
  await a.connect();
  const done = a.recover();
  assert.deepEqual(next.evict('b', 'it was scrapped'), { uuid: b.uuid, name: 'b' });
  await done;
  assert.equal(next.state, 'active');
});
