import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type Fid, ROOT_FID } from '../../../src/base/ids.js';
import type { Server, ServerOptions } from '../../../src/server/server.js';
import { Read, Sync, Write } from '../../../src/wire/data.js';
import { Cancel, Enqueue, TestFlock } from '../../../src/wire/lock.js';
import {
  Getattr,
  Readdir,
  Setattr,
  Unlink,
  WANT_ATTR,
  WANT_DATA_READ,
  WANT_DATA_WRITE,
  WANT_PARENT,
} from '../../../src/wire/meta.js';
import { FEATURE, FEATURES_ALL } from '../../../src/wire/session.js';
import { grantOf, nameOf, type RawClient, type ServerWorld, serverWorld } from '../../worlds/server_world.js';

interface Two {
  readonly world: ServerWorld;
  readonly server: Server;
  readonly a: RawClient;
  readonly b: RawClient;
}
async function twoClients(t: TestContext, options: Partial<ServerOptions> = {}): Promise<Two> {
  const world = await serverWorld(t);
  const server = await world.server(options);
  return { world, server, a: await world.connected('a'), b: await world.connected('b') };
}
async function holdData(client: RawClient, fid: Fid, mode: 'PR' | 'PW') {
  client.locksContent = false;
  return await client.call(Enqueue, { type: 'data', fid, mode });
}

test('a name that another client makes calls back who has cached that it is not there', async (t) => {
  const { a, b } = await twoClients(t);
  const missing = await a.lookup('f', ROOT_FID, WANT_PARENT | WANT_ATTR);
  const grant = grantOf(missing.locks, 'inode', ROOT_FID);
  assert.deepEqual([missing.attr, grant?.mode], [undefined, 'PR']);
  await b.create('f');
  assert.deepEqual(
    a.basts.map((bast) => bast.handle),
    [grant?.handle],
  );
  assert.ok((await a.lookup('f')).attr);
});

test('a client keeps its own directory lock through its own creates', async (t) => {
  const { a } = await twoClients(t);
  await a.lookup('none', ROOT_FID, WANT_PARENT);
  for (const name of ['x', 'y', 'z']) await a.create(name, { want: WANT_ATTR | WANT_DATA_WRITE });
  assert.deepEqual(a.basts, []);
});

test('a create answers with the locks wanted, of data too', async (t) => {
  const { a } = await twoClients(t);
  const { attr, locks } = await a.create('f', { want: WANT_PARENT | WANT_ATTR | WANT_DATA_WRITE });
  assert.deepEqual(
    [
      grantOf(locks, 'data', attr.fid)?.mode,
      grantOf(locks, 'inode', attr.fid)?.bits,
      grantOf(locks, 'inode', ROOT_FID)?.bits,
    ],
    ['PW', 2, 3],
  );
});

test('stat is exact while another client writes into its cache: the writer is asked and keeps its lock', async (t) => {
  const { a, b } = await twoClients(t);
  const { fid } = (await a.create('f', { want: WANT_DATA_WRITE })).attr;
  a.glimpse = { sizeBytes: 12_345, mtime: { sec: 99, nsec: 9 }, dirtyBytes: 4096 };
  const { attr, locks } = await b.call(Getattr, { fid, want: WANT_ATTR | WANT_DATA_READ });
  assert.deepEqual(
    [attr.sizeBytes, attr.mtime, attr.blocks, a.glimpses, a.basts.length],
    [12_345, { sec: 99, nsec: 9 }, 8, 1, 0],
  );
  assert.deepEqual([grantOf(locks, 'inode', fid)?.mode, grantOf(locks, 'data', fid)], ['PR', undefined]);
  assert.equal((await b.lookup('f')).attr?.sizeBytes, 12_345);
});

