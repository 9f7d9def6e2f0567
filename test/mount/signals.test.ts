/**
 * Signals that a program catches, on a server that is there, slow, draining, or away: they disturb nothing that a local
 * filesystem would not let them disturb.
 */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test, { type TestContext } from 'node:test';
import { LOCK, O } from '../fixtures/agent.js';
import { CALLS } from '../fixtures/calls.js';
import type { Child } from '../fixtures/child.js';
import { type Cluster, startCluster } from '../fixtures/cluster.js';
import { SIGNAL, type Storm, startStorm, startWait } from '../fixtures/signal_storm.js';
import { until, within } from '../fixtures/until.js';

const EVERY = Object.values(SIGNAL);
/** These never end a call, however long the server is away. */
const NEVER = EVERY.filter((signal) => {
  const ending: readonly number[] = [SIGNAL.HUP, SIGNAL.INT, SIGNAL.QUIT, SIGNAL.TERM];
  return !ending.includes(signal);
});

/** However slow this machine is, no caught signal may end a call. */
const LONG_GRACE = ['intr_grace=600'];

async function stormed(
  t: TestContext,
  options: { readonly mounts?: number; readonly mountOptions?: readonly string[] } = {},
): Promise<{ readonly cluster: Cluster; readonly storm: Storm }> {
  const cluster = await startCluster(t, { mountOptions: LONG_GRACE, limitMs: 100_000, ...options });
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  const storm = await startStorm(mount, EVERY);
  t.after(() => storm.child.kill('SIGKILL'));
  await moreRounds(storm, 2);
  return { cluster, storm };
}

async function moreRounds(storm: Storm, count: number): Promise<void> {
  const wanted = storm.rounds + count;
  await until(
    () => `the storm makes calls: ${storm.child.tail()}`,
    () => storm.rounds >= wanted,
    40_000,
  );
}

/** Time as the storm knows it: one signal in 3 ms or more. */
async function moreSignals(storm: Storm, count: number): Promise<void> {
  const wanted = storm.sent + count;
  await until('signals rain', () => storm.sent >= wanted, 90_000);
}

async function unharmed(t: TestContext, storm: Storm): Promise<void> {
  const last = await storm.end();
  assert.deepEqual(storm.failures, []);
  assert.match(last, /^done/);
  t.diagnostic(last);
}

test('every signal, caught, every 3 ms: no call fails on a server that is there', async (t) => {
  const { storm } = await stormed(t);
  await moreSignals(storm, 600);
  await unharmed(t, storm);
});

test('every signal, caught, every 3 ms: no call fails while a lock callback takes a second', async (t) => {
  const { cluster, storm } = await stormed(t, { mounts: 2 });
  const holder = cluster.agent(1);
  const other = cluster.mounts[1];
  assert.ok(other !== undefined);
  for (let round = 0; round < 2; round++) {
    const fd = await holder.open('shared', O.CREAT | O.RDWR);
    await holder.pwrite(fd, 0, `round ${round}`);
    await holder.list();
    other.child.kill('SIGSTOP');
    t.after(() => other.child.kill('SIGCONT'));
    await moreSignals(storm, 350);
    other.child.kill('SIGCONT');
    await holder.close(fd);
    await moreRounds(storm, 2);
  }
  await unharmed(t, storm);
});

test('every signal, caught, every 3 ms: no call fails while a server drains, and is down for 0.3 s', async (t) => {
  const { cluster, storm } = await stormed(t, { mounts: 2 });
  const other = cluster.mounts[1];
  assert.ok(other !== undefined);
  // A client that does not answer keeps the server draining.
  other.child.kill('SIGSTOP');
  t.after(() => other.child.kill('SIGCONT'));
  const shutdown = cluster.shutdown();
  await until('calls are parked', async () => {
    const [target] = (await cluster.mountStatus()).targets;
    return target !== undefined && target.parked > 0;
  });
  await moreSignals(storm, 300);
  other.child.kill('SIGCONT');
  await shutdown;
  await moreSignals(storm, 100);
  await cluster.serve({ tree: cluster.otherTree() });
  await moreRounds(storm, 2);
  await cluster.crash(() => moreSignals(storm, 100));
  await moreRounds(storm, 2);
  await unharmed(t, storm);
});

