/** A crash of the server under clients that know how to replay, as a story each. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type Fid, ROOT_FID } from '../../../src/base/ids.js';
import type { Server } from '../../../src/server/server.js';
import { Fallocate, Read, Sync, Write } from '../../../src/wire/data.js';
import { Enqueue } from '../../../src/wire/lock.js';
import { Close, Getattr, Link, Rename, Setattr, Setxattr, Unlink } from '../../../src/wire/meta.js';
import { nameOf, type RawClient, type ServerWorld, serverWorld } from '../../worlds/server_world.js';

const O_RDWR = 2;
const MIB = 1 << 20;

async function crashing(t: TestContext): Promise<{ world: ServerWorld; server: Server; c: RawClient }> {
  const world = await serverWorld(t);
  const server = await world.server();
  const c = await world.replaying('c');
  await c.call(Sync, {});
  return { world, server, c };
}

async function write(c: RawClient, fid: Fid, offset: number, data: Buffer): Promise<void> {
  await c.call(Write, { fid, offset, mtime: { sec: 7, nsec: 8 }, grantUsed: 0 }, { bulk: [data] });
}
async function content(c: RawClient, fid: Fid, length = 1 << 16): Promise<string> {
  return Buffer.from((await c.answer(Read, { fid, offset: 0, length })).bulk).toString();
}
async function exists(c: RawClient, name: string, parent: Fid = ROOT_FID): Promise<boolean> {
  return (await c.lookup(name, parent)).attr !== undefined;
}

test('220 files created and not committed are all there after a crash, as they were', async (t) => {
  const { world, c } = await crashing(t);
  world.hold();
  const made = [];
  for (let index = 0; index < 220; index += 1) made.push((await c.create(`f${index}`)).attr);
  const root = (await c.call(Getattr, { fid: ROOT_FID, want: 0 })).attr;
  await world.crash();
  const next = await world.server();
  assert.deepEqual(
    [next.state, next.target?.store.lastTransno],
    ['recovering', next.target?.store.lastCommitted],
  );
  const { replays } = await c.comeBack();
  assert.deepEqual([replays.length, Math.max(...replays), next.state], [220, 0, 'active']);
  const found = await Promise.all(
    made.map(async ({ fid }) => (await c.call(Getattr, { fid, want: 0 })).attr),
  );
  assert.deepEqual(found, made);
  assert.deepEqual((await c.call(Getattr, { fid: ROOT_FID, want: 0 })).attr, root);
  assert.equal(next.status().recovery?.replayed, 220);
});

test('replayed operations are those of a second crash too, and new ones come after them', async (t) => {
  const { world, c } = await crashing(t);
  world.hold();
  const { fid } = (await c.mkdir('d')).attr;
  await c.create('f', { parent: fid });
  await world.crash();
  await world.server();
  world.hold();
  await c.comeBack();
  await c.create('g', { parent: fid });
  await world.crash();
  const third = await world.server();
  const { replays } = await c.comeBack();
  assert.deepEqual(replays, [0, 0, 0]);
  assert.deepEqual([await exists(c, 'f', fid), await exists(c, 'g', fid)], [true, true]);
  await c.call(Sync, {});
  assert.equal(third.target?.store.lastCommitted, 3 * 2 ** 32);
});

test('renamed over and unlinked: neither name is there after a crash', async (t) => {
  const { world, c } = await crashing(t);
  await c.create('a');
  await c.create('b');
  world.hold();
  await c.call(Rename, {
    parent: ROOT_FID,
    name: nameOf('a'),
    newParent: ROOT_FID,
    newName: nameOf('b'),
    flags: 0,
  });
  await c.call(Unlink, { parent: ROOT_FID, name: nameOf('b'), directory: false });
  await world.crash();
  const next = await world.server();
  await c.comeBack();
  assert.deepEqual([await exists(c, 'a'), await exists(c, 'b'), next.status().orphans], [false, false, 0]);
});

test('an unlinked open file goes on through a crash, and its space is free after the close', async (t) => {
  const { world, server, c } = await crashing(t);
  const free = server.status().blocksFree;
  world.hold();
  const fh = c.newFh();
  const { fid } = (await c.create('f', { fh, flags: O_RDWR })).attr;
  await write(c, fid, 0, Buffer.alloc(3 * MIB, 'a'));
  await c.call(Unlink, { parent: ROOT_FID, name: nameOf('f'), directory: false });
  await world.crash();
  const next = await world.server();
  await c.comeBack([{ fid, fh, flags: O_RDWR }]);
  await write(c, fid, 0, Buffer.from('still here '));
  assert.equal(await content(c, fid, 15), 'still here aaaa');
  assert.equal(next.status().orphans, 1);
  await c.call(Close, { fhs: [fh] });
  await c.call(Sync, {});
  assert.deepEqual([next.status().orphans, next.status().blocksFree], [0, free]);
});

test('a file unlinked and closed before the crash is gone after it, though its close was not replayed', async (t) => {
  const { world, c } = await crashing(t);
  const fh = c.newFh();
  const { fid } = (await c.create('f', { fh, flags: O_RDWR })).attr;
  await c.call(Sync, {});
  world.hold();
  await c.call(Unlink, { parent: ROOT_FID, name: nameOf('f'), directory: false });
  await c.call(Close, { fhs: [fh] });
  await world.crash();
  const next = await world.server();
  await c.comeBack();
  assert.deepEqual([next.status().orphans, await c.errno(Getattr, { fid, want: 0 })], [0, 'ESTALE']);
});

test('a file that was made nameless and linked later has its name after a crash', async (t) => {
  const { world, c } = await crashing(t);
  world.hold();
  const fh = c.newFh();
  const { fid } = (await c.create(undefined, { fh, flags: O_RDWR })).attr;
  await c.call(Link, { fid, parent: ROOT_FID, name: nameOf('named') });
  await world.crash();
  const next = await world.server();
  assert.deepEqual((await c.comeBack([{ fid, fh, flags: O_RDWR }])).replays, [0, 0]);
  assert.deepEqual([(await c.lookup('named')).attr?.nlink, next.status().orphans], [1, 0]);
});

test('open for writing, chmod 0, crash: the handle still writes', async (t) => {
  const { world, c } = await crashing(t);
  world.hold();
  const fh = c.newFh();
  const { fid } = (await c.create('f', { fh, flags: O_RDWR })).attr;
  const closed = (await c.call(Setattr, { fid, mode: 0 })).attr;
  await world.crash();
  await world.server();
  await c.comeBack([{ fid, fh, flags: O_RDWR }]);
  assert.deepEqual((await c.call(Getattr, { fid, want: 0 })).attr, closed);
  await write(c, fid, 0, Buffer.from('works'));
  assert.equal(await content(c, fid), 'works');
});

test('every kind of change is replayed as it was: content, size, attributes and times', async (t) => {
  const { world, c } = await crashing(t);
  world.hold();
  const { fid } = (await c.create('f')).attr;
  await write(c, fid, 0, Buffer.from('small'));
  await write(c, fid, 5000, Buffer.alloc(10_000, 'b'));
  await c.call(Fallocate, { fid, mode: 0, offset: 0, length: 40_000 });
  await c.call(Fallocate, { fid, mode: 3, offset: 4096, length: 4096 });
  await c.call(Setattr, { fid, sizeBytes: 12_000, uid: 5, gid: 6 });
  await c.call(Setxattr, { fid, name: 'user.a', value: Buffer.from('1'), flags: 1 });
  await c.call(Setattr, { fid, atimeNow: true, mtimeNow: true });
  const before = (await c.call(Getattr, { fid, want: 0 })).attr;
  const bytes = await content(c, fid);
  await world.crash();
  await world.server();
  const { replays } = await c.comeBack();
  assert.deepEqual(
    { errnos: replays, attr: (await c.call(Getattr, { fid, want: 0 })).attr, bytes: await content(c, fid) },
    { errnos: [0, 0, 0, 0, 0, 0, 0, 0], attr: before, bytes },
  );
});

test('what two clients did is replayed in the order in which it was done, whoever comes first', async (t) => {
  const { world, c } = await crashing(t);
  const d = await world.replaying('d');
  const ofC = (await c.create('c')).attr.fid;
  const ofD = (await d.create('d')).attr.fid;
  await c.call(Sync, {});
  world.hold();
  for (let round = 0; round < 5; round += 1) {
    await write(c, ofC, 0, Buffer.from(`c${round}`));
    await write(d, ofD, 0, Buffer.from(`d${round}`));
  }
  await world.crash();
  const next = await world.server();
  await d.connect();
  const dRecovers = d.replayAll();
  await world.time.sleep(20);
  assert.deepEqual([next.status().recovery?.replayed, next.status().recovery?.queued], [0, 5]);
  await c.connect();
  const [one, two] = await Promise.all([c.replayAll(), dRecovers]);
  assert.deepEqual(
    [one.replays, two.replays],
    [
      [0, 0, 0, 0, 0],
      [0, 0, 0, 0, 0],
    ],
  );
  await Promise.all([c.recover(), d.recover()]);
  await c.goOn();
  assert.deepEqual([await content(c, ofC), await content(c, ofD)], ['c4', 'd4']);
});

test('a client that does not come back holds up the replays of others until its limit, and no longer', async (t) => {
  const { world, c } = await crashing(t);
  const d = await world.replaying('d');
  // Each in its own directory: in one they would wait for commits.
  const ofC = (await c.mkdir('c')).attr.fid;
  const ofD = (await d.mkdir('d')).attr.fid;
  await d.call(Sync, {});
  world.hold();
  for (let index = 0; index < 13; index += 1) await c.create(`a${index}`, { parent: ofC });
  await d.create('lost', { parent: ofD });
  for (let index = 0; index < 12; index += 1) await c.create(`b${index}`, { parent: ofC });
  await world.crash();
  const next = await world.server({ recoverySoftMs: 60 });
  const { replays } = await c.comeBack();
  assert.deepEqual([replays.length, Math.max(...replays)], [25, 0]);
  assert.deepEqual(
    next.status().evicted.map((one) => one.name),
    ['d'],
  );
  assert.deepEqual([await exists(c, 'b11', ofC), await exists(c, 'lost', ofD)], [true, false]);
});

test('40 MB in an unlinked file of a client that was evicted: a crash brings the space back', async (t) => {
  const world = await serverWorld(t, { dataBytes: 128 * MIB });
  const server = await world.server();
  const [c, d] = [await world.replaying('c'), await world.replaying('d')];
  await d.call(Sync, {});
  const free = server.status().blocksFree;
  const fh = c.newFh();
  const { fid } = (await c.create('f', { fh, flags: O_RDWR })).attr;
  for (let at = 0; at < 40; at += 4) await write(c, fid, at * MIB, Buffer.alloc(4 * MIB, 1));
  await c.call(Unlink, { parent: ROOT_FID, name: nameOf('f'), directory: false });
  await d.call(Sync, {});
  assert.equal(server.status().blocksFree, free - (40 * MIB) / 4096);
  world.hold();
  server.evict('c', 'the test says so');
  await world.crash();
  const next = await world.server({ recoverySoftMs: 60 });
  // The eviction was not durable: c is known once more. It comes as a new client, since it was told.
  c.instance = undefined;
  assert.equal((await c.connect()).outcome, 'new');
  await d.comeBack();
  await d.call(Sync, {});
  assert.deepEqual([next.status().orphans, next.status().blocksFree, next.status().evicted], [0, free, []]);
});

test('cache locks are granted again as they were, and refused where another client has them', async (t) => {
  const { world, c } = await crashing(t);
  const d = await world.replaying('d');
  const { fid } = (await c.create('f')).attr;
  await c.call(Sync, {});
  const held = await c.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  await world.crash();
  const next = await world.server();
  await Promise.all([c.connect(), d.connect()]);
  const data = { fid, type: 'data', mode: 'PW' } as const;
  const gone = { fid: (fid + 1000) as Fid, type: 'data', mode: 'PR' } as const;
  const inode = { fid: ROOT_FID, type: 'inode', mode: 'PR', bits: 3 } as const;
  const again = await c.replayAll([], [data, inode, gone]);
  const refused = await d.replayAll([], [data, inode]);
  assert.deepEqual(
    [again.locks.map((handle) => handle > held.handle), refused.locks.map((handle) => handle > 0)],
    [
      [true, true, false],
      [false, true],
    ],
  );
  await Promise.all([c.recover(), d.recover()]);
  await Promise.all([c.goOn(), d.goOn()]);
  assert.deepEqual([next.state, c.basts], ['active', []]);
  // The lock works: who wants it now has c called back by its new handle.
  await d.call(Enqueue, { type: 'data', fid, mode: 'PR' });
  assert.deepEqual(
    c.basts.map(({ handle }) => handle),
    [again.locks[0]],
  );
});

test('what a client was promised before a crash finds its space after it, whoever else fills the device', async (t) => {
  const world = await serverWorld(t, { dataBytes: 64 * MIB });
  await world.server();
  const saver = world.client('saver');
  saver.features = 7;
  const { grantBytes = 0 } = await saver.connect();
  await saver.activate();
  const greedy = await world.replaying('greedy');
  const kept = (await saver.create('kept')).attr.fid;
  const filler = (await greedy.create('filler')).attr.fid;
  await greedy.call(Sync, {});
  await world.crash();
  const next = await world.server();
  // The greedy one is back first, and gets nothing of what may be promised to others.
  assert.equal((await greedy.connect()).grantBytes, 0);
  assert.equal((await saver.connect({ grantsInUse: grantBytes })).grantBytes, grantBytes);
  // It goes through it twice, which is promised once.
  assert.equal((await saver.connect({ grantsInUse: grantBytes })).grantBytes, grantBytes);
  assert.equal(next.target?.grants.promisedBytes, grantBytes);
  await Promise.all([greedy.recover(), saver.recover()]);
  await Promise.all([greedy.goOn(), saver.goOn()]);
  const put = (
    c: RawClient,
    fid: Fid,
    offset: number,
    bytes: number,
    grantUsed: number,
  ): Promise<unknown> => {
    const bulk = [Buffer.alloc(bytes, 1)];
    return c.call(Write, { fid, offset, mtime: { sec: 1, nsec: 0 }, grantUsed }, { bulk });
  };
  let filled = 0;
  const fill = async (): Promise<void> => {
    for (; filled < 100; filled += 1) await put(greedy, filler, filled * MIB, MIB, 0);
  };
  await assert.rejects(fill(), { code: 'ENOSPC' });
  assert.ok(filled > 20, `${filled}`);
  for (let at = 0; at < grantBytes; at += MIB) {
    const bytes = Math.min(MIB, grantBytes - at);
    await put(saver, kept, at, bytes, bytes);
  }
});
