import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FsError } from '../../../../src/base/errno.js';
import { decideStart } from '../../../../src/server/target/version_gate.js';
import { Sync } from '../../../../src/wire/data.js';
import { serverWorld } from '../../../worlds/server_world.js';

function decide(clean: boolean, version: string, forced = false): string {
  const decision = decideStart({ softwareVersion: '1.0.0', clean, label: 'disk' }, version, forced);
  return decision.start ? decision.previousClients : 'refuse';
}

test('the version gate in all cases', () => {
  assert.deepEqual(
    {
      cleanSame: decide(true, '1.0.0'),
      cleanChanged: decide(true, '2.0.0'),
      killedSame: decide(false, '1.0.0'),
      killedChanged: decide(false, '2.0.0'),
      killedChangedForced: decide(false, '2.0.0', true),
      cleanChangedForced: decide(true, '2.0.0', true),
    },
    {
      cleanSame: 'recover',
      cleanChanged: 'recover',
      killedSame: 'recover',
      killedChanged: 'refuse',
      killedChangedForced: 'evict',
      cleanChangedForced: 'recover',
    },
  );
});

test('a refusal names both versions, the missing mark and the way out in one line', () => {
  const decision = decideStart({ softwareVersion: '1.0.0', clean: false, label: 'disk' }, '2.0.0', false);
  assert.ok(!decision.start);
  for (const part of ['1.0.0', '2.0.0', 'no clean mark', 'holdfast shutdown', '--force-start']) {
    assert.ok(decision.message.includes(part), `${part} in: ${decision.message}`);
  }
  assert.ok(!decision.message.includes('\n'));
});

test('a target that only mkfs has touched is served by any version', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server({ softwareVersion: '7.0.0' });
  assert.deepEqual(
    [server.state, server.status().instance, server.status().softwareVersion],
    ['active', 1, '7.0.0'],
  );
});

test('a refused start changes nothing: the old version still starts after it', async (t) => {
  const world = await serverWorld(t);
  const first = await world.server();
  await first.stop();
  await assert.rejects(world.server({ softwareVersion: '2.0.0' }), (error) => {
    return error instanceof FsError && error.code === 'EPERM' && error.message.includes('1.0.0');
  });
  const again = await world.server();
  assert.deepEqual([again.state, again.status().instance], ['active', 2]);
});

test('after a kill the same version starts, and only clients that cannot replay what is lost are evicted', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const old = await world.connected('old');
  const replays = await world.replaying('replays');
  await old.call(Sync, {});
  await world.crash();
  const second = await world.server();
  assert.equal(second.state, 'recovering');
  const reply = await old.connect();
  assert.equal(reply.outcome, 'evicted');
  assert.match(reply.reason ?? '', /was killed, and this client cannot replay/);
  assert.equal(second.status().evicted[0]?.name, 'old');
  old.instance = undefined;
  assert.equal((await old.connect()).outcome, 'new');
  await replays.comeBack();
  assert.equal(second.state, 'active');
});

test('after a kill a client that cannot replay comes back when all that it was told is durable', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const old = await world.connected('old');
  await old.create('f');
  await old.call(Sync, {});
  const lastTransno = old.answered.at(-1)?.transno;
  await world.crash();
  await world.server();
  assert.equal((await old.connect({ lastTransno })).outcome, 'recover');
});

test('a forced start of another version evicts the previous clients', async (t) => {
  const world = await serverWorld(t);
  const first = await world.server();
  const client = await world.connected();
  await first.target?.store.sync();
  await first.stop();
  await world.server({ softwareVersion: '2.0.0', forceStart: true });
  const reply = await client.connect();
  assert.equal(reply.outcome, 'evicted');
  assert.match(reply.reason ?? '', /forced/);
});

test('a client that was upgraded meanwhile is known by its new version', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const client = await world.replaying('client');
  await world.crash();
  await world.server();
  client.softwareVersion = '1.0.1';
  await client.comeBack();
  await client.call(Sync, {});
  await world.crash();
  const third = await world.server();
  const [known] = third.status().clients;
  assert.deepEqual([known?.name, known?.softwareVersion, known?.state], ['client', '1.0.1', 'recovering']);
});
