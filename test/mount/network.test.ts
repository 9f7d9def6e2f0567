/** Client and server on different hosts of a small network whose cables are pulled. */

import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { type Agent, O } from '../fixtures/agent.js';
import { type Cluster, prepareCluster } from '../fixtures/cluster.js';
import { type Host, Network } from '../fixtures/hosts.js';
import { until } from '../fixtures/until.js';

interface Site {
  readonly cluster: Cluster;
  readonly network: Network;
  /** The client whose link is cut. */
  readonly far: Host;
}

/** A server and two clients, on three hosts. */
async function site(t: TestContext, limitMs: number): Promise<Site> {
  const network = await Network.make();
  const cluster = prepareCluster(t, { limitMs });
  cluster.whenEnded(() => network.remove());
  const [server, far, near] = [
    await network.addHost('srv'),
    await network.addHost('far'),
    await network.addHost('near'),
  ];
  await cluster.cliOk(['mkfs', ...cluster.deviceArgs, '--label', 'test']);
  await cluster.serve({ on: server, listen: `${server.address}:0` });
  await cluster.addMount([], undefined, far);
  await cluster.addMount([], undefined, near);
  return { cluster, network, far };
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Creates, one after the other, until told to stop. @returns how many. */
async function creates(agent: Agent, folder: string, stopped: () => boolean): Promise<number> {
  let count = 0;
  for (; !stopped(); count++) await agent.writeFile(`${folder}/f${count}`, `${count}`);
  return count;
}

test('a link that is down for 5 s is a pause and nothing else, for those who were cut off', async (t) => {
  const { cluster, network, far } = await site(t, 90_000);
  const [agent, other] = [cluster.agent(0), cluster.agent(1)];
  await agent.mkdir('far');
  await other.mkdir('near');
  await other.writeFile('near/first', 'its folder is known');
  const fd = await agent.open('dirty', O.CREAT | O.RDWR);
  const locked = await agent.open('lock', O.CREAT | O.RDWR);
  await agent.call('lock', { fd: locked, type: 'write', how: 'set', start: 0, length: 1 });
  let stop = false;
  const working = creates(agent, 'far', () => stop);
  working.catch(() => undefined);
  const writer = cluster.agent(0);
  const written = await writer.open('dirty', O.RDWR);
  await writer.call('write_pattern', { fd: written, seed: 9, offset: 0, length: 3 << 20 });
  await network.cut(far);
  const began = performance.now();
  // What the one that is cut off has no lock on goes on at once; what it has waits for it.
  await other.writeFile('near/meanwhile', 'the others go on');
  assert.ok(performance.now() - began < 2000);
  const shared = other.writeFile('shared', 'made when the link was back');
  await pause(5000);
  await network.heal(far);
  await shared;
  const waitedMs = performance.now() - began;
  const probe = cluster.agent(0);
  assert.equal(await probe.readFile('near/meanwhile'), 'the others go on');
  assert.equal(await probe.readFile('shared'), 'made when the link was back');
  stop = true;
  const count = await working;
  await agent.fsync(fd);
  const seen = await other.open('dirty', O.RDONLY);
  assert.equal(await other.call('check_pattern', { fd: seen, seed: 9, offset: 0, length: 3 << 20 }), null);
  assert.equal((await other.list('far')).length, count);
  const refused = other
    .open('lock', O.RDWR)
    .then((lock) => other.call('lock', { fd: lock, type: 'write', how: 'set', start: 0, length: 1 }));
  await assert.rejects(refused, { code: 'EAGAIN' });
  assert.deepEqual((await cluster.status()).evicted, []);
  t.diagnostic(`${count} files created; a lock of the one cut off was waited for ${Math.round(waitedMs)} ms`);
});

test('a link that is down for 120 s gets its client evicted, alone; when it heals the mount is usable', {
  timeout: 220_000,
}, async (t) => {
  const { cluster, network, far } = await site(t, 210_000);
  const [agent, other] = [cluster.agent(0), cluster.agent(1)];
  const fd = await agent.open('dirty', O.CREAT | O.RDWR);
  await agent.pwrite(fd, 0, 'committed');
  await agent.fsync(fd);
  await network.cut(far);
  await agent.pwrite(fd, 0, 'DIRTY....');
  const blocked = cluster.agent(0);
  const creating = blocked.open('new', O.CREAT | O.RDWR);
  await blocked.blocked();
  const began = performance.now();
  // It wants the lock under which the other one has dirty data.
  assert.equal(await other.readFile('dirty'), 'committed');
  const waitedMs = performance.now() - began;
  await until('it is evicted', async () => (await cluster.status()).evicted.length === 1, 90_000);
  await pause(Math.max(0, 120_000 - (performance.now() - began)));
  await network.heal(far);
  // What waited without a handle is done by the client that is back; what was dirty is lost, and said once.
  const made = await creating;
  await blocked.write(made, 'it works');
  await blocked.fsync(made);
  await assert.rejects(agent.fsync(fd), { code: 'EIO' });
  assert.equal(await agent.readFile('dirty'), 'committed');
  assert.equal(await other.readFile('new'), 'it works');
  const { evicted, clients } = await cluster.status();
  assert.deepEqual([evicted.length, clients.length], [1, 2]);
  t.diagnostic(`the other client waited ${Math.round(waitedMs)} ms for the lock`);
});