test('a writer that does not answer a glimpse is evicted, and the stat is answered from the store', async (t) => {
  const { a, b, server } = await twoClients(t, { lockTimeoutMs: 60 });
  const { fid } = (await a.create('f', { want: WANT_DATA_WRITE })).attr;
  const { attr } = await b.call(Getattr, { fid, want: 0 });
  assert.deepEqual([attr.sizeBytes, server.status().evicted.map((one) => one.name)], [0, ['a']]);
  assert.match(a.evictions[0] ?? '', /glimpse/);
});

test('a data lock waits until its holder has given it back', async (t) => {
  const { a, b } = await twoClients(t);
  const { fid } = (await a.create('f')).attr;
  a.yields = false;
  const held = await holdData(a, fid, 'PW');
  const waiting = holdData(b, fid, 'PR');
  await a.time.until('a is called back', () => a.basts.length === 1);
  await a.call(
    Write,
    { fid, offset: 0, mtime: { sec: 1, nsec: 0 }, grantUsed: 0 },
    { bulk: [Buffer.from('abc')] },
  );
  await a.call(Cancel, { handles: [held.handle] });
  assert.equal((await waiting).attr?.sizeBytes, 3);
});

test('utimes of one client is not undone by the cached mtime of another', async (t) => {
  const { a, b } = await twoClients(t);
  const { fid } = (await a.create('f')).attr;
  a.yields = false;
  const held = await holdData(a, fid, 'PW');
  const setting = b.call(Setattr, { fid, mtime: { sec: 7, nsec: 7 } });
  await a.time.until('a is called back', () => a.basts.length === 1);
  await a.call(Cancel, { handles: [held.handle] });
  assert.deepEqual((await setting).attr.mtime, { sec: 7, nsec: 7 });
});

test('a holder that ignores its BAST is evicted, alone; what it had open is closed', async (t) => {
  const { a, b, server } = await twoClients(t, { lockTimeoutMs: 60 });
  const { fid } = (await a.create('f', { fh: a.newFh(), flags: 2 })).attr;
  a.yields = false;
  await holdData(a, fid, 'PW');
  await b.call(Unlink, { parent: ROOT_FID, name: nameOf('f'), directory: false });
  assert.equal(server.status().orphans, 1);
  const other = (await b.create('g', { want: WANT_ATTR })).attr;
  await a.call(Enqueue, { type: 'inode', fid: other.fid, mode: 'PR', bits: 2 });
  await b.call(Setattr, { fid: other.fid, mode: 0o600 });
  const { clients, evicted, orphans } = server.status();
  assert.deepEqual(
    [clients.map((one) => one.name), evicted.map((one) => one.name), orphans],
    [['b'], ['a'], 0],
  );
  assert.match(a.evictions[0] ?? '', /did not give back a lock/);
  const back = await a.connect();
  assert.deepEqual([back.outcome, /did not give back/.test(back.reason ?? '')], ['evicted', true]);
});

test('a client whose cancels are lost is evicted, alone, and the other goes on', async (t) => {
  const { a, b, server } = await twoClients(t, { lockTimeoutMs: 200 });
  const { fid } = (await a.create('f')).attr;
  await holdData(a, fid, 'PW');
  const { link } = a;
  assert.ok(link);
  const send = link.send.bind(link);
  link.send = (frame, body, bulk, sent) => {
    if (frame.opcode !== Cancel.opcode) send(frame, body, bulk, sent);
  };
  assert.ok((await holdData(b, fid, 'PW')).granted);
  await b.call(Setattr, { fid, mode: 0o600 });
  const { clients, evicted } = server.status();
  assert.deepEqual(
    [clients.map((one) => one.name), evicted.map((one) => one.name), a.basts.length],
    [['b'], ['a'], 2],
  );
});

test('a BAST that is lost, and nothing else, is said again: nobody is evicted', async (t) => {
  const { a, b, server } = await twoClients(t, { lockTimeoutMs: 400 });
  const { fid } = (await a.create('f')).attr;
  a.yields = false;
  await holdData(a, fid, 'PW');
  const waiting = holdData(b, fid, 'PR');
  await a.time.until('the first is lost', () => a.basts.length === 1);
  a.yields = true;
  assert.ok((await waiting).granted);
  assert.deepEqual([a.basts.length, server.status().evicted], [2, []]);
});

