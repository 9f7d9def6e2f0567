/** What applications have open, hold and have written lives through upgrades, and who comes meanwhile waits. */

import assert from 'node:assert/strict';
import test from 'node:test';
import { type Agent, LOCK, O, SEEK } from '../fixtures/agent.js';
import { startCluster } from '../fixtures/cluster.js';
import { MIB } from '../fixtures/devices.js';
import { until, within } from '../fixtures/until.js';

const BUSY = { code: 'EAGAIN' };

test('an unlinked open file goes on through two upgrades, and its space is freed on the last close', async (t) => {
  const cluster = await startCluster(t, { dataBytes: 256 * MIB });
  const agent = cluster.agent();
  const before = (await cluster.status()).blocksFree;
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  await agent.call('write_pattern', { fd, seed: 1, offset: 0, length: 32 * MIB });
  await agent.fsync(fd);
  await agent.unlink('f');
  const check = (length: number): Promise<unknown> =>
    agent.call('check_pattern', { fd, seed: 1, offset: 0, length });
  await cluster.upgrade();
  assert.equal(await check(32 * MIB), null);
  await agent.call('write_pattern', { fd, seed: 1, offset: 32 * MIB, length: MIB });
  await cluster.upgrade();
  const stat = await agent.fstat(fd);
  const used = await cluster.status();
  assert.deepEqual([await check(33 * MIB), stat.nlink, stat.size, used.orphans], [null, 0, 33 * MIB, 1]);
  assert.ok(before - used.blocksFree >= (33 * MIB) / used.blockBytes);
  await agent.close(fd);
  await until('the space is free again', async () => {
    const now = await cluster.status();
    return now.orphans === 0 && before - now.blocksFree < MIB / now.blockBytes;
  });
});

test('handles keep their position, their append mode and their directory position', async (t) => {
  const cluster = await startCluster(t);
  const agent = cluster.agent();
  await agent.writeFile('f', 'abcdefgh');
  await agent.mkdir('d');
  const names = Array.from({ length: 300 }, (_, at) => `entry ${at}`);
  for (const name of names) await agent.writeFile(`d/${name}`, '');
  const reader = await agent.open('f', O.RDONLY);
  const appender = await agent.open('f', O.WRONLY | O.APPEND);
  const directory = await agent.open('d', O.RDONLY | O.DIRECTORY);
  const temporary = await agent.open('', O.TMPFILE | O.RDWR);
  assert.equal(await agent.read(reader, 3), 'abc');
  await agent.write(temporary, 'nameless');
  const seen = (await agent.getdents(directory, 800)).map((entry) => entry.name);
  await cluster.upgrade();
  await agent.write(appender, 'ij');
  for (;;) {
    const more = await agent.getdents(directory, 800);
    if (more.length === 0) break;
    seen.push(...more.map((entry) => entry.name));
  }
  await agent.call('link_fd', { fd: temporary, to: 'named' });
  assert.deepEqual(
    [await agent.read(reader, 10), await agent.readFile('named'), seen.sort()],
    ['defghij', 'nameless', ['.', '..', ...names].sort()],
  );
});

