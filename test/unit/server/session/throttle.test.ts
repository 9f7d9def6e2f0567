/** Limits of an entry of the access table on its clients, and on what they send in a second. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type Fid, ROOT_FID } from '../../../../src/base/ids.js';
import type { Origin } from '../../../../src/runtime/ports.js';
import type { ServerOptions } from '../../../../src/server/server.js';
import { BURST_MIN } from '../../../../src/server/session/throttle.js';
import type { AccessLimits } from '../../../../src/storage/api.js';
import { AccessList, Status } from '../../../../src/wire/admin.js';
import { Enqueue } from '../../../../src/wire/lock.js';
import { Getattr } from '../../../../src/wire/meta.js';
import { type RawClient, type ServerWorld, serverWorld } from '../../../worlds/server_world.js';

const RATE = 20;

function keyOrigin(world: ServerWorld, name: string, limits: AccessLimits): Origin {
  const wish = { kind: 'key', readOnly: false, squashRoot: false, admin: false, from: [] } as const;
  const { key } = world.table.add({ ...wish, name, limits });
  const proof = { kind: 'key', identity: key?.id ?? '' } as const;
  return { proof, address: '10.0.0.1', port: 40_000, sameHost: false };
}

async function withKey(
  t: TestContext,
  limits: AccessLimits,
  options: Partial<ServerOptions> = {},
): Promise<{ world: ServerWorld; client: (name: string) => Promise<RawClient> }> {
  const world = await serverWorld(t);
  await world.server(options);
  const origin = keyOrigin(world, 'limited', limits);
  const client = async (name: string): Promise<RawClient> => {
    const made = world.client(name);
    made.origin = origin;
    await made.connect();
    await made.activate();
    return made;
  };
  return { world, client };
}

const stat = (client: RawClient, fid: Fid = ROOT_FID) => client.call(Getattr, { fid, want: 0 });

/** @returns when each was answered, in milliseconds from now. */
async function flood(world: ServerWorld, clients: readonly RawClient[], count: number): Promise<number[]> {
  const { clock } = world.time;
  const beganMs = clock.nowMs();
  const answered: number[] = [];
  const calls = Array.from({ length: count }, (_, at) => stat(clients[at % clients.length] as RawClient));
  await Promise.all(calls.map((call) => call.then(() => answered.push(clock.nowMs() - beganMs))));
  return answered;
}

async function statusOf(world: ServerWorld): Promise<{ admin: RawClient; throttled: Map<string, number> }> {
  const admin = world.client('admin');
  await admin.connect({ role: 'admin' });
  const { clients } = await admin.call(Status, {});
  const throttled = new Map(
    clients.flatMap(({ name, throttledMs }) => (throttledMs ? [[name, throttledMs]] : [])),
  );
  return { admin, throttled };
}

test('a key sends as many requests a second as it may, over all its clients; the others do not notice', async (t) => {
  const { world, client } = await withKey(t, { requestsPerSecond: RATE });
  const clients = [await client('a'), await client('b')];
  const free = await world.connected('free');
  await world.time.sleep(2000);
  const limited = flood(world, clients, RATE * 6);
  const others = await flood(world, [free], 1000);
  const answered = await limited;
  const within = (ms: number): number => answered.filter((at) => at <= ms).length;
  assert.ok(Math.max(...others) < 200, `${Math.max(...others)} ms`);
  for (const [second, most] of [1, 2, 3, 4].map((n) => [n * 1000, RATE * (n + 1)] as const)) {
    const count = within(second);
    // Each connection may be one frame ahead, and a look at the tokens one tick late.
    assert.ok(count <= most + 4 && count >= most - 6, `${count} answered within ${second} ms`);
  }
  const { admin, throttled } = await statusOf(world);
  assert.deepEqual([...throttled.keys()], ['a', 'b']);
  const [entry] = (await admin.call(AccessList, {})).entries;
  assert.ok((entry?.throttledMs ?? 0) > 4000, `${entry?.throttledMs}`);
  assert.equal(world.said.filter((text) => /is throttled: key:limited may send 20/.test(text)).length, 1);
  await world.time.sleep(20_000);
  assert.equal((await statusOf(world)).throttled.size, 0);
});

test('requests that wait for tokens keep their order, and none is lost', async (t) => {
  const { client } = await withKey(t, { requestsPerSecond: 50 });
  const one = await client('one');
  const order: number[] = [];
  const calls = Array.from({ length: 150 }, (_, at) => stat(one).then(() => order.push(at)));
  await Promise.all(calls);
  assert.deepEqual(
    order,
    [...order].sort((a, b) => a - b),
  );
  assert.equal(order.length, 150);
});

