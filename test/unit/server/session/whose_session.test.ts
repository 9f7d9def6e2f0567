/** Whose a session is, what its UUID alone gives (nothing), and what READ and WRITE need. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Fid } from '../../../../src/base/ids.js';
import type { Origin } from '../../../../src/runtime/ports.js';
import {
  AccessList,
  AccessRemove,
  AccessRotate,
  Evict,
  Shutdown,
  Status,
} from '../../../../src/wire/admin.js';
import { Read, Sync, Write } from '../../../../src/wire/data.js';
import { Enqueue } from '../../../../src/wire/lock.js';
import { Create, Getattr } from '../../../../src/wire/meta.js';
import { type RawClient, type ServerWorld, serverWorld } from '../../../worlds/server_world.js';

const proof = { kind: 'none' } as const;
const PLAIN = { proof, address: '10.0.0.1', port: 1023, sameHost: false };
const USER_HERE: Origin = { proof: { kind: 'local', uid: 1000, trusted: false }, port: 0, sameHost: true };
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

/** Where a peer comes from that has a new key. */
function keyOrigin(world: ServerWorld, name: string, admin = false): Origin {
  const wish = { kind: 'key', readOnly: false, squashRoot: false, from: [], limits: {} } as const;
  const { key } = world.table.add({ ...wish, name, admin });
  return {
    proof: { kind: 'key', identity: key?.id ?? '' },
    address: '10.0.0.1',
    port: 40_000,
    sameHost: false,
  };
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

test('what was refused may do nothing else on the connection', async (t) => {
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
  assert.ok(
    world.said.some((line) => /^refuses .*run the command as root/.test(line)),
    world.said.join('\n'),
  );
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

test('a session belongs to the key that it was made with: its UUID and secret give nothing', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const [own, other] = ['own', 'other'].map((name) => keyOrigin(world, name));
  const client = world.client('owner');
  client.origin = own;
  client.features = 7;
  await client.connect({ secret: SECRET });
  await client.activate();
  const { fid } = (await client.create('f', { fh: client.newFh(), flags: 2 })).attr;
  await client.call(Sync, {});
  const steal = async (): Promise<string[]> => {
    const outcomes: string[] = [];
    for (const origin of [other, undefined, PLAIN]) {
      const thief = world.client('thief');
      thief.origin = origin;
      const said = {
        uuid: client.uuid as never,
        secret: SECRET,
        previousInstance: client.instance,
        connCount: 1000,
      };
      outcomes.push(await connectErrno(thief, said));
    }
    return outcomes;
  };
  assert.deepEqual(await steal(), ['EACCES', 'EACCES', 'EACCES']);
  await world.crash();
  await world.server();
  assert.deepEqual(await steal(), ['EACCES', 'EACCES', 'EACCES']);
  assert.equal(await connectErrno(client, { secret: SECRET, hasMoreThanOpens: true }), 'recover');
  await client.replayAll([{ fid, fh: 1 as never, flags: 2 }]);
  await client.recover([{ fid, fh: 1 as never, flags: 2 }]);
  assert.equal((await client.call(Getattr, { fid, want: 0 })).attr.fid, fid);
});

test('a client of a key is the same client through the Unix socket of the host of the server', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  const client = world.client('moves');
  client.origin = keyOrigin(world, 'web');
  await client.connect({ secret: SECRET });
  await client.activate();
  client.origin = undefined;
  const { targetUuid } = server.target?.store.superblock ?? {};
  const claims = [
    undefined,
    { name: 'web', targetUuid: client.uuid },
    { name: 'nobody' },
    { name: 'web', targetUuid },
  ];
  const outcomes: string[] = [];
  for (const access of claims) outcomes.push(await connectErrno(client, { secret: SECRET, access }));
  assert.deepEqual(outcomes, ['EACCES', 'EACCES', 'EACCES', 'resumed']);
});

test('a session of a release without keys goes on with its secret alone', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  const { client } = await withSecret(world);
  await client.call(Sync, {});
  const { store } = server.target ?? assert.fail('no target');
  const [record] = store.clients();
  store.execute((tx) => tx.putClient({ ...(record ?? assert.fail('no record')), principal: undefined }));
  await store.sync();
  await world.crash();
  await world.server();
  client.origin = keyOrigin(world, 'web');
  assert.equal(await connectErrno(client, { secret: SECRET.replace('6', '7') }), 'EACCES');
  assert.equal(await connectErrno(client, { secret: SECRET, hasMoreThanOpens: true }), 'recover');
  await client.replayAll();
  await client.recover();
  assert.equal(world.last.status().clients[0]?.access, 'key:web');
});

test('only an administrator sees clients and changes something; a key without --admin sees how the server is', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  const client = await world.connected('a');
  const answers: string[] = [];
  for (const origin of [undefined, keyOrigin(world, 'boss', true), keyOrigin(world, 'web')]) {
    const admin = world.client();
    admin.origin = origin;
    await admin.connect({ role: 'admin' });
    const status = await admin.call(Status, {}, LOST);
    answers.push([status.state, status.clients.length, status.brief === true].join(' '));
    const asks = [
      () => admin.errno(Evict, { client: 'nobody there' }),
      () => admin.errno(AccessList, {}),
      () => admin.errno(AccessRemove, { name: 'nobody there' }),
      () => admin.errno(AccessRotate, { name: 'nobody there', graceMs: 0 }),
      () => admin.errno(Shutdown, { cancel: true }),
    ];
    for (const ask of asks) answers.push(await ask());
  }
  const all = ['active 1 false', 'ENOENT', 'no error', 'ENOENT', 'ENOENT', 'no error'];
  const refused = ['active 0 true', 'EACCES', 'EACCES', 'EACCES', 'EACCES', 'EACCES'];
  assert.deepEqual(answers, [...all, ...all, ...refused]);
  assert.equal(server.state, 'active');
  assert.equal(client.closed, false);
});

test('who is no administrator holds few connections by asking for the status', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const origin = keyOrigin(world, 'web');
  const watchers: RawClient[] = [];
  let made = 0;
  const watch = async (from: Origin): Promise<string> => {
    const watcher = world.client(`watcher${++made}`);
    watcher.origin = from;
    watchers.push(watcher);
    return connectErrno(watcher, { role: 'admin' });
  };
  const outcomes: string[] = [];
  for (let n = 0; n < 40; n += 1) outcomes.push(await watch(origin));
  assert.deepEqual(outcomes, [...Array(32).fill('new'), ...Array(8).fill('EACCES')]);
  // Neither others nor the entry's own clients are concerned.
  assert.equal(await watch(keyOrigin(world, 'other')), 'new');
  assert.equal(await watch(keyOrigin(world, 'root', true)), 'new');
  const client = world.client('c');
  client.origin = origin;
  assert.equal(await connectErrno(client, { secret: SECRET }), 'new');
  await watchers[0]?.lose();
  assert.equal(await watch(origin), 'new');
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

test('a client cannot name an object by a FID that another client got', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const [one, other] = [await world.connected('one'), await world.connected('other')];
  const fid = one.newFid();
  const request = { parent: 1 as Fid, mode: 0o100_644, umask: 0, uid: 0, gid: 0, exclusive: true, want: 0 };
  assert.equal(await other.errno(Create, { ...request, fid, name: 'taken' as never }), 'EPROTO');
  assert.equal(await one.errno(Create, { ...request, fid, name: 'own' as never }), 'no error');
});
