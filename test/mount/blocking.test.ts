/** While the server is away: calls wait and then succeed, signals end them, and nothing that must not wait does. */

import assert from 'node:assert/strict';
import test from 'node:test';
import { type Agent, AgentGone, LOCK, O } from '../fixtures/agent.js';
import { CALLS } from '../fixtures/calls.js';
import { startCluster } from '../fixtures/cluster.js';
import { isAlive } from '../fixtures/leftovers.js';
import { until, within } from '../fixtures/until.js';

/** A blocked process is gone this soon after a signal that kills it. */
const DEATH_MS = 100;
/** What starting node and python beside it may add on a loaded machine. */
const SLACK_MS = 150;

interface Blocked {
  readonly name: string;
  readonly agent: Agent;
  readonly fd: number;
  readonly result: Promise<unknown>;
}

test('every kind of call made while the server is away blocks, and succeeds when the new version is there', async (t) => {
  const cluster = await startCluster(t);
  const prepared = await Promise.all(
    Object.entries(CALLS).map(async ([name, call]) => {
      const agent = cluster.agent();
      return { name, call, agent, fd: await call.prepare(agent, name) };
    }),
  );
  const blocked: (Blocked & { readonly call: (typeof prepared)[number]['call'] })[] = [];
  await cluster.upgrade(async () => {
    for (const { name, call, agent, fd } of prepared) {
      blocked.push({ name, call, agent, fd, result: call.make(agent, name, fd) });
    }
    for (const { agent } of blocked) await agent.blocked();
  });
  for (const { name, call, agent, fd, result } of blocked) {
    const value = await within(`${name} goes on`, result);
    await call.check?.(agent, name, fd, value);
  }
});

for (const signal of ['SIGINT', 'SIGKILL'] as const) {
  test(`every kind of blocked call dies of ${signal} at once, and what it asked for does not happen later`, async (t) => {
    const cluster = await startCluster(t);
    const prepared = await Promise.all(
      Object.entries(CALLS).map(async ([name, call]) => {
        const agent = cluster.agent();
        return { name, call, agent, fd: await call.prepare(agent, name) };
      }),
    );
    const creations = ['create', 'mkdir', 'symlink', 'mknod'];
    await cluster.upgrade(async () => {
      const late: string[] = [];
      let slowestMs = 0;
      for (const { name, call, agent, fd } of prepared) {
        const result = call.make(agent, name, fd);
        await agent.blocked();
        const { ms } = await agent.dies(signal);
        await assert.rejects(result, AgentGone);
        slowestMs = Math.max(slowestMs, ms);
        if (ms > DEATH_MS + SLACK_MS) late.push(`${name} ${ms.toFixed(0)} ms`);
      }
      assert.deepEqual(late, []);
      t.diagnostic(`slowest death ${slowestMs.toFixed(0)} ms`);
    });
    const witness = cluster.agent();
    const names = await witness.list();
    assert.deepEqual(
      names.filter((name) => creations.includes(name)),
      [],
      'interrupted creations left nothing',
    );
    assert.ok(names.includes('unlink') && names.includes('rename'), 'interrupted removals removed nothing');
  });
}

test('signals that a program handles do not make its calls fail', async (t) => {
  const cluster = await startCluster(t);
  const agent = cluster.agent();
  await agent.writeFile('f', 'x');
  for (const signal of ['SIGUSR1', 'SIGCHLD', 'SIGWINCH']) await agent.call('catch', { signal });
  let result: Promise<unknown> = Promise.resolve();
  await cluster.upgrade(async () => {
    result = agent.stat('f');
    await agent.blocked();
    for (const signal of ['SIGUSR1', 'SIGCHLD', 'SIGWINCH', 'SIGUSR1'] as const) agent.signal(signal);
    await agent.blocked();
  });
  await within('the call goes on', result);
  const caught = await agent.call<Record<string, number>>('caught');
  assert.deepEqual(Object.keys(caught).sort(), ['SIGCHLD', 'SIGUSR1', 'SIGWINCH']);
});

test('a handled SIGTERM ends the call with EINTR, and the process lives', async (t) => {
  const cluster = await startCluster(t);
  const agent = cluster.agent();
  await agent.writeFile('f', 'x');
  await agent.call('catch', { signal: 'SIGTERM' });
  await cluster.upgrade(async () => {
    const result = agent.stat('f');
    await agent.blocked();
    agent.signal('SIGTERM');
    await assert.rejects(within('the call ends', result), { code: 'EINTR' });
  });
  assert.equal((await agent.stat('f')).size, 1);
});

test('SIGKILL ends a process whose handled signal was passed over before', async (t) => {
  const cluster = await startCluster(t);
  const agent = cluster.agent();
  await agent.writeFile('f', 'x');
  await agent.call('catch', { signal: 'SIGUSR1' });
  await cluster.upgrade(async () => {
    const result = agent.stat('f');
    await agent.blocked();
    agent.signal('SIGUSR1');
    await agent.blocked();
    const { ms } = await agent.dies('SIGKILL');
    await assert.rejects(result, AgentGone);
    assert.ok(ms < DEATH_MS + SLACK_MS, `${ms} ms`);
  });
});

