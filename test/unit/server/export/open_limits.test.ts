import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Fh, Fid } from '../../../../src/base/ids.js';
import { Write } from '../../../../src/wire/data.js';
import { Enqueue } from '../../../../src/wire/lock.js';
import { Close, Getattr, Open } from '../../../../src/wire/meta.js';
import { type RawClient, serverWorld } from '../../../worlds/server_world.js';

const O_RDWR = 2;
const O_TRUNC = 0o1000;

async function limited(t: Parameters<typeof serverWorld>[0], limits: { opens?: number; locks?: number }) {
  const world = await serverWorld(t);
  await world.server({ lockTimeoutMs: 1000 });
  const wish = { kind: 'key', readOnly: false, squashRoot: false, admin: false, from: [] } as const;
  const { key } = world.table.add({ ...wish, name: 'limited', limits });
  await world.table.sync();
  const proof = { kind: 'key', identity: key?.id ?? '' } as const;
  const client = world.client('a');
  client.features = 7;
  client.origin = { proof, address: '10.0.0.1', port: 40_000, sameHost: false };
  await client.connect();
  await client.activate();
  return { world, client };
}

const open = (client: RawClient, fid: Fid, fh: Fh, flags = O_RDWR) =>
  client.errno(Open, { fid, fh, flags, want: 0 });

test('a client with as many open files as it may have gets ENFILE, and nothing has happened', async (t) => {
  const { world, client } = await limited(t, { opens: 2 });
  const other = await world.connected('other');
  const { fid } = (await other.create('f')).attr;
  const bulk = [Buffer.from('content')];
  await other.call(Write, { fid, offset: 0, mtime: { sec: 1, nsec: 0 }, grantUsed: 0 }, { bulk });
  const [first, second, third] = [client.newFh(), client.newFh(), client.newFh()];
  assert.deepEqual(
    [await open(client, fid, first), await open(client, fid, second)],
    ['no error', 'no error'],
  );
  assert.equal(await open(client, fid, third, O_RDWR | O_TRUNC), 'ENFILE');
  const { attr } = await other.call(Getattr, { fid, want: 0 });
  assert.equal(attr.sizeBytes, bulk[0]?.length);
  await assert.rejects(client.create('new', { fh: third, flags: O_RDWR }), { code: 'ENFILE' });
  assert.equal((await other.lookup('new')).attr, undefined);
  assert.equal(await open(client, fid, first), 'no error', 'the same once more');
  await client.call(Close, { fhs: [first] });
  assert.equal(await open(client, fid, third), 'no error');
  assert.equal(await open(other, fid, other.newFh()), 'no error');
});

test('opens that a client has are taken after a crash, however many it may have', async (t) => {
  const { world, client } = await limited(t, { opens: 2 });
  const { fid } = (await client.create('f')).attr;
  await world.crash();
  await world.server();
  const opens = [1, 2, 3, 4].map((fh) => ({ fid, fh: (100 + fh) as Fh, flags: O_RDWR }));
  const { lost } = await client.comeBack(opens);
  assert.deepEqual([lost, await open(client, fid, 200 as Fh)], [[], 'ENFILE']);
});

test('a client at its limit of locks is asked for old ones, and not evicted if it keeps them', async (t) => {
  const { world, client } = await limited(t, { locks: 64 });
  client.yields = false;
  const fids: Fid[] = [];
  for (let at = 0; at < 70; at += 1) fids.push((await client.create(`f${at}`)).attr.fid);
  for (const fid of fids) {
    const { granted } = await client.call(Enqueue, { type: 'inode', fid, mode: 'PR', bits: 2 });
    assert.equal(granted, true);
  }
  await world.time.sleep(10_000);
  assert.deepEqual([client.basts.length > 5, client.evictions, client.closed], [true, [], false]);
  const { locks } = await client.call(Getattr, { fid: fids[0] as Fid, want: 2 });
  assert.deepEqual(locks, []);
});
