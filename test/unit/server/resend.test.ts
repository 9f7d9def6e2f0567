import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type LockHandle, ROOT_FID, type Transno, type Xid } from '../../../src/base/ids.js';
import { AnsweredRequests } from '../../../src/server/export/answered_requests.js';
import { UnconfirmedCasts } from '../../../src/server/export/unconfirmed_casts.js';
import { Write } from '../../../src/wire/data.js';
import { Cancel, Enqueue, Unflock } from '../../../src/wire/lock.js';
import { Getattr, Link, Rename, Unlink, WANT_DATA_WRITE } from '../../../src/wire/meta.js';
import { Disconnect } from '../../../src/wire/session.js';
import { nameOf, type RawClient, type ServerWorld, serverWorld } from '../../worlds/server_world.js';

async function oneClient(t: TestContext): Promise<{ world: ServerWorld; c: RawClient }> {
  const world = await serverWorld(t);
  await world.server();
  return { world, c: await world.connected() };
}

/** Sends, loses the reply with the connection, connects again (which sends again), and gives the answer. */
async function withLostReply<T>(client: RawClient, send: () => Promise<T>): Promise<T> {
  client.deaf = true;
  const answer = send();
  // Time enough for it to be executed; its reply is not heard.
  await client.time.sleep(20);
  await client.lose();
  client.deaf = false;
  const { outcome } = await client.connect();
  assert.equal(outcome, 'resumed');
  return await answer;
}

test('a request whose reply was lost takes effect once and is answered the same', async (t) => {
  const { c } = await oneClient(t);
  const made = await withLostReply(c, () => c.create('f', { want: WANT_DATA_WRITE }));
  const { fid } = made.attr;
  assert.equal(made.locks.length, 1);
  const linked = await withLostReply(c, () => c.call(Link, { fid, parent: ROOT_FID, name: nameOf('g') }));
  assert.equal(linked.attr.nlink, 2);
  const renamed = await withLostReply(c, () =>
    c.call(Rename, {
      parent: ROOT_FID,
      name: nameOf('g'),
      newParent: ROOT_FID,
      newName: nameOf('h'),
      flags: 0,
    }),
  );
  assert.equal(renamed.attr.fid, fid);
  const gone = await withLostReply(c, () =>
    c.call(Unlink, { parent: ROOT_FID, name: nameOf('h'), directory: false }),
  );
  assert.deepEqual([gone.attr.nlink, (await c.call(Getattr, { fid, want: 0 })).attr.nlink], [1, 1]);
});

test('a request that was still waiting when the connection broke is answered through the next one', async (t) => {
  const { world, c } = await oneClient(t);
  const b = await world.connected('b');
  const { fid } = (await b.create('f')).attr;
  b.yields = false;
  const held = await b.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  const cutting = c.create('f', { exclusive: false, fh: c.newFh(), flags: 2 | 0o1000 });
  await world.time.until('b is called back', () => b.basts.length === 1);
  await c.lose();
  assert.equal((await c.connect()).outcome, 'resumed');
  await b.call(Cancel, { handles: [held.handle] });
  assert.deepEqual([(await cutting).existed, (await cutting).attr.fid], [true, fid]);
});

test('a lock that was waited for when the connection broke is asked for anew and granted once', async (t) => {
  const { world, c } = await oneClient(t);
  const b = await world.connected('b');
  const { fid } = (await b.create('f')).attr;
  b.yields = false;
  const held = await b.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  const waiting = c.call(Enqueue, { type: 'data', fid, mode: 'PR' });
  await world.time.until('b is called back', () => b.basts.length === 1);
  await c.lose();
  await c.connect();
  await b.call(Cancel, { handles: [held.handle] });
  await waiting;
  // PW of b now calls back exactly one lock of c.
  c.yields = true;
  await b.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  assert.equal(c.basts.length, 1);
});

test('BASTs and CASTs that the connection lost are said again', async (t) => {
  const { world, c } = await oneClient(t);
  const b = await world.connected('b');
  const { fid } = (await b.create('f')).attr;
  c.yields = false;
  await c.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  const flock = {
    kind: 'posix',
    owner: '00000000000000aa',
    pid: 1,
    exclusive: true,
    start: 0,
    end: 10,
  } as const;
  await b.call(Enqueue, { type: 'flock', fid, mode: 'EX', flock, wait: false });
  const waiting = await c.call(Enqueue, { type: 'flock', fid, mode: 'EX', flock, wait: true });
  await c.lose();
  const late = b.call(Enqueue, { type: 'data', fid, mode: 'PR' });
  const bHeld = await b.call(Enqueue, { type: 'active', mode: 'PR' });
  assert.ok(bHeld.granted);
  await b.call(Unflock, { fid, flock });
  assert.deepEqual([c.basts, c.casts], [[], []]);
  c.yields = true;
  await c.connect();
  await late;
  assert.deepEqual([c.basts.length, c.casts.map((cast) => cast.handle)], [1, [waiting.handle]]);
});

test('frames of a connection that was replaced are dropped', async (t) => {
  const { c } = await oneClient(t);
  const old = c.link;
  await c.connect();
  await c.create('f');
  assert.deepEqual([old?.isClosed, c.closed], [true, false]);
});

test('goodbye removes the client', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  const c = await world.connected();
  await c.create('f', { fh: c.newFh(), flags: 0 });
  await c.call(Disconnect, {});
  const { clients, evicted } = server.status();
  assert.deepEqual([clients, evicted, server.target?.store.clients()], [[], [], []]);
});

test('reply data: kept until acknowledged, bounded, and honest about what it lost', () => {
  const data = new AnsweredRequests();
  const reply = (bytes: number) => ({
    opcode: 1,
    errno: 0,
    transno: 0 as Transno,
    body: Buffer.alloc(bytes),
  });
  for (let xid = 1; xid <= 10; xid += 1) data.store(xid as Xid, reply(10));
  data.acknowledge(6);
  assert.deepEqual([data.size, data.find(5 as Xid), data.find(6 as Xid)?.opcode], [5, undefined, 1]);
  data.store(3 as Xid, reply(1));
  assert.equal(data.find(3 as Xid), undefined);
  data.store(11 as Xid, reply(20 << 20));
  data.store(12 as Xid, reply(20 << 20));
  assert.deepEqual(
    [data.mayHaveLost(11 as Xid), data.mayHaveLost(12 as Xid), data.find(12 as Xid)?.errno],
    [true, false, 0],
  );
  data.acknowledge(Number.MAX_SAFE_INTEGER);
  assert.equal(data.size, 0);
});

test('a CAST is said again until a reply that left after it is acknowledged', () => {
  const casts = new UnconfirmedCasts();
  casts.add({ handle: 1 as LockHandle });
  casts.acknowledge(100);
  casts.replied(100 as Xid);
  casts.add({ handle: 2 as LockHandle });
  casts.replied(101 as Xid);
  casts.acknowledge(101);
  assert.deepEqual(
    casts.again().map((cast) => cast.handle),
    [2],
  );
  casts.acknowledge(200);
  assert.equal(casts.again().length, 1);
});

test('a write that is sent again is written once: its space is paid for once', async (t) => {
  const { c } = await oneClient(t);
  const { fid } = (await c.create('f')).attr;
  const mtime = { sec: 1, nsec: 0 };
  const write = () =>
    c.call(Write, { fid, offset: 0, mtime, grantUsed: 4096 }, { bulk: [Buffer.alloc(4096, 'a')] });
  const first = await withLostReply(c, write);
  assert.equal(first.blocks, 8);
});
