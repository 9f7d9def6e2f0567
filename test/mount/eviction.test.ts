/** A client that does not answer is evicted, alone, and comes back without a remount. */

import assert from 'node:assert/strict';
import test from 'node:test';
import { O } from '../fixtures/agent.js';
import { type Cluster, type Mount, startCluster } from '../fixtures/cluster.js';
import { until, within } from '../fixtures/until.js';

function mountOf(cluster: Cluster, index: number): Mount {
  const mount = cluster.mounts[index];
  assert.ok(mount !== undefined);
  return mount;
}

test('a client stopped during a controlled shutdown is evicted after the drain timeout, alone', async (t) => {
  const cluster = await startCluster(t, { mounts: 2 });
  const [good, stopped] = [cluster.agent(0), cluster.agent(1)];
  await good.writeFile('kept', 'kept');
  const goodFd = await good.open('good', O.CREAT | O.RDWR);
  const stoppedFd = await stopped.open('stopped', O.CREAT | O.RDWR);
  await good.write(goodFd, 'good');
  await stopped.write(stoppedFd, 'stopped');
  await stopped.fsync(stoppedFd);
  const { child } = mountOf(cluster, 1);
  child.kill('SIGSTOP');
  const began = performance.now();
  await cluster.shutdownEvicting(2);
  const tookMs = performance.now() - began;
  assert.ok(tookMs > 1900 && tookMs < 40_000, `${tookMs} ms`);
  await cluster.serve({ tree: cluster.otherTree() });
  assert.equal(await good.pread(goodFd, 0, 10), 'good');
  child.kill('SIGCONT');
  await until('the old handle fails', () =>
    stopped.pread(stoppedFd, 0, 10).then(
      () => false,
      (error: { code?: string }) => error.code === 'EIO',
    ),
  );
  assert.deepEqual([await stopped.readFile('kept'), await stopped.readFile('stopped')], ['kept', 'stopped']);
  await stopped.writeFile('new', 'works');
  assert.equal(await good.readFile('new'), 'works');
});

test('a client that does not give a lock back is evicted, so that others go on', async (t) => {
  const cluster = await startCluster(t, { mounts: 2 });
  const [good, stopped] = [cluster.agent(0), cluster.agent(1)];
  const fd = await stopped.open('f', O.CREAT | O.RDWR);
  await stopped.write(fd, 'x');
  await stopped.fsync(fd);
  const { child } = mountOf(cluster, 1);
  child.kill('SIGSTOP');
  assert.equal(await within('the other reads', good.readFile('f'), 45_000), 'x');
  child.kill('SIGCONT');
  await until('the old handle fails', () =>
    stopped.pread(fd, 0, 10).then(
      () => false,
      (error: { code?: string }) => error.code === 'EIO',
    ),
  );
  assert.equal(await stopped.readFile('f'), 'x');
});

test('stores into a mapping that an eviction loses are told by msync, fsync and close', async (t) => {
  const cluster = await startCluster(t);
  const agent = cluster.agent();
  const mapped = async (name: string): Promise<{ fd: number; map: number }> => {
    const fd = await agent.open(name, O.CREAT | O.RDWR);
    await agent.ftruncate(fd, 8192);
    return { fd, map: await agent.call<number>('mmap', { fd, length: 8192 }) };
  };
  const [synced, fsynced, closed] = [await mapped('a'), await mapped('b'), await mapped('c')];
  // A page that is in the mapping and clean is stored to without a word to the client.
  for (const { map } of [synced, fsynced, closed]) {
    await agent.call('map_write', { map, offset: 0, data: 'kept' });
    await agent.call('msync', { map });
    await agent.call('map_write', { map, offset: 100, data: 'lost' });
  }
  await cluster.cliOk(['evict', cluster.address, (await cluster.mountStatus(mountOf(cluster, 0))).uuid]);
  await until('the old handle fails', () =>
    agent.pread(synced.fd, 0, 10).then(
      () => false,
      (error: { code?: string }) => error.code === 'EIO',
    ),
  );
  await assert.rejects(agent.call('msync', { map: synced.map }), { code: 'EIO' });
  await assert.rejects(agent.fsync(fsynced.fd), { code: 'EIO' });
  await assert.rejects(agent.close(closed.fd), { code: 'EIO' });
  for (const name of ['a', 'b', 'c']) assert.equal((await agent.readFile(name)).slice(0, 4), 'kept');
});

test('an administrator evicts one client; its mount goes on with new operations', async (t) => {
  const cluster = await startCluster(t, { mounts: 2 });
  const [good, bad] = [cluster.agent(0), cluster.agent(1)];
  const goodFd = await good.open('good', O.CREAT | O.RDWR);
  const badFd = await bad.open('bad', O.CREAT | O.RDWR);
  const { uuid } = await cluster.mountStatus(mountOf(cluster, 1));
  await cluster.cliOk(['evict', cluster.address, uuid]);
  await until('the old handle fails', () =>
    bad.pread(badFd, 0, 10).then(
      () => false,
      (error: { code?: string }) => error.code === 'EIO',
    ),
  );
  await bad.writeFile('new', 'works');
  await good.write(goodFd, 'undisturbed');
  assert.deepEqual([await good.readFile('new'), await bad.readFile('good')], ['works', 'undisturbed']);
  const unknown = await cluster.cli(['evict', cluster.address, 'nobody']);
  assert.deepEqual([unknown.code, unknown.stderr.split('\n').length], [1, 1]);
});

test('locks of an evicted client are free for others', async (t) => {
  const cluster = await startCluster(t, { mounts: 2 });
  const [good, bad] = [cluster.agent(0), cluster.agent(1)];
  const badFd = await bad.open('f', O.CREAT | O.RDWR);
  const goodFd = await good.open('f', O.RDWR);
  await bad.lock(badFd, { type: 'write', how: 'set' });
  const waits = good.lock(goodFd, { type: 'write', how: 'wait' });
  await good.blocked();
  const { uuid } = await cluster.mountStatus(mountOf(cluster, 1));
  await cluster.cliOk(['evict', cluster.address, uuid]);
  await within('the waiter gets the lock', waits);
});

test('a client process that is killed leaves nothing that others must wait for', async (t) => {
  const cluster = await startCluster(t, { mounts: 2 });
  const [good, bad] = [cluster.agent(0), cluster.agent(1)];
  const badFd = await bad.open('f', O.CREAT | O.RDWR);
  await bad.write(badFd, 'durable');
  await bad.fsync(badFd);
  await bad.lock(badFd, { type: 'write', how: 'set' });
  mountOf(cluster, 1).child.kill('SIGKILL');
  cluster.abortMount(mountOf(cluster, 1));
  const fd = await within('open', good.open('f', O.RDWR), 45_000);
  assert.equal(await within('read', good.pread(fd, 0, 10), 45_000), 'durable');
  await within('lock', good.lock(fd, { type: 'write', how: 'wait' }), 45_000);
});
