/** What was written is there after an upgrade, all of it and once: dirty data, mappings, appends, mixed loads. */

import assert from 'node:assert/strict';
import test from 'node:test';
import { O } from '../fixtures/agent.js';
import { type Cluster, startCluster } from '../fixtures/cluster.js';
import { until } from '../fixtures/until.js';

test('stores to shared mappings are on the server before the clean mark', async (t) => {
  const cluster = await startCluster(t);
  const agent = cluster.agent();
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  await agent.ftruncate(fd, 64 * 4096);
  const map = await agent.call<number>('mmap', { fd, length: 64 * 4096 });
  for (let page = 0; page < 64; page += 3) {
    await agent.call('map_write', { map, offset: page * 4096 + page, data: `page ${page}` });
  }
  const { uuid } = await cluster.mountStatus();
  await cluster.shutdown();
  // The client is gone for good: what is there now was there at the mark.
  cluster.mounts[0]?.child.kill('SIGKILL');
  cluster.abortMounts();
  await cluster.serve({ tree: cluster.otherTree() });
  await cluster.cliOk(['evict', cluster.address, uuid]);
  await cluster.addMount();
  const witness = cluster.agent(1);
  const found = await witness.readFile('f');
  for (let page = 0; page < 64; page += 3) {
    assert.equal(
      found.slice(page * 4096 + page, page * 4096 + page + 7),
      `page ${page}`.padEnd(7, '\0').slice(0, 7),
    );
  }
});

test('a mapping goes on through an upgrade: it is read, stored to and seen', async (t) => {
  const cluster = await startCluster(t);
  const [agent, other] = [cluster.agent(), cluster.agent()];
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  await agent.pwrite(fd, 0, 'x'.repeat(8192));
  const map = await agent.call<number>('mmap', { fd, length: 8192 });
  await agent.call('map_write', { map, offset: 0, data: 'before' });
  await cluster.upgrade();
  await agent.call('map_write', { map, offset: 4096, data: 'after' });
  await agent.call('msync', { map });
  const text = await other.readFile('f');
  assert.deepEqual(
    [await agent.call('map_read', { map, offset: 0, length: 8 }), text.slice(0, 8), text.slice(4096, 4102)],
    ['beforexx', 'beforexx', 'afterx'],
  );
});

test('an appender that never stops loses no record and repeats none, over three upgrades', async (t) => {
  const cluster = await startCluster(t);
  const agent = cluster.agent();
  const fd = await agent.open('log', O.CREAT | O.WRONLY | O.APPEND);
  let written = 0;
  let stop = false;
  let longestMs = 0;
  const appender = (async () => {
    while (!stop) {
      const began = performance.now();
      await agent.write(fd, `record ${written}\n`);
      longestMs = Math.max(longestMs, performance.now() - began);
      written += 1;
    }
  })();
  for (let round = 0; round < 3; round++) {
    await cluster.upgrade();
    const before = written;
    await until('the appender goes on', () => written > before + 20);
  }
  stop = true;
  await appender;
  const lines = (await agent.readFile('log')).split('\n').slice(0, -1);
  assert.deepEqual(
    lines,
    Array.from({ length: written }, (_, at) => `record ${at}`),
  );
  t.diagnostic(`${written} records, longest write ${longestMs.toFixed(0)} ms`);
});

test('dirty data of many files is on the server after an upgrade, byte for byte', async (t) => {
  const cluster = await startCluster(t, { mounts: 2 });
  const [agent, other] = [cluster.agent(0), cluster.agent(1)];
  const files = Array.from({ length: 40 }, (_, at) => ({ name: `f${at}`, length: at * 100_000 + at }));
  for (const [seed, { name, length }] of files.entries()) {
    const fd = await agent.open(name, O.CREAT | O.RDWR);
    await agent.call('write_pattern', { fd, seed, offset: 0, length });
  }
  await cluster.upgrade();
  for (const [seed, { name, length }] of files.entries()) {
    const fd = await other.open(name, O.RDONLY);
    const stat = await other.fstat(fd);
    assert.deepEqual(
      [stat.size, await other.call('check_pattern', { fd, seed, offset: 0, length })],
      [length, null],
      name,
    );
  }
});

test('several upgrades under a mixed load on two mounts bring no error', async (t) => {
  const cluster = await startCluster(t, { mounts: 2 });
  let stop = false;
  let operations = 0;
  const worker = async (cluster: Cluster, mountIndex: number, name: string): Promise<void> => {
    const agent = cluster.agent(mountIndex);
    await agent.mkdir(name);
    for (let round = 0; !stop; round++) {
      const path = `${name}/${round}`;
      await agent.writeFile(path, `content ${round}`);
      await agent.rename(path, `${path} moved`);
      assert.equal(await agent.readFile(`${path} moved`), `content ${round}`);
      assert.deepEqual(await agent.list(name), [`${round} moved`]);
      await agent.unlink(`${path} moved`);
      operations += 5;
    }
    await agent.rmdir(name);
  };
  const workers = [0, 1, 0, 1].map((mountIndex, at) => worker(cluster, mountIndex, `w${at}`));
  for (let round = 0; round < 4; round++) {
    await cluster.upgrade();
    const before = operations;
    await until('the work goes on', () => operations > before + 40);
  }
  stop = true;
  await Promise.all(workers);
  t.diagnostic(`${operations} operations`);
});
