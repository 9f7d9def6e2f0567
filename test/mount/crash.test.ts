/** A server that crashes loses nothing that was acknowledged: real processes, real mounts, SIGKILL. */

import assert from 'node:assert/strict';
import test from 'node:test';
import { LOCK, O, type Stat } from '../fixtures/agent.js';
import { type Cluster, startCluster } from '../fixtures/cluster.js';
import { until } from '../fixtures/until.js';

const MIB = 1 << 20;

/** Bytes of the data device in use, everything committed. */
async function usedBytes(cluster: Cluster): Promise<number> {
  const { blocks, blocksFree, blockBytes } = await cluster.status();
  return (blocks - blocksFree) * blockBytes;
}

test('220 files whose creation was not committed are all there after a crash', async (t) => {
  const cluster = await startCluster(t, { faults: true });
  const agent = cluster.agent();
  await agent.mkdir('d');
  await cluster.hold();
  const names = Array.from({ length: 220 }, (_, at) => `f${at}`);
  for (const name of names) await agent.writeFile(`d/${name}`, `content of ${name}`);
  await cluster.crash();
  assert.deepEqual((await agent.list('d')).sort(), [...names].sort());
  for (const name of names) assert.equal(await agent.readFile(`d/${name}`), `content of ${name}`);
  // As the server has them, not a cache.
  await cluster.addMount();
  const witness = cluster.agent(1);
  assert.deepEqual((await witness.list('d')).sort(), [...names].sort());
  assert.equal(await witness.readFile('d/f219'), 'content of f219');
  const { evicted } = await cluster.status();
  assert.deepEqual(evicted, []);
});

test('operations that depend on each other are replayed in their order', async (t) => {
  const cluster = await startCluster(t, { faults: true });
  const agent = cluster.agent();
  await cluster.hold();
  await agent.mkdir('d');
  await agent.writeFile('d/f', 'inside');
  await cluster.crash();
  assert.deepEqual([await agent.list(), await agent.readFile('d/f')], [['d'], 'inside']);

  await agent.writeFile('a', 'moves');
  const fd = await agent.open('a', O.RDONLY);
  await agent.fsync(fd);
  await agent.close(fd);
  await cluster.hold();
  await agent.rename('a', 'b');
  await agent.unlink('b');
  await cluster.crash();
  assert.deepEqual(await agent.list(), ['d']);
  await cluster.addMount();
  assert.deepEqual(await cluster.agent(1).list(), ['d']);
});

test('what an acknowledged operation answered is still true after a crash: attributes, times, links, xattrs', async (t) => {
  const cluster = await startCluster(t, { faults: true });
  const agent = cluster.agent();
  await cluster.hold();
  await agent.writeFile('f', 'text');
  await agent.call('link', { path: 'f', to: 'g' });
  await agent.call('symlink', { target: 'f', path: 's' });
  await agent.call('setxattr', { path: 'f', name: 'user.note', value: 'kept', flags: 0 });
  await agent.call('chmod', { path: 'f', mode: 0o640 });
  await agent.mkdir('d');
  const before: Stat[] = [];
  for (const name of ['f', 's', 'd', '.']) before.push(await agent.lstat(name));
  await cluster.crash();
  await cluster.addMount();
  const witness = cluster.agent(1);
  const same = ({ ino, mode, nlink, size, mtimeNs, ctimeNs }: Stat): unknown => {
    return { ino, mode, nlink, size, mtimeNs, ctimeNs };
  };
  for (const [at, name] of ['f', 's', 'd', '.'].entries()) {
    assert.deepEqual(same(await witness.lstat(name)), same(before[at] as Stat), name);
    assert.deepEqual(same(await agent.lstat(name)), same(before[at] as Stat), name);
  }
  assert.equal(await witness.call('getxattr', { path: 'f', name: 'user.note' }), 'kept');
});

test('an open file without a name is read and written after a crash, and its space is freed on close', async (t) => {
  const cluster = await startCluster(t, { faults: true });
  const agent = cluster.agent();
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  await agent.call('write_pattern', { fd, seed: 1, offset: 0, length: 8 * MIB });
  await agent.fsync(fd);
  const used = await usedBytes(cluster);
  await cluster.hold();
  await agent.unlink('f');
  await cluster.crash();
  assert.equal(await agent.call('check_pattern', { fd, seed: 1, offset: 0, length: 8 * MIB }), null);
  await agent.pwrite(fd, 8 * MIB, 'more');
  await agent.fsync(fd);
  assert.equal(await agent.pread(fd, 8 * MIB, 4), 'more');
  assert.deepEqual(await agent.list(), []);
  await agent.close(fd);
  await until('the space is free', async () => (await usedBytes(cluster)) <= used - 8 * MIB);
});

