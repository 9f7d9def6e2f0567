/**
 * When a server starts: the version is unchanged, or the mark is clean, or it is forced. Otherwise it refuses and
 * changes nothing. Until crash recovery exists, clients of a killed server are evicted.
 */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import test from 'node:test';
import { type Agent, O } from '../fixtures/agent.js';
import { type Cluster, startCluster } from '../fixtures/cluster.js';
import { nextTree, otherBuild } from '../fixtures/installed_tree.js';
import { loopsUnder } from '../fixtures/leftovers.js';
import { until, within } from '../fixtures/until.js';

async function digest(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

const digests = (cluster: Cluster): Promise<string[]> =>
  Promise.all([cluster.devices.meta, cluster.devices.data].map(digest));

/** Loop devices go with the process that held them; only then do files show what devices hold. */
const released = (cluster: Cluster): Promise<unknown> =>
  until('the devices are released', () => loopsUnder(cluster.folder).length === 0);

/** A file with durable content, and one that is open. */
async function withOpenFile(cluster: Cluster): Promise<{ agent: Agent; fd: number }> {
  const agent = cluster.agent();
  await agent.writeFile('durable', 'kept');
  const fd = await agent.open('open', O.CREAT | O.RDWR);
  await agent.write(fd, 'text');
  await agent.fsync(fd);
  await agent.fsync(await agent.open('durable', O.RDONLY));
  return { agent, fd };
}

for (const changed of [false, true]) {
  test(`clean and ${changed ? 'changed' : 'the same version'}: it starts, and clients go on`, async (t) => {
    const cluster = await startCluster(t);
    const { agent, fd } = await withOpenFile(cluster);
    const { instance } = cluster.server;
    await cluster.shutdown();
    await cluster.serve(changed ? { tree: cluster.otherTree() } : {});
    assert.deepEqual([await agent.pread(fd, 0, 10), cluster.server.instance > instance], ['text', true]);
  });
}

/** What an evicted client's users see: errors on what was open, a working mount otherwise. */
async function assertEvicted(cluster: Cluster, agent: Agent, fd: number): Promise<void> {
  await until('the old handle fails', async () => {
    const failed = await agent.pread(fd, 0, 10).then(
      () => false,
      (error: { code?: string }) => error.code === 'EIO',
    );
    return failed;
  });
  await assert.rejects(agent.write(fd, 'x'), { code: 'EIO' });
  assert.equal(await within('new operations work', agent.readFile('durable')), 'kept');
  await agent.writeFile('new', 'made after');
  assert.equal(await agent.readFile('new'), 'made after');
  const { evicted } = await cluster.status();
  assert.equal(evicted.length, 1, JSON.stringify(evicted));
  assert.ok((evicted[0]?.reason.length ?? 0) > 10, 'the eviction says why');
}

/** The handle is as it was, and nobody is evicted. */
async function assertRecovered(cluster: Cluster, agent: Agent, fd: number): Promise<void> {
  assert.equal(await within('the old handle reads', agent.pread(fd, 0, 4)), 'text');
  await agent.pwrite(fd, 4, ' goes on');
  await agent.fsync(fd);
  assert.equal(await agent.pread(fd, 0, 12), 'text goes on');
  assert.deepEqual((await cluster.status()).evicted, []);
}

test('killed and the same version: it starts, and its clients recover', async (t) => {
  const cluster = await startCluster(t);
  const { agent, fd } = await withOpenFile(cluster);
  await cluster.crash();
  await assertRecovered(cluster, agent, fd);
});

for (const [what, other] of [
  ['changed', nextTree],
  ['another build of the same package version', otherBuild],
] as const) {
  test(`killed and ${what}: it refuses, names both versions, the mark and the way out, and changes nothing`, async (t) => {
    const cluster = await startCluster(t);
    const { agent, fd } = await withOpenFile(cluster);
    const old = cluster.tree;
    await cluster.killServer();
    await released(cluster);
    const before = await digests(cluster);
    const newer = other();
    const refused = cluster.startServer({ tree: newer });
    const exit = await within('the refusal', refused.child.exited);
    await released(cluster);
    const message = refused.child.stderr.join('\n');
    assert.deepEqual(
      [exit.code, refused.child.stdout, refused.child.stderr.length, await digests(cluster)],
      [1, [], 1, before],
      message,
    );
    for (const part of [old.version, newer.version, 'clean', '--force-start'])
      assert.ok(message.includes(part), message);
    // The way back: the old version still starts.
    await cluster.serve({ tree: old });
    await assertRecovered(cluster, agent, fd);
  });
}

test('killed and changed, forced: it starts and evicts the clients from before', async (t) => {
  const cluster = await startCluster(t);
  const { agent, fd } = await withOpenFile(cluster);
  await cluster.killServer();
  await cluster.serve({ tree: cluster.otherTree(), args: ['--force-start'] });
  await assertEvicted(cluster, agent, fd);
});

test('a client that was away during a clean shutdown and has only opens comes back to all of them', async (t) => {
  const cluster = await startCluster(t);
  const { agent, fd } = await withOpenFile(cluster);
  const [mount] = cluster.mounts;
  await cluster.shutdown();
  mount?.child.kill('SIGSTOP');
  await cluster.serve({ tree: cluster.otherTree() });
  mount?.child.kill('SIGCONT');
  assert.equal(await agent.pread(fd, 0, 10), 'text');
});

test('killed in the middle of a controlled shutdown, whenever: the mark is not there early', async (t) => {
  const cluster = await startCluster(t);
  const agent = cluster.agent();
  const delaysMs = [0, 2, 5, 10, 20, 40, 80];
  let refusals = 0;
  for (const delayMs of delaysMs) {
    const fd = await agent.open(`f${delayMs}`, O.CREAT | O.RDWR);
    await agent.call('write_pattern', { fd, seed: delayMs, offset: 0, length: 3_000_000 });
    const { child } = cluster.server;
    const log = cluster.server;
    child.kill('SIGTERM');
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    child.kill('SIGKILL');
    const { code } = await child.exited;
    const newer = cluster.otherTree();
    const next = cluster.startServer({ tree: newer });
    const started = await Promise.race([
      next.ready().then(
        () => true,
        () => false,
      ),
      next.child.exited.then(() => false),
    ]);
    if (code === 0) assert.equal(started, true, 'a server that ended cleanly left its mark');
    if (!started) {
      refusals += 1;
      await cluster.serve({ tree: newer, args: ['--force-start'] });
    } else {
      // It took the mark for true, so everything must be there.
      cluster.adopt(next);
      const length = 3_000_000;
      const again = await agent.open(`f${delayMs}`, O.RDONLY);
      assert.equal(await agent.call('check_pattern', { fd: again, seed: delayMs, offset: 0, length }), null);
    }
    assert.notEqual(log, cluster.server);
  }
  t.diagnostic(`${refusals} of ${delaysMs.length} starts were refused`);
});