test('with intr=all any handled signal ends a blocked call', async (t) => {
  const cluster = await startCluster(t, { mountOptions: ['intr=all'] });
  const agent = cluster.agent();
  await agent.writeFile('f', 'x');
  await agent.call('catch', { signal: 'SIGUSR1' });
  await cluster.upgrade(async () => {
    const result = agent.stat('f');
    await agent.blocked();
    agent.signal('SIGUSR1');
    await assert.rejects(within('the call ends', result), { code: 'EINTR' });
  });
});

test('close and exit never wait for the server', async (t) => {
  const cluster = await startCluster(t);
  const [closer, leaver] = [cluster.agent(), cluster.agent()];
  const fds: number[] = [];
  for (const agent of [closer, leaver]) {
    for (let at = 0; at < 5; at++)
      fds.push(await agent.open(`${agent.pid} ${at}`, O.CREAT | O.RDWR | O.APPEND));
    await agent.write(fds.at(-1) ?? -1, 'dirty');
    await agent.flock(fds.at(-1) ?? -1, LOCK.EX);
    await agent.lock(fds.at(-1) ?? -1, { type: 'write', how: 'set' });
    await agent.lock(fds.at(-2) ?? -1, { type: 'write', how: 'set', kind: 'ofd' });
  }
  await cluster.upgrade(async () => {
    for (const fd of fds.slice(0, 5)) await within('close', closer.close(fd), 2000);
    const { ms } = await leaver.dies('SIGTERM');
    assert.ok(ms < 2000, `exit took ${ms} ms`);
  });
  const other = cluster.agent();
  for (const agent of [closer, leaver]) {
    const fd = await other.open(`${agent.pid} 4`, O.RDWR);
    assert.equal(await other.pread(fd, 0, 10), 'dirty');
    await within('the flock is free', other.flock(fd, LOCK.EX));
    await within('the fcntl lock is free', other.lock(fd, { type: 'write', how: 'wait' }));
    const ofd = await other.open(`${agent.pid} 3`, O.RDWR);
    await within('the OFD lock is free', other.lock(ofd, { type: 'write', how: 'wait' }));
  }
});

test('statfs and the attributes of the root are answered while the server is away', async (t) => {
  const cluster = await startCluster(t);
  const agent = cluster.agent();
  const before = await agent.call<{ blocks: number }>('statvfs');
  await agent.stat('');
  const root = await agent.open('', O.RDONLY | O.DIRECTORY);
  await cluster.upgrade(async () => {
    const now = await within('statfs', agent.call<{ blocks: number }>('statvfs'), 2000);
    await within('stat of the root', agent.stat(''), 2000);
    await within('fstat of the root', agent.fstat(root), 2000);
    assert.equal(now.blocks, before.blocks);
  });
});

test('parked calls are counted, and run when the server is back, in the order in which they came', async (t) => {
  const cluster = await startCluster(t);
  const agents = Array.from({ length: 6 }, () => cluster.agent());
  // A file each: the kernel lets one writer at a time into a file.
  const fds = await Promise.all(agents.map((agent, at) => agent.open(`f${at}`, O.CREAT | O.RDWR)));
  const results: Promise<unknown>[] = [];
  await cluster.upgrade(async () => {
    for (const [at, agent] of agents.entries()) {
      results.push(agent.write(fds[at] ?? -1, 'x'));
      await until('one more call is parked', async () => {
        const [target] = (await cluster.mountStatus()).targets;
        return target !== undefined && target.parked === at + 1;
      });
    }
  });
  await Promise.all(results);
  const times = await Promise.all(agents.map((agent, at) => agent.fstat(fds[at] ?? -1)));
  const mtimes = times.map((stat) => BigInt(stat.mtimeNs));
  assert.deepEqual(
    mtimes,
    [...mtimes].sort((a, b) => Number(a - b)),
  );
});

test('a client process whose server is away ends by umount --force, and its users get errors', async (t) => {
  const cluster = await startCluster(t);
  const agent = cluster.agent();
  await agent.writeFile('f', 'x');
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  await cluster.upgrade(async () => {
    const result = agent.stat('f');
    await agent.blocked();
    await cluster.cliOk(['umount', '--force', mount.dir]);
    await assert.rejects(within('the call ends', result));
    await within('the client process ends', mount.child.exited);
    assert.equal(isAlive(mount.child.pid), false);
  });
});

test('umount --force does not wait for a server that is there and does not answer; it says what is lost', async (t) => {
  const cluster = await startCluster(t, { serveArgs: ['--drain-timeout', '1'] });
  const agent = cluster.agent();
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  await agent.write(fd, 'x');
  await agent.fsync(fd);
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  cluster.server.child.kill('SIGSTOP');
  t.after(() => cluster.server.child.kill('SIGCONT'));
  await agent.write(fd, 'never to be seen');
  const forced = await within('umount --force', cluster.cli(['umount', '--force', mount.dir]), 10_000);
  assert.deepEqual([forced.code, /lost/.test(forced.stderr)], [0, true], forced.stderr);
  const exit = await within('the client process ends', mount.child.exited);
  assert.equal(exit.code, 1, mount.child.tail());
  cluster.server.child.kill('SIGCONT');
});
