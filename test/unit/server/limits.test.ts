import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type Fid, ROOT_FID } from '../../../src/base/ids.js';
import { FrameLink } from '../../../src/rpc/link.js';
import { blocksBytes } from '../../../src/server/export/space_grants.js';
import { DrainProgress, Status } from '../../../src/wire/admin.js';
import { Sync, Write } from '../../../src/wire/data.js';
import { Setattr, Unlink } from '../../../src/wire/meta.js';
import { GetFids } from '../../../src/wire/session.js';
import { memoryPair } from '../../fixtures/memory_connection.js';
import { nameOf, type RawClient, type ServerWorld, serverWorld } from '../../worlds/server_world.js';

const MIB = 1 << 20;
const MTIME = { sec: 1, nsec: 0 };

async function withServer(t: TestContext, dataBytes: number): Promise<ServerWorld> {
  const world = await serverWorld(t, { dataBytes });
  await world.server();
  return world;
}
async function write(client: RawClient, fid: Fid, offset: number, bytes: number, grantUsed: number) {
  const bulk = [Buffer.alloc(bytes, 'z')];
  try {
    const reply = await client.call(Write, { fid, offset, mtime: MTIME, grantUsed }, { bulk });
    return { errno: 'none', ...reply };
  } catch (error) {
    return { errno: (error as { code: string }).code, blocks: 0, grantBytes: 0 };
  }
}

test('bytes of whole blocks', () => {
  assert.deepEqual(
    [blocksBytes(0, 0), blocksBytes(0, 1), blocksBytes(4095, 2), blocksBytes(4096, 4096)],
    [0, 4096, 8192, 4096],
  );
});

test('what was written under a grant finds its space, whoever else fills the device', async (t) => {
  const world = await withServer(t, 64 * MIB);
  const saver = world.client('saver');
  const { grantBytes = 0 } = await saver.connect();
  await saver.activate();
  const greedy = await world.connected('greedy');
  const kept = (await saver.create('kept')).attr.fid;
  const filler = (await greedy.create('filler')).attr.fid;
  assert.ok(grantBytes >= MIB, `${grantBytes}`);
  let filled = 0;
  for (; filled < 100; filled += 1) {
    const { errno } = await write(greedy, filler, filled * MIB, MIB, 0);
    if (errno === 'none') continue;
    assert.equal(errno, 'ENOSPC');
    break;
  }
  assert.ok(filled < 100 && filled > 20, `${filled} MiB`);
  // Its cached pages come now; all of them must get in.
  for (let at = 0; at < grantBytes; at += MIB) {
    const bytes = Math.min(MIB, grantBytes - at);
    assert.equal((await write(saver, kept, at, bytes, bytes)).errno, 'none', `at ${at} of ${grantBytes}`);
  }
});

test('grants dry up as the device fills, deletes work on a full one, and freed space is usable again', async (t) => {
  const world = await withServer(t, 32 * MIB);
  const client = await world.connected();
  const { fid } = (await client.create('f')).attr;
  const granted: number[] = [];
  let errno = 'none';
  for (let at = 0; errno === 'none' && at < 200; at += 1) {
    const reply = await write(client, fid, at * MIB, MIB, MIB);
    errno = reply.errno;
    if (errno === 'none') granted.push(reply.grantBytes);
  }
  assert.deepEqual([errno, granted.at(-1)], ['ENOSPC', 0]);
  await client.call(Unlink, { parent: ROOT_FID, name: nameOf('f'), directory: false });
  await client.call(Sync, {});
  const again = (await client.create('g')).attr.fid;
  await world.time.until(
    'space is free again',
    async () => (await write(client, again, 0, MIB, 0)).errno === 'none',
  );
});

test('connections that say nothing cost nothing and do not disturb', async (t) => {
  const world = await withServer(t, 32 * MIB);
  const client = await world.connected();
  for (let n = 0; n < 1000; n += 1) {
    memoryPair(
      (connection) =>
        new FrameLink(connection, {}, () => ({ frame: () => undefined, closed: () => undefined })),
      world.accept(),
    );
  }
  assert.ok((await client.create('f')).attr);
});

test('who asks for anything before CONNECT, or for too much after it, is refused', async (t) => {
  const world = await withServer(t, 32 * MIB);
  const client = world.client();
  await assert.rejects(client.connect({ protocolMin: 90, protocolMax: 99 }), { code: 'EPROTO' });
  await assert.rejects(client.connect({ uuid: 'nobody' as never }), { code: 'EPROTO' });
  await assert.rejects(client.connect({ targetUuid: 'other' as never }), { code: 'ENODEV' });
  await client.connect();
  assert.equal(await client.errno(Status, {}), 'EOPNOTSUPP');
  const admin = world.client('admin');
  await admin.connect({ role: 'admin' });
  void admin.lookup('f');
  await world.time.until('its connection is closed', () => admin.closed);
  assert.ok(await client.lookup('f'));
});

test('a change that is sent as a notice is not made, and a notice sent as a request is refused', async (t) => {
  const world = await withServer(t, 32 * MIB);
  const [rude, other] = [await world.connected('rude'), await world.connected('other')];
  rude.requester.notify(Setattr, { fid: ROOT_FID, mode: 0 });
  assert.equal(await rude.errno(DrainProgress, { dirtyBytes: 0, rpcsInFlight: 0, locks: 0 }), 'EPROTO');
  // Nobody would have been told that it is done: its lock on the root would have been held for ever.
  const { attr } = await other.call(Setattr, { fid: ROOT_FID, mode: 0o700 });
  assert.equal(attr.mode & 0o7777, 0o700);
});

test('a client that asks for ranges of FIDs without end gets one with each commit, and others get theirs at once', async (t) => {
  const world = await withServer(t, 64 * MIB);
  const greedy = await world.connected('greedy');
  let answers = 0;
  const asked = Array.from({ length: 600 }, async () => {
    const range = await greedy.call(GetFids, {});
    answers += 1;
    return range;
  });
  const other = world.client('other');
  const { outcome, fids } = await other.connect();
  assert.deepEqual([outcome, fids === undefined], ['new', false]);
  await other.activate();
  const { start, end } = await other.call(GetFids, {});
  assert.ok(end > start);
  assert.ok(answers < 100, `${answers} ranges at once`);
  const ranges = await Promise.all(asked);
  assert.equal(new Set(ranges.map((range) => range.start)).size, 600);
});