test('a server that is away for 20 s: ALRM, USR1, CHLD, WINCH end no call; INT, TERM, QUIT, HUP do after a second', async (t) => {
  const cluster = await startCluster(t, { limitMs: 100_000 });
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  const never = await startStorm(mount, NEVER, { folder: 'never' });
  t.after(() => never.child.kill('SIGKILL'));
  const storms: Storm[] = [];
  for (const signal of [SIGNAL.INT, SIGNAL.TERM, SIGNAL.QUIT, SIGNAL.HUP]) {
    // No caught signal ends a page fault. With SA_RESTART the kernel begins a lock call again that EINTR has ended.
    const storm = await startStorm(mount, [signal], {
      folder: `signal${signal}`,
      calls: 'syscalls',
      flags: 'plain',
    });
    t.after(() => storm.child.kill('SIGKILL'));
    storms.push(storm);
  }
  for (const storm of [never, ...storms]) await moreRounds(storm, 1);
  await cluster.crash(async () => {
    for (const storm of storms) {
      await until(
        () => `a call has ended: ${storm.child.tail()}`,
        () => storm.failures.length > 0,
        30_000,
      );
    }
    await moreSignals(never, 20_000 / 3);
  });
  for (const storm of storms) await storm.end();
  await moreRounds(never, 2);
  await unharmed(t, never);
  for (const [failure] of storms.map((storm) => storm.failures)) {
    const [, errno, ms] = /(\w+) after (\d+) ms/.exec(failure ?? '') ?? [];
    assert.equal(errno, 'EINTR');
    assert.ok(Number(ms) >= 990, `it was parked for the grace: ${failure}`);
  }
});

test('every kind of call that waits for a server that is away goes on, whatever signals its process catches', async (t) => {
  const cluster = await startCluster(t);
  // A lock may be waited for, and that wait ends by any caught signal.
  const calls = Object.entries(CALLS).filter(([name]) => name !== 'flock' && name !== 'fcntl');
  const signals = ['SIGALRM', 'SIGUSR1', 'SIGCHLD', 'SIGWINCH'] as const;
  const prepared = await Promise.all(
    calls.map(async ([name, call]) => {
      const agent = cluster.agent();
      for (const signal of signals) await agent.call('catch', { signal });
      return { name, call, agent, fd: await call.prepare(agent, name) };
    }),
  );
  const results: Promise<unknown>[] = [];
  await cluster.upgrade(async () => {
    for (const { name, call, agent, fd } of prepared) results.push(call.make(agent, name, fd));
    for (const { agent } of prepared) await agent.blocked();
    for (const signal of signals) {
      for (const { agent } of prepared) agent.signal(signal);
      for (const { agent } of prepared) await agent.blocked();
    }
  });
  for (const [at, { name, call, agent, fd }] of prepared.entries()) {
    const value = await within(`${name} goes on`, results[at] ?? Promise.reject());
    await call.check?.(agent, name, fd, value);
  }
});

for (const kind of ['posix', 'ofd', 'flock', 'fifo'] as const) {
  test(`a wait for a ${kind === 'fifo' ? 'fifo to be opened' : `${kind} lock`} ends by any caught signal, and goes on with SA_RESTART`, async (t) => {
    const cluster = await startCluster(t);
    const [mount] = cluster.mounts;
    assert.ok(mount !== undefined);
    const holder = cluster.agent();
    await holder.call('mknod', { path: 'fifo', mode: 0o010666 });
    const fd = await holder.open('lock', O.CREAT | O.RDWR);
    if (kind === 'flock') await holder.flock(fd, LOCK.EX);
    else await holder.lock(fd, { type: 'write', how: 'set' });
    const plain = await startWait(mount, kind, 'plain');
    const restart = await startWait(mount, kind, 'restart');
    t.after(() => {
      plain.kill('SIGKILL');
      restart.kill('SIGKILL');
    });
    for (const child of [plain, restart]) await sleeps(child);
    for (let round = 0; round < 3; round++) {
      restart.kill('SIGUSR1');
      await sleeps(restart);
    }
    // A stop ends the wait as well; no handler is called, so the kernel begins it again.
    for (const child of [plain, restart]) {
      child.kill('SIGSTOP');
      await until(`${child.name} stops`, () => /^State:\s*T/m.test(statusOf(child)));
      child.kill('SIGCONT');
      await sleeps(child);
    }
    plain.kill('SIGUSR1');
    assert.equal((await plain.line(/^ended (.*)/))[1], 'EINTR, 1 caught');
    await sleeps(restart);
    if (kind === 'fifo') await within('the fifo opens', holder.open('fifo', O.WRONLY));
    else if (kind === 'flock') await holder.flock(fd, LOCK.UN);
    else await holder.lock(fd, { type: 'unlock', how: 'set' });
    assert.match((await restart.line(/^ended (.*)/))[1] ?? '', /^OK, [1-3] caught/);
  });
}

/** It is in its call again, and no signal is left to be handled. */
function sleeps(child: Child): Promise<unknown> {
  return until(`${child.name} sleeps`, () => {
    const status = statusOf(child);
    const pending = /^(SigPnd|ShdPnd):\s*0*[1-9a-f]/m.test(status);
    return !pending && /^State:\s*[SD]/m.test(status);
  });
}

function statusOf(child: Child): string {
  return readFileSync(`/proc/${child.pid}/status`, 'latin1');
}