test('a client that is gone is waited for as long as a network may be down, and not for the whole lock timeout', async (t) => {
  const { world, a, b, server } = await twoClients(t, { lockTimeoutMs: 3000 });
  const c = await world.connected('c');
  const { fid } = (await a.create('f')).attr;
  const other = (await a.create('g')).attr.fid;
  await holdData(a, fid, 'PW');
  await holdData(c, other, 'PW');
  await a.lose();
  await c.lose();
  const lostAtMs = world.time.clock.nowMs();
  assert.ok((await holdData(b, fid, 'PR')).granted);
  const tookMs = world.time.clock.nowMs() - lostAtMs;
  assert.ok(tookMs >= 1500 && tookMs < 2900, `${tookMs} ms`);
  const { evicted } = server.status();
  // Nobody wants what c has.
  assert.deepEqual(
    evicted.map((one) => one.name),
    ['a'],
  );
  assert.match(evicted[0]?.reason ?? '', /no connection .* was waited for/);
});

test('a client that comes back in time is asked again and keeps its place', async (t) => {
  const { a, b, server } = await twoClients(t, { lockTimeoutMs: 3000 });
  const { fid } = (await a.create('f')).attr;
  await holdData(a, fid, 'PW');
  await a.lose();
  const waiting = holdData(b, fid, 'PR');
  assert.equal((await a.connect()).outcome, 'resumed');
  assert.ok((await waiting).granted);
  assert.deepEqual([a.basts.length, server.status().evicted], [1, []]);
});

test('a holder that ends a read piece by piece is given time beyond the limit, one that reads nothing is not', async (t) => {
  const lockTimeoutMs = 1000;
  const { a, b, server } = await twoClients(t, { lockTimeoutMs });
  const { fid } = (await a.create('f')).attr;
  a.yields = false;
  const pieceBytes = 64 << 10;
  const held = await holdData(a, fid, 'PW');
  const request = { fid, offset: 0, mtime: { sec: 1, nsec: 0 }, grantUsed: 0 };
  await a.call(Write, request, { bulk: [Buffer.alloc(pieceBytes)] });
  const waiting = holdData(b, fid, 'PW');
  await a.time.until('it is called back', () => a.basts.length === 1);
  const endMs = a.time.clock.nowMs() + 1.5 * lockTimeoutMs;
  // Some time, so that time limits run out between two READs.
  const readFrom = async (client: RawClient, offset: number): Promise<void> => {
    await client.answer(Read, { fid, offset, length: pieceBytes });
    await client.time.sleep(1);
  };
  while (a.time.clock.nowMs() < endMs) await readFrom(a, 0);
  assert.deepEqual(server.status().evicted, []);
  await a.call(Cancel, { handles: [held.handle] });
  await waiting;
  // Past its end a file has nothing to read: that is no progress.
  b.yields = false;
  const wanted = holdData(a, fid, 'PW');
  const past = async (): Promise<void> => {
    for (;;) await readFrom(b, pieceBytes);
  };
  past().catch(() => undefined);
  await wanted;
  assert.deepEqual(
    server.status().evicted.map(({ name }) => name),
    ['b'],
  );
});

