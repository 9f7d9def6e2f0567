/** The access table: keys that are made, renewed and taken back, live and over restarts. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Origin } from '../../../../src/runtime/ports.js';
import { AccessAdd, AccessList, AccessRemove, AccessRotate } from '../../../../src/wire/admin.js';
import { Getattr } from '../../../../src/wire/meta.js';
import type { ReplyOf, RequestOf } from '../../../../src/wire/operation.js';
import { type RawClient, type ServerWorld, serverWorld } from '../../../worlds/server_world.js';

const WISH = { kind: 'key', readOnly: false, squashRoot: true, admin: false, from: [], limits: {} } as const;
const DAY_MS = 86_400_000;
const CALL = { connectionOnly: true };

async function admin(world: ServerWorld): Promise<RawClient> {
  const one = world.client();
  await one.connect({ role: 'admin' });
  return one;
}

async function add(
  world: ServerWorld,
  name: string,
  more: Partial<RequestOf<typeof AccessAdd>> = {},
): Promise<NonNullable<ReplyOf<typeof AccessAdd>['key']>> {
  const { key } = await (await admin(world)).call(AccessAdd, { ...WISH, name, ...more }, CALL);
  return key ?? assert.fail('no key');
}

function withKey(identity: string): Origin {
  return { proof: { kind: 'key', identity }, address: '10.0.0.1', port: 40_000, sameHost: false };
}

async function mounted(world: ServerWorld, name: string, key: string): Promise<RawClient> {
  const client = world.client(name);
  client.features = 7;
  client.origin = withKey(key);
  await client.connect({ secret: `secret of ${name}` });
  await client.activate();
  return client;
}

/** What a handshake would find. */
function opens(world: ServerWorld, id: string): boolean {
  return world.table.withKey(id) !== undefined;
}

test('a new key works at once and after a crash; its secret is told once', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const key = await add(world, 'web', { from: ['10.0.0.0/8'], readOnly: true, limits: { clients: 3 } });
  assert.equal(key.secret.length, 32);
  assert.deepEqual(world.table.withKey(key.id)?.key.secret, Buffer.from(key.secret));
  await world.crash();
  await world.server();
  assert.deepEqual(world.table.withKey(key.id)?.key.secret, Buffer.from(key.secret));
  await mounted(world, 'a', key.id);
  const list = await (await admin(world)).call(AccessList, {}, CALL);
  const [entry] = list.entries;
  assert.deepEqual(
    [entry?.name, entry?.kind, entry?.readOnly, entry?.squashRoot, entry?.admin, entry?.from, entry?.clients],
    ['web', 'key', true, true, false, ['10.0.0.0/8'], 1],
  );
  assert.equal(entry?.limits.clients, 3);
  assert.ok(
    !JSON.stringify(list).includes(Buffer.from(key.secret).toString('base64')),
    'no secret is listed',
  );
});

test('what cannot be an entry is refused, and changes nothing', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  await add(world, 'web');
  const asker = await admin(world);
  const codes: string[] = [];
  for (const more of [
    { name: 'web' },
    { name: '' },
    { name: 'a b' },
    { name: '../x' },
    { name: 'x'.repeat(64), from: ['10.0.0.0/8', 'here'] },
  ]) {
    codes.push(await asker.errno(AccessAdd, { ...WISH, ...more }));
  }
  assert.deepEqual(codes, ['EEXIST', 'EINVAL', 'EINVAL', 'EINVAL', 'EINVAL']);
  assert.equal(await asker.errno(AccessRotate, { name: 'nobody', graceMs: 0 }), 'ENOENT');
  assert.equal(await asker.errno(AccessRemove, { name: 'nobody' }), 'ENOENT');
  await asker.call(AccessAdd, { ...WISH, name: 'c', kind: 'certificate' }, CALL);
  assert.equal(await asker.errno(AccessRotate, { name: 'c', graceMs: 0 }), 'EINVAL');
  assert.deepEqual(
    world.table.list().map(({ name }) => name),
    ['c', 'web'],
  );
});

test('after a rotation both keys work until the deadline, and then only the new one', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const old = await add(world, 'web');
  const client = await mounted(world, 'a', old.id);
  const asker = await admin(world);
  const { key } = await asker.call(AccessRotate, { name: 'web', graceMs: DAY_MS / 8640 }, CALL);
  assert.deepEqual([opens(world, old.id), opens(world, key.id)], [true, true]);
  assert.equal(client.closed, false);
  // The connection with the old key ends, and the client comes back with the new one: the same session.
  await world.time.until('the old key has run out', () => client.closed);
  assert.deepEqual([opens(world, old.id), opens(world, key.id)], [false, true]);
  client.origin = withKey(key.id);
  assert.equal((await client.connect({ secret: 'secret of a' })).outcome, 'resumed');
  await world.crash();
  await world.server();
  assert.deepEqual([opens(world, old.id), opens(world, key.id)], [false, true]);
});

test('a rotation without a grace period takes the old key back at once', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const old = await add(world, 'web');
  const { key } = await (await admin(world)).call(AccessRotate, { name: 'web', graceMs: 0 }, CALL);
  assert.deepEqual([opens(world, old.id), opens(world, key.id)], [false, true]);
});

test('who is removed is evicted at once, comes in no more, and nobody else notices', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const keys = [await add(world, 'gone'), await add(world, 'stays')];
  const gone = await mounted(world, 'gone', keys[0]?.id ?? '');
  const twin = await mounted(world, 'twin', keys[0]?.id ?? '');
  const stays = await mounted(world, 'stays', keys[1]?.id ?? '');
  const status = world.client();
  status.origin = withKey(keys[0]?.id ?? '');
  await status.connect({ role: 'admin' });
  const { evicted } = await (await admin(world)).call(AccessRemove, { name: 'gone' }, CALL);
  assert.equal(evicted, 2);
  await world.time.until('its connections end', () => gone.closed && twin.closed && status.closed);
  assert.match(gone.evictions.join(), /removed from the access table/);
  await assert.rejects(gone.connect({ secret: 'secret of gone' }), { code: 'EACCES' });
  assert.equal((await stays.call(Getattr, { fid: 1 as never, want: 0 })).attr.fid, 1);
  await world.crash();
  await world.server();
  assert.deepEqual([opens(world, keys[0]?.id ?? ''), opens(world, keys[1]?.id ?? '')], [false, true]);
});

test('who is removed while the recovery waits for it is not waited for any more', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const keys = [await add(world, 'gone'), await add(world, 'stays')];
  const gone = await mounted(world, 'gone', keys[0]?.id ?? '');
  const stays = await mounted(world, 'stays', keys[1]?.id ?? '');
  await world.crash();
  await world.server();
  assert.equal((await stays.connect({ secret: 'secret of stays' })).outcome, 'recover');
  await stays.replayAll();
  const over = stays.recover();
  const { evicted } = await (await admin(world)).call(AccessRemove, { name: 'gone' }, CALL);
  assert.equal(evicted, 1);
  await over;
  assert.equal(world.last.state, 'active');
  await assert.rejects(gone.connect({ secret: 'secret of gone' }), { code: 'EACCES' });
});

test('who is removed while it drains does not hold the shutdown up', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  const key = await add(world, 'gone');
  await mounted(world, 'gone', key.id);
  const asker = await admin(world);
  const over = server.shutdown();
  await world.time.until('it drains', () => server.state === 'draining');
  await asker.call(AccessRemove, { name: 'gone' }, CALL);
  assert.equal(await over, 'clean');
});