test('flock and fcntl locks stay exclusive against a second client before, during and after', async (t) => {
  const cluster = await startCluster(t, { mounts: 2 });
  const [holder, rival] = [cluster.agent(0), cluster.agent(1)];
  await holder.writeFile('f', '.'.repeat(100));
  await holder.writeFile('g', '.'.repeat(100));
  const [held, heldRange] = [await holder.open('f', O.RDWR), await holder.open('g', O.RDWR)];
  const [wanted, wantedRange] = [await rival.open('f', O.RDWR), await rival.open('g', O.RDWR)];
  await holder.flock(held, LOCK.EX);
  await holder.lock(heldRange, { type: 'write', how: 'set', start: 10, length: 10 });
  await holder.lock(heldRange, { type: 'read', how: 'set', start: 50, length: 10, kind: 'ofd' });
  const refused = async (agent: Agent): Promise<void> => {
    await assert.rejects(agent.flock(wanted, LOCK.SH | LOCK.NB), BUSY);
    const range = (start: number, type: 'read' | 'write'): Promise<void> =>
      agent.lock(wantedRange, { type, how: 'set', start, length: 1 });
    await assert.rejects(range(15, 'read'), BUSY);
    await assert.rejects(range(55, 'write'), BUSY);
    await range(30, 'write');
  };
  await refused(rival);
  for (let round = 0; round < 2; round++) {
    let during: Promise<void> = Promise.resolve();
    await cluster.upgrade(async () => {
      during = rival.flock(wanted, LOCK.SH | LOCK.NB);
      await rival.blocked();
    });
    await assert.rejects(during, BUSY);
    await refused(rival);
  }
  await holder.flock(held, LOCK.UN);
  await holder.lock(heldRange, { type: 'unlock', how: 'set' });
  await rival.flock(wanted, LOCK.EX | LOCK.NB);
  await rival.lock(wantedRange, { type: 'write', how: 'set', start: 15, length: 1 });
});

test('a waiting lock is still waiting after an upgrade, then granted, in its turn', async (t) => {
  const cluster = await startCluster(t, { mounts: 2 });
  const [holder, first, second] = [cluster.agent(0), cluster.agent(1), cluster.agent(0)];
  await holder.writeFile('f', '');
  const fds = await Promise.all([holder, first, second].map((agent) => agent.open('f', O.RDWR)));
  const [fd0 = -1, fd1 = -1, fd2 = -1] = fds;
  await holder.lock(fd0, { type: 'write', how: 'set' });
  const order: string[] = [];
  const wait = (agent: Agent, fd: number, name: string): Promise<unknown> =>
    agent.lock(fd, { type: 'write', how: 'wait' }).then(() => order.push(name));
  const waits1 = wait(first, fd1, 'first');
  await first.isInLine(cluster.agent(1), 'f');
  const waits2 = wait(second, fd2, 'second');
  await second.isInLine(cluster.agent(0), 'f');
  await cluster.upgrade();
  await holder.stat('f');
  assert.deepEqual(order, []);
  await holder.lock(fd0, { type: 'unlock', how: 'set' });
  await within('the first waiter', waits1);
  await first.lock(fd1, { type: 'unlock', how: 'set' });
  await within('the second waiter', waits2);
  assert.deepEqual(order, ['first', 'second']);
});

test('a lock that waits during an upgrade dies with its process', async (t) => {
  const cluster = await startCluster(t, { mounts: 2 });
  const [holder, waiter, next] = [cluster.agent(0), cluster.agent(1), cluster.agent(1)];
  await holder.writeFile('f', '');
  const [fd, waiting, wanted] = await Promise.all(
    [holder, waiter, next].map((agent) => agent.open('f', O.RDWR)),
  );
  await holder.lock(fd ?? -1, { type: 'write', how: 'set' });
  waiter.lock(waiting ?? -1, { type: 'write', how: 'wait' }).catch(() => undefined);
  await waiter.blocked();
  await cluster.upgrade(async () => {
    const { ms } = await waiter.dies('SIGINT');
    assert.ok(ms < 500, `${ms} ms`);
  });
  await holder.lock(fd ?? -1, { type: 'unlock', how: 'set' });
  await next.lock(wanted ?? -1, { type: 'write', how: 'set' });
});