test('a holder that is flushing is given time beyond the limit', async (t) => {
  const lockTimeoutMs = 1000;
  const { a, b, server } = await twoClients(t, { lockTimeoutMs });
  const { fid } = (await a.create('f')).attr;
  a.yields = false;
  const held = await holdData(a, fid, 'PW');
  const waiting = holdData(b, fid, 'PR');
  const endMs = a.time.clock.nowMs() + 1.5 * lockTimeoutMs;
  const part = Buffer.alloc(64 << 10, 'x');
  let bytes = 0;
  // One write after the other, and a moment between two: it never stops flushing.
  for (; a.time.clock.nowMs() < endMs; bytes += part.length) {
    const request = { fid, offset: bytes, mtime: { sec: 1, nsec: 0 }, grantUsed: 0 };
    await a.call(Write, request, { bulk: [part] });
    await a.call(Sync, {});
    await a.time.sleep(10);
  }
  await a.call(Cancel, { handles: [held.handle] });
  assert.deepEqual([(await waiting).attr?.sizeBytes, server.status().evicted], [bytes, []]);
});

test('a request that comes from an evicted client is not executed', async (t) => {
  const { a, b, server } = await twoClients(t);
  const { fid } = (await b.create('f')).attr;
  // On its way when the eviction happens; nobody answers it.
  void a.create('g');
  server.evict('a', 'to see what happens');
  await a.time.until('its connection is closed', () => a.closed);
  assert.deepEqual([(await b.lookup('g')).attr, (await b.lookup('f')).attr?.fid], [undefined, fid]);
  assert.throws(() => server.evict('nobody', ''), { code: 'ENOENT' });
});

test('application locks: refused, waited for, cast, taken over at eviction', async (t) => {
  const { a, b, server } = await twoClients(t);
  const { fid } = (await a.create('f')).attr;
  const flock = { kind: 'flock', owner: '0000000000000001', pid: 1, exclusive: true, start: 0 } as const;
  const lock = { type: 'flock', fid, mode: 'EX', flock } as const;
  assert.equal((await a.call(Enqueue, { ...lock, wait: false })).granted, true);
  assert.equal(await b.errno(Enqueue, { ...lock, wait: false }), 'EAGAIN');
  const waiting = await b.call(Enqueue, { ...lock, wait: true });
  assert.equal(waiting.granted, false);
  server.evict('a', 'its lock is wanted');
  await a.time.until('the waiting lock is cast', () => b.casts.length === 1);
  assert.equal(b.casts[0]?.handle, waiting.handle);
});

test('who knows no lock offset of 2^53 is shown a range that begins there as one that begins before it', async (t) => {
  const { a, b } = await twoClients(t);
  const { fid } = (await a.create('f')).attr;
  const far = {
    kind: 'posix',
    owner: '0000000000000001',
    pid: 1,
    exclusive: true,
    start: 2n ** 62n,
  } as const;
  const everything = { ...far, owner: '0000000000000002', start: 0 };
  await a.call(Enqueue, { type: 'flock', fid, mode: 'EX', flock: { ...far, end: 2n ** 62n + 5n } });
  const shown = [];
  for (const features of [FEATURES_ALL, FEATURES_ALL & ~FEATURE.lockOffsets]) {
    b.features = features;
    await b.lose();
    await b.connect();
    const { conflict } = await b.call(TestFlock, { fid, flock: everything });
    shown.push([conflict?.start, conflict?.end]);
  }
  assert.deepEqual(shown, [
    [2n ** 62n, 2n ** 62n + 5n],
    [2 ** 53 - 1, undefined],
  ]);
});

test('readdir leaves out the attributes of files that others are writing', async (t) => {
  const { a, b } = await twoClients(t);
  const busy = (await a.create('busy', { want: WANT_DATA_WRITE })).attr;
  const idle = (await a.create('idle')).attr;
  const { entries, locks } = await b.call(Readdir, {
    fid: ROOT_FID,
    cookie: 0,
    limit: 10,
    plus: true,
    want: WANT_ATTR | WANT_DATA_READ,
  });
  assert.deepEqual(
    entries.map((entry) => entry.attr?.fid),
    [undefined, idle.fid],
  );
  assert.deepEqual(
    [grantOf(locks, 'data', idle.fid)?.mode, grantOf(locks, 'data', busy.fid)],
    ['PR', undefined],
  );
});