test('a client that waits for tokens gives a lock back in time, and pays later', async (t) => {
  const { world, client } = await withKey(t, { requestsPerSecond: 1 }, { lockTimeoutMs: 2000 });
  const holder = await client('holder');
  const { fid } = (await holder.create('f')).attr;
  await holder.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  const calls = Array.from({ length: 60 }, () => stat(holder));
  await world.time.sleep(300);
  const other = await world.connected('other');
  const { clock } = world.time;
  const beganMs = clock.nowMs();
  assert.equal((await other.call(Enqueue, { type: 'data', fid, mode: 'PR' })).granted, true);
  assert.ok(clock.nowMs() - beganMs < 200, `${clock.nowMs() - beganMs} ms`);
  await Promise.all(calls);
  const debtBeganMs = clock.nowMs();
  // The first one is on its way when it is seen that nobody waits any more.
  await Promise.all([stat(holder), stat(holder)]);
  assert.ok(clock.nowMs() - debtBeganMs > 3000, 'it pays nothing');
  assert.deepEqual(holder.evictions, []);
});

test('a client that waits for tokens drains in time', async (t) => {
  const { world, client } = await withKey(t, { requestsPerSecond: 1 }, { drainTimeoutMs: 1000 });
  const one = await client('one');
  const calls = Array.from({ length: BURST_MIN + 60 }, () => stat(one).catch(() => undefined));
  await world.time.sleep(100);
  const end = world.last.shutdown();
  await world.time.until('it is asked for the active lock', () =>
    one.basts.some(({ type }) => type === 'active'),
  );
  await Promise.all(calls);
  await one.giveUpActive();
  await world.time.within('the shutdown', end);
  assert.deepEqual(one.evictions, []);
});

test('a client that waits for tokens is not taken for dead, and hears that the server lives', async (t) => {
  const { world, client } = await withKey(t, { requestsPerSecond: 1 }, { pingIntervalMs: 500 });
  const one = await client('one');
  const { fid } = (await one.create('f')).attr;
  const holder = await world.connected('holder');
  holder.yields = false;
  await holder.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  // None of them is answered before the holder gives its lock back.
  const waits = Array.from({ length: BURST_MIN + 30 }, () =>
    one.call(Enqueue, { type: 'data', fid, mode: 'PR' }),
  );
  await world.time.sleep(1000);
  const seen: number[] = [];
  for (let look = 0; look < 5; look += 1) {
    seen.push(one.link?.lifeSigns ?? 0);
    await world.time.sleep(1000);
  }
  assert.equal(new Set(seen).size, seen.length, `signs of life: ${seen}`);
  assert.equal(one.closed, false);
  await holder.lose();
  world.last.evict('holder', 'test');
  for (const { granted } of await Promise.all(waits)) assert.equal(granted, true);
});

test('a key has as many clients as it may; who is known comes back, and a place that is free is taken', async (t) => {
  const { world, client } = await withKey(t, { clients: 2 });
  const a = await client('a');
  await client('b');
  const { origin } = a;
  const third = world.client('c');
  third.origin = origin;
  const { outcome, reason } = await third.connect();
  const back = await a.connect();
  const local = await world.client('local').connect();
  world.last.evict('b', 'test');
  const later = await third.connect();
  assert.deepEqual([outcome, back.outcome, local.outcome, later.outcome], ['wait', 'resumed', 'new', 'new']);
  assert.match(reason ?? '', /key:limited has 2 clients, as many as it may have/);
});

test('clients that recover are taken, however many their key may have', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const free = keyOrigin(world, 'limited', {});
  const clients = ['a', 'b', 'c'].map((name) => world.client(name));
  for (const one of clients) {
    one.origin = free;
    one.features = 7;
    await one.connect();
    await one.activate();
  }
  world.table.remove('limited');
  const origin = keyOrigin(world, 'limited', { clients: 1, requestsPerSecond: 1 });
  await world.table.sync();
  await world.crash();
  await world.server();
  for (const one of clients) one.origin = origin;
  const outcomes = await Promise.all(
    clients.map(async (one) => (await one.connect({ hasMoreThanOpens: true })).outcome),
  );
  assert.deepEqual(outcomes, ['recover', 'recover', 'recover']);
  const late = world.client('late');
  late.origin = origin;
  assert.equal((await late.connect()).outcome, 'wait');
});