test('with a standby of the next version the pause is short, and clients hear both addresses', async (t) => {
  const cluster = await startCluster(t);
  const agent = cluster.agent();
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  const standby = cluster.startServer({ tree: cluster.otherTree(), args: ['--standby'] });
  await standby.standingBy();
  let longestMs = 0;
  let stop = false;
  const worker = (async () => {
    for (let at = 0; !stop; at++) {
      const began = performance.now();
      await agent.pwrite(fd, at % 1000, 'x');
      await agent.stat('f');
      longestMs = Math.max(longestMs, performance.now() - began);
    }
  })();
  await cluster.shutdown();
  await standby.ready();
  await standby.child.line(/has handed it over/);
  cluster.adopt(standby);
  await agent.call('mkdir', { path: 'after' }).catch(() => undefined);
  stop = true;
  await worker;
  const status = await cluster.status();
  assert.deepEqual([status.softwareVersion, status.clients.length], [standby.tree.version, 1]);
  t.diagnostic(`longest pause ${longestMs.toFixed(0)} ms`);
  // A server that took over so gives the target back to nobody in particular.
  await cluster.shutdown();
  const next = await cluster.serve({ tree: cluster.otherTree() });
  assert.doesNotMatch(next.child.stderr.join('\n'), /takes over/);
  await agent.stat('f');
});

for (const [how, said] of [
  // It is handed to a standby that the server knows by then. The second one may not have found its new server yet.
  ['shut down', undefined],
  ['killed', /that process is gone/],
] as const) {
  test(`two standbys on one address: each in turn gets the target and the port when the server is ${how}`, async (t) => {
    const cluster = await startCluster(t);
    const agent = cluster.agent();
    const standbys = [];
    for (const _ of [1, 2]) {
      const standby = cluster.startServer({ args: ['--standby'] });
      await standby.standingBy();
      standbys.push(standby);
    }
    for (let left = standbys.length; left > 0; left--) {
      await (how === 'killed' ? cluster.killServer() : cluster.shutdown());
      const server = await Promise.race(standbys.map((standby) => standby.ready().then(() => standby)));
      standbys.splice(standbys.indexOf(server), 1);
      if (said !== undefined) await server.child.line(said);
      cluster.adopt(server);
      await agent.writeFile(`made-${left}`, 'x');
    }
    assert.deepEqual(await agent.list(), ['made-1', 'made-2']);
  });
}

test('a client that mounts while the server shuts down or is away waits, and gets in after', async (t) => {
  const cluster = await startCluster(t);
  await cluster.agent().writeFile('f', 'there');
  let late = cluster.startMount();
  await late.ready();
  await cluster.upgrade(async () => {
    late = cluster.startMount(['retry']);
  });
  await late.ready();
  assert.equal(await cluster.agent(2).readFile('f'), 'there');
});

test('a shutdown can be called off while a client still drains, and work goes on', async (t) => {
  const cluster = await startCluster(t, { mounts: 2, serveArgs: ['--drain-timeout', '60'] });
  const [agent, other] = [cluster.agent(0), cluster.agent(1)];
  const [, slow] = cluster.mounts;
  assert.ok(slow !== undefined);
  await other.writeFile('g', '');
  await agent.writeFile('f', 'x');
  await other.stat('f');
  slow.child.kill('SIGSTOP');
  const shutdown = cluster.cli(['shutdown', cluster.address]);
  await until('one client is drained', async () =>
    (await cluster.status()).clients.some((client) => client.state === 'drained'),
  );
  const blocked = agent.stat('f');
  await agent.blocked();
  await cluster.cliOk(['shutdown', cluster.address, '--cancel']);
  await within('the blocked call goes on', blocked);
  slow.child.kill('SIGCONT');
  await other.writeFile('g', 'y');
  const done = await shutdown;
  assert.deepEqual([done.code, (await cluster.status()).state], [1, 'active']);
});

test('SIGTERM to serve is a controlled shutdown, and a clean server starts in any version again', async (t) => {
  const cluster = await startCluster(t);
  const agent = cluster.agent();
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  await agent.write(fd, 'text');
  for (let round = 0; round < 2; round++) {
    cluster.server.child.kill('SIGTERM');
    await cluster.serverEnded();
    await cluster.serve({ tree: cluster.otherTree() });
    assert.equal(await agent.pread(fd, 0, 10), 'text');
  }
  await agent.lseek(fd, 0, SEEK.END);
});
