/** Who is trusted: source ports, the secret of a client, and what READ and WRITE need. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Fid } from '../../../../src/base/ids.js';
import { Evict, Shutdown, Status } from '../../../../src/wire/admin.js';
import { Read, Sync, Write } from '../../../../src/wire/data.js';
import { Enqueue } from '../../../../src/wire/lock.js';
import { Getattr } from '../../../../src/wire/meta.js';
import { type RawClient, type ServerWorld, serverWorld } from '../../../worlds/server_world.js';

const proof = { kind: 'none' } as const;
const ROOT_ELSEWHERE = { proof, port: 1023, sameHost: false };
const USER_HERE = { proof, port: 1024, sameHost: true };
const SECRET = '6ad1a0f3-9c5e-4c53-8c5b-0a4f5cf4c6b1';
/** The call ends with its connection. */
const LOST = { connectionOnly: true };

async function connectErrno(
  client: RawClient,
  request: Parameters<RawClient['connect']>[0],
): Promise<string> {
  try {
    return (await client.connect(request)).outcome;
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
}

/** A client with a secret that holds a file open. */
async function withSecret(world: ServerWorld): Promise<{ client: RawClient; fid: Fid }> {
  const client = world.client('owner');
  client.features = 7;
  await client.connect({ secret: SECRET });
  await client.activate();
  const { fid } = (await client.create('f', { fh: client.newFh(), flags: 2 })).attr;
  return { client, fid };
}

test('connections of clients and administrators come from ports below 1024', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const outcomes: string[] = [];
  for (const role of ['client', 'admin'] as const) {
    for (const origin of [USER_HERE, { proof, port: 65_535, sameHost: false }, ROOT_ELSEWHERE]) {
      const client = world.client();
      client.origin = origin;
      outcomes.push(await connectErrno(client, { role }));
    }
  }
  assert.deepEqual(outcomes, ['EACCES', 'EACCES', 'new', 'EACCES', 'EACCES', 'new']);
});

test('what was refused for its port may do nothing else on the connection', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  for (const operation of [Status, Shutdown] as const) {
    const stranger = world.client();
    stranger.origin = USER_HERE;
    assert.equal(await connectErrno(stranger, { role: 'admin' }), 'EACCES');
    const asked = operation === Status ? stranger.call(Status, {}, LOST) : stranger.call(Shutdown, {}, LOST);
    await assert.rejects(asked, { code: 'ENOTCONN' });
  }
  assert.equal(server.state, 'active');
});

test('a server with --any-port takes connections from every port', async (t) => {
  const world = await serverWorld(t);
  await world.server({ anyPort: true });
  const client = world.client();
  client.origin = USER_HERE;
  assert.equal(await connectErrno(client, {}), 'new');
});

test('a client that names the UUID of another is refused, and the other goes on', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  const { client, fid } = await withSecret(world);
  const { instance } = client;
  for (const secret of [undefined, '', SECRET.slice(1), SECRET.replace('6', '7')]) {
    for (const previousInstance of [undefined, instance, 0]) {
      const thief = world.client('thief');
      const said = { uuid: client.uuid as never, secret, previousInstance, connCount: 1000 };
      assert.equal(await connectErrno(thief, said), 'EACCES');
    }
  }
  assert.equal((await client.call(Getattr, { fid, want: 0 })).attr.fid, fid);
  const [status] = server.status().clients;
  assert.deepEqual([status?.name, status?.opens, status?.state], ['owner', 1, 'connected']);
});

test('a client whose first answer was lost connects again with its secret', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const { client } = await withSecret(world);
  assert.equal(
    await connectErrno(client, { secret: SECRET, previousInstance: undefined }),
    'new',
    'it does not know of a first answer',
  );
});

test('the next server knows the secret too: nobody recovers in the place of a client', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const { client, fid } = await withSecret(world);
  await world.crash();
  await world.server();
  const thief = world.client('thief');
  for (const secret of [undefined, 'x'.repeat(SECRET.length)]) {
    const said = { uuid: client.uuid as never, secret, previousInstance: client.instance, connCount: 1000 };
    assert.equal(await connectErrno(thief, said), 'EACCES');
  }
  assert.equal(await connectErrno(client, { secret: SECRET, hasMoreThanOpens: true }), 'recover');
  await client.replayAll([{ fid, fh: 1 as never, flags: 2 }]);
  await client.recover([{ fid, fh: 1 as never, flags: 2 }]);
  assert.equal((await client.call(Getattr, { fid, want: 0 })).attr.fid, fid);
});

test('a client that learned to have a secret between two servers keeps it from then on', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const client = await world.replaying('upgraded');
  await world.crash();
  await world.server();
  assert.equal(await connectErrno(client, { secret: SECRET, hasMoreThanOpens: true }), 'recover');
  await client.replayAll();
  await client.recover();
  await client.call(Sync, {});
  await world.crash();
  await world.server();
  assert.equal(
    await connectErrno(world.client(), { uuid: client.uuid as never, previousInstance: 1 }),
    'EACCES',
  );
  assert.equal(await connectErrno(client, { secret: SECRET }), 'recover');
});

test('STATUS and EVICT tell whole UUIDs to root of the same host only', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const client = await world.connected('a');
  const shown: string[] = [];
  for (const origin of [undefined, ROOT_ELSEWHERE]) {
    const admin = world.client();
    admin.origin = origin;
    await admin.connect({ role: 'admin' });
    const { clients } = await admin.call(Status, {}, { connectionOnly: true });
    shown.push(...clients.map(({ uuid }) => uuid));
    if (origin === undefined) continue;
    // What it is shown is enough to name the client.
    const evicted = await admin.call(Evict, { client: shown.at(-1) ?? '' }, { connectionOnly: true });
    shown.push(evicted.uuid);
    const after = await admin.call(Status, {}, { connectionOnly: true });
    shown.push(...after.evicted.map(({ uuid }) => uuid));
  }
  const short = client.uuid.slice(0, 8);
  assert.deepEqual(shown, [client.uuid, short, short, short]);
});

test('READ and WRITE without a lock that allows them are refused', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const owner = await world.connected('owner');
  const other = await world.connected('other');
  other.locksContent = false;
  const { fid } = (await owner.create('f')).attr;
  const request = { fid, offset: 0, mtime: { sec: 1, nsec: 0 }, grantUsed: 0 };
  const write = (client: RawClient, text: string): Promise<unknown> =>
    client.call(Write, request, { bulk: [Buffer.from(text)] });
  await write(owner, 'kept');
  await assert.rejects(write(other, 'lost'), { code: 'EPERM' });
  assert.equal(await other.errno(Read, { fid, offset: 0, length: 4 }), 'EPERM');
  await other.call(Enqueue, { type: 'data', fid, mode: 'PR' });
  await assert.rejects(write(other, 'lost'), { code: 'EPERM' });
  const { bulk } = await other.answer(Read, { fid, offset: 0, length: 4 });
  assert.equal(Buffer.from(bulk).toString(), 'kept');
  await other.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  await write(other, 'mine');
});