test('a file that lost its permissions is written through its handle after a crash', async (t) => {
  const cluster = await startCluster(t, { faults: true });
  const agent = cluster.agent();
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  await cluster.hold();
  await agent.call('chmod', { path: 'f', mode: 0 });
  await cluster.crash();
  await agent.write(fd, 'written');
  await agent.fsync(fd);
  const { mode, size } = await agent.fstat(fd);
  assert.deepEqual([mode & 0o7777, size], [0, 7]);
});

test('stores to a shared mapping and dirty pages live through a crash', async (t) => {
  const cluster = await startCluster(t, { faults: true });
  const agent = cluster.agent();
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  await agent.ftruncate(fd, 64 * 4096);
  const map = await agent.call<number>('mmap', { fd, length: 64 * 4096 });
  await cluster.hold();
  for (let page = 0; page < 64; page += 5) {
    await agent.call('map_write', { map, offset: page * 4096, data: `page ${page}.` });
  }
  const other = await agent.open('g', O.CREAT | O.RDWR);
  await agent.call('write_pattern', { fd: other, seed: 3, offset: 0, length: 5 * MIB });
  await cluster.crash();
  await agent.call('map_write', { map, offset: 4096, data: 'after' });
  await cluster.addMount();
  const witness = cluster.agent(1);
  const found = await witness.readFile('f');
  assert.equal(found.slice(4096, 4101), 'after');
  for (let page = 0; page < 64; page += 5) {
    const text = `page ${page}.`;
    assert.equal(found.slice(page * 4096, page * 4096 + text.length), text);
  }
  const seen = await witness.open('g', O.RDONLY);
  assert.equal(await witness.call('check_pattern', { fd: seen, seed: 3, offset: 0, length: 5 * MIB }), null);
});

test('a lock is held, and one is waited for, through a crash', async (t) => {
  const cluster = await startCluster(t, { mounts: 2 });
  const [holder, waiter] = [cluster.agent(0), cluster.agent(1)];
  const [held, wanted] = [await holder.open('f', O.CREAT | O.RDWR), await waiter.open('f', O.CREAT | O.RDWR)];
  await holder.call('flock', { fd: held, operation: LOCK.EX });
  await holder.call('lock', { fd: held, type: 'write', how: 'set', start: 10, length: 10 });
  let granted = false;
  const waiting = waiter.call('flock', { fd: wanted, operation: LOCK.EX }).then(() => {
    granted = true;
  });
  await waiter.blocked();
  const prober = cluster.agent(1);
  const probe = await prober.open('f', O.RDWR);
  await cluster.crash();
  const refused = prober.call('lock', { fd: probe, type: 'write', how: 'set', start: 15, length: 1 });
  await assert.rejects(refused, { code: 'EAGAIN' });
  assert.equal(granted, false);
  await holder.call('flock', { fd: held, operation: LOCK.UN });
  await waiting;
  await holder.close(held);
  await prober.call('lock', { fd: probe, type: 'write', how: 'set', start: 15, length: 1 });
});

test('a client that dies with its server does not keep the others out, and costs them nothing', async (t) => {
  const cluster = await startCluster(t, { mounts: 2, faults: true, limitMs: 120_000 });
  const [one, two] = [cluster.agent(0), cluster.agent(1)];
  await one.mkdir('one');
  await two.mkdir('two');
  const committed = await two.open('two', O.RDONLY | O.DIRECTORY);
  await two.fsync(committed);
  await cluster.hold();
  for (let at = 0; at < 25; at++) await one.writeFile(`one/f${at}`, `${at}`);
  await two.writeFile('two/f', 'lost with its client');
  cluster.mounts[1]?.child.kill('SIGKILL');
  await cluster.mounts[1]?.child.exited;
  const began = performance.now();
  await cluster.crash();
  assert.equal((await one.list('one')).length, 25);
  const waitedMs = performance.now() - began;
  for (let at = 0; at < 25; at++) assert.equal(await one.readFile(`one/f${at}`), `${at}`);
  const { evicted } = await cluster.status();
  assert.deepEqual(
    evicted.map(({ reason }) => /did not come back/.test(reason)),
    [true],
  );
  // The window waits for the dead client up to its soft limit, and no longer.
  assert.ok(waitedMs > 25_000 && waitedMs < 40_000, `${waitedMs} ms`);
  cluster.abortMounts();
});
