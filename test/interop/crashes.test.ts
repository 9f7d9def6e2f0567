/** A server that was killed, and clients of two versions: who recovers, who is evicted, and that it is said. */

import assert from 'node:assert/strict';
import { hostname } from 'node:os';
import test, { type TestContext } from 'node:test';
import { type Agent, LOCK, O } from '../fixtures/agent.js';
import type { Cluster } from '../fixtures/cluster.js';
import { MIB } from '../fixtures/devices.js';
import { until, within } from '../fixtures/until.js';
import { type Age, cluster, evictedWithReason, skip, treeFor } from './ages.js';

interface Two {
  readonly made: Cluster;
  readonly old: Agent;
  readonly current: Agent;
}

/** A server of that version, and an old client and a new one. */
async function twoClients(t: TestContext, server: Age): Promise<Two> {
  const made = await cluster(t, server, ['old', 'new']);
  return { made, old: made.agent(0), current: made.agent(1) };
}

function dirOf(made: Cluster, mount: number): string {
  const dir = made.mounts[mount]?.dir;
  assert.ok(dir !== undefined);
  return dir;
}

/** It has changed the file that the descriptor stands for, and lost that. */
async function hasLost(agent: Agent, fd: number): Promise<void> {
  await assert.rejects(within('fsync', agent.fsync(fd), 30_000), { code: 'EIO' });
  await assert.rejects(agent.pread(fd, 0, 1), { code: 'EIO' });
  await assert.rejects(agent.pwrite(fd, 0, 'x'), { code: 'EIO' });
}

test('a new server killed and started again: the new client recovers, the old one is evicted, and that is said', {
  skip,
}, async (t) => {
  const { made, old, current } = await twoClients(t, 'new');
  await old.writeFile('durable', 'kept');
  await old.fsync(await old.open('durable', O.RDONLY));
  const [lost, kept] = [
    await old.open('lost', O.CREAT | O.RDWR),
    await current.open('kept', O.CREAT | O.RDWR),
  ];
  await current.call('write_pattern', { fd: kept, seed: 1, offset: 0, length: 4 * MIB });
  await current.unlink('kept');
  await old.write(lost, 'dirty');
  await current.writeFile('lock', '');
  const [held, wanted] = [await old.open('lock', O.RDWR), await current.open('lock', O.RDWR)];
  await old.flock(held, LOCK.EX);
  const waits = current.flock(wanted, LOCK.EX);
  await current.blocked();

  const server = await made.crash();
  await hasLost(old, lost);
  assert.deepEqual(await evictedWithReason(made), [`${hostname()}:${dirOf(made, 0)}`]);
  await server.child.line(new RegExp(`client .*${dirOf(made, 0)} .* is evicted: .*replay`));
  // Its lock goes to who waited for it, as the rest of the new client's state goes on.
  await within('the lock goes over', waits);
  const other = made.agent(1);
  assert.equal(await current.call('check_pattern', { fd: kept, seed: 1, offset: 0, length: 4 * MIB }), null);
  assert.equal((await current.fstat(kept)).nlink, 0);
  assert.equal(await within('the old client goes on', old.readFile('durable')), 'kept');
  await old.writeFile('by old', 'after');
  assert.equal(await other.readFile('by old'), 'after');
  await assert.rejects(old.flock(held, LOCK.SH), { code: 'EIO' });
});

test('an old server killed, a new one force-started: both clients lose what was open, and go on without a remount', {
  skip,
}, async (t) => {
  const { made, old, current } = await twoClients(t, 'old');
  const agents = [old, current];
  const fds = await Promise.all(agents.map((agent, at) => agent.open(`open${at}`, O.CREAT | O.RDWR)));
  await Promise.all(agents.map((agent, at) => agent.fsync(fds[at] ?? -1)));
  await Promise.all(agents.map((agent, at) => agent.write(fds[at] ?? -1, 'dirty')));
  await made.killServer();
  const refused = await made.cli(['serve', ...made.deviceArgs, '--listen', made.address], treeFor('new'));
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /left no clean mark.*--force-start/);
  const server = await made.serve({ tree: treeFor('new'), args: ['--force-start'] });
  for (const [at, agent] of agents.entries()) {
    await hasLost(agent, fds[at] ?? -1);
    await server.child.line(new RegExp(`client .*${dirOf(made, at)} .* is evicted: `));
    await within('a new operation', agent.writeFile(`new${at}`, `${at}`));
  }
  assert.equal((await evictedWithReason(made)).length, 2);
  assert.deepEqual(
    [await old.readFile('new1'), await current.readFile('new0'), await current.list()],
    ['1', '0', ['new0', 'new1', 'open0', 'open1']],
  );
  const states = await until('both are connected', async () => {
    const { clients } = await made.status();
    return clients.length === 2 && clients.map(({ state }) => state);
  });
  assert.deepEqual(states, ['connected', 'connected']);
});
