/** A client process is replaced under its mount: what programs have open, hold, wait for and have written goes on. */

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import test from 'node:test';
import { type Agent, LOCK, O } from '../fixtures/agent.js';
import { type Cluster, type Mount, startCluster } from '../fixtures/cluster.js';
import { MIB } from '../fixtures/devices.js';
import { type FailsAt, falseSuccessor, readsMark, TAKEOVER_STEPS } from '../fixtures/false_successor.js';
import { nextTree, rootOf, thisTree } from '../fixtures/installed_tree.js';
import { isAlive } from '../fixtures/leftovers.js';
import { until, within } from '../fixtures/until.js';

const BUSY = { code: 'EAGAIN' };

async function oneMount(...given: Parameters<typeof startCluster>): Promise<readonly [Cluster, Mount]> {
  const cluster = await startCluster(...given);
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  return [cluster, mount];
}

test('open files, their positions, directories, mappings and nameless files go on in a process of another version', async (t) => {
  const [cluster, mount] = await oneMount(t);
  const agent = cluster.agent();
  await agent.writeFile('f', 'abcdefgh');
  await agent.writeFile('mapped', 'm'.repeat(8192));
  await agent.mkdir('d');
  await agent.mkdir('gone');
  const names = Array.from({ length: 300 }, (_, at) => `entry ${at}`);
  for (const name of names) await agent.writeFile(`d/${name}`, '');
  const reader = await agent.open('f', O.RDONLY);
  const appender = await agent.open('f', O.WRONLY | O.APPEND);
  const directory = await agent.open('d', O.RDONLY | O.DIRECTORY);
  const temporary = await agent.open('', O.TMPFILE | O.RDWR);
  const mapping = await agent.open('mapped', O.RDWR);
  const unlinked = await agent.open('unlinked', O.CREAT | O.RDWR);
  const path = await agent.open('held', O.CREAT | O.RDWR).then(async (fd) => {
    await agent.close(fd);
    return agent.open('held', O.PATH);
  });
  const map = await agent.call<number>('mmap', { fd: mapping, length: 8192 });
  await agent.call('map_write', { map, offset: 100, data: 'dirty' });
  await agent.call('write_pattern', { fd: unlinked, seed: 1, offset: 0, length: 4 * MIB });
  await agent.unlink('unlinked');
  await agent.unlink('held');
  await agent.call('chdir', { path: 'gone' });
  await agent.rmdir('gone');
  assert.equal(await agent.read(reader, 3), 'abc');
  await agent.write(temporary, 'nameless');
  const seen = (await agent.getdents(directory, 800)).map((entry) => entry.name);

  const before = await cluster.mountStatus();
  const taken = await cluster.takeOver(mount, nextTree());
  const now = await cluster.mountStatus();
  assert.deepEqual(
    [taken.versionBefore, taken.version, now.softwareVersion, now.uuid],
    [thisTree().version, nextTree().version, nextTree().version, before.uuid],
  );
  await until('the process before has ended', () => !isAlive(mount.child.pid));
  const [pause, ...more] = now.targets[0]?.pauses ?? [];
  assert.deepEqual(more, []);
  // Both clocks begin when the gate of the process before shuts, and the new process reads it last.
  assert.ok(
    (pause?.ms ?? 0) > 0 && (pause?.ms ?? 0) <= taken.waitedMs,
    `${pause?.ms} of ${taken.waitedMs} ms`,
  );
  assert.match(await cluster.cliOk(['metrics', mount.dir]), /^holdfast_client_pause_seconds_count 1$/m);

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
  assert.equal(
    await agent.call('check_pattern', { fd: unlinked, seed: 1, offset: 0, length: 4 * MIB }),
    null,
  );
  assert.equal((await agent.fstat(unlinked)).nlink, 0);
  assert.equal((await agent.fstat(path)).nlink, 0, 'an inode that only the kernel refers to is still there');
  assert.equal(await agent.call('map_read', { map, offset: 98, length: 9 }), 'mmdirtymm');
  await agent.call('map_write', { map, offset: 200, data: 'after' });
  await agent.call('msync', { map });
  assert.equal((await agent.readFile('mapped')).slice(100, 205).replaceAll('m', ''), 'dirtyafter');
  assert.equal((await cluster.status()).clients.length, 1);
  // The way back, to the version before.
  await cluster.takeOver(mount, thisTree());
  assert.equal((await agent.fstat(unlinked)).nlink, 0);
  await agent.close(unlinked);
  await agent.close(path);
  await agent.close(temporary);
  await agent.call('chdir', { path: '..' }).catch(() => undefined);
});

test('locks stay exclusive, and those in line are granted in their turn', { timeout: 120_000 }, async (t) => {
  const cluster = await startCluster(t, { mounts: 2, limitMs: 115_000 });
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  const [holder, rival] = [cluster.agent(0), cluster.agent(1)];
  await holder.writeFile('f', '.'.repeat(100));
  await holder.writeFile('g', '.'.repeat(100));
  const [held, heldRange] = [await holder.open('f', O.RDWR), await holder.open('g', O.RDWR)];
  const [wanted, wantedRange] = [await rival.open('f', O.RDWR), await rival.open('g', O.RDWR)];
  await holder.flock(held, LOCK.EX);
  await holder.lock(heldRange, { type: 'write', how: 'set', start: 10, length: 10 });
  await holder.lock(heldRange, { type: 'read', how: 'set', start: 50, length: 10, kind: 'ofd' });
  const refused = async (): Promise<void> => {
    await assert.rejects(rival.flock(wanted, LOCK.SH | LOCK.NB), BUSY);
    const range = (start: number, type: 'read' | 'write'): Promise<void> =>
      rival.lock(wantedRange, { type, how: 'set', start, length: 1 });
    await assert.rejects(range(15, 'read'), BUSY);
    await assert.rejects(range(55, 'write'), BUSY);
    await range(30, 'write');
  };
  await refused();

  // Two of this mount stand in line behind the rival's lock, and one behind a lock of this mount.
  await rival.writeFile('line', '');
  const inLine = await rival.open('line', O.RDWR);
  await rival.lock(inLine, { type: 'write', how: 'set' });
  const order: string[] = [];
  const waiters: { readonly agent: Agent; readonly fd: number; readonly waits: Promise<unknown> }[] = [];
  for (const name of ['first', 'second']) {
    const agent = cluster.agent(0);
    const fd = await agent.open('line', O.RDWR);
    const waits = agent.lock(fd, { type: 'write', how: 'wait' }).then(() => order.push(name));
    await agent.isInLine(cluster.agent(1), 'line');
    waiters.push({ agent, fd, waits });
  }
  const given = cluster.agent(0);
  given.lock(await given.open('line', O.RDWR), { type: 'write', how: 'wait' }).catch(() => undefined);
  await given.isInLine(cluster.agent(1), 'line');

  for (const tree of [nextTree(), thisTree(), nextTree()]) {
    await cluster.takeOver(mount, tree);
    await refused();
    assert.deepEqual(order, []);
  }
  // A process that waits can still be killed.
  const { ms } = await given.dies('SIGINT');
  t.diagnostic(`a process in line died after ${ms.toFixed(0)} ms`);
  await rival.lock(inLine, { type: 'unlock', how: 'set' });
  for (const { agent, fd, waits } of waiters) {
    await within('a waiter', waits);
    await agent.lock(fd, { type: 'unlock', how: 'set' });
  }
  assert.deepEqual(order, ['first', 'second']);

  // Locks end with their owners, as before.
  await holder.close(heldRange);
  await rival.lock(wantedRange, { type: 'write', how: 'set', start: 15, length: 1 });
  await rival.lock(wantedRange, { type: 'write', how: 'wait', start: 55, length: 1 });
  await holder.flock(held, LOCK.UN);
  await rival.flock(wanted, LOCK.EX | LOCK.NB);
});

test('under load no call fails, in many takeovers between two versions', { timeout: 120_000 }, async (t) => {
  const [cluster, mount] = await oneMount(t, { mounts: 2, limitMs: 115_000, dataBytes: 512 * MIB });
  const rounds = Number(process.env.HOLDFAST_TAKEOVERS ?? 8);
  let stop = false;
  let longestMs = 0;
  const longest: number[] = [];
  let calls = 0;
  const timed = async <T>(call: Promise<T>): Promise<T> => {
    const began = performance.now();
    const value = await call;
    calls += 1;
    longestMs = Math.max(longestMs, performance.now() - began);
    return value;
  };
  const writer = async (index: number): Promise<void> => {
    const agent = cluster.agent(0);
    const fd = await agent.open(`log${index}`, O.CREAT | O.RDWR | O.APPEND);
    let lines = 0;
    while (!stop) {
      await timed(agent.write(fd, `${index} ${lines}\n`));
      lines += 1;
      if (lines % 20 === 0) await timed(agent.fsync(fd));
      await timed(agent.writeFile(`small${index}.new`, `${lines}`));
      await timed(agent.rename(`small${index}.new`, `small${index}`));
      assert.equal(await timed(agent.readFile(`small${index}`)), `${lines}`);
      await timed(agent.stat(`log${index}`));
      if (lines % 50 === 0) await timed(agent.list());
    }
    const text = await agent.readFile(`log${index}`);
    assert.equal(text, Array.from({ length: lines }, (_, line) => `${index} ${line}\n`).join(''));
  };
  const bulk = async (): Promise<void> => {
    const agent = cluster.agent(0);
    const fd = await agent.open('bulk', O.CREAT | O.RDWR);
    for (let seed = 1; !stop; seed++) {
      await timed(agent.call('write_pattern', { fd, seed, offset: 0, length: 8 * MIB }));
      assert.equal(await timed(agent.call('check_pattern', { fd, seed, offset: 0, length: 8 * MIB })), null);
    }
  };
  /** Takes the same lock as its twin on the other mount, and adds one to the number in the file. */
  const counter = async (mountIndex: number): Promise<number> => {
    const agent = cluster.agent(mountIndex);
    const fd = await agent.open('count', O.CREAT | O.RDWR);
    let added = 0;
    while (!stop) {
      await timed(agent.lock(fd, { type: 'write', how: 'wait' }));
      const value = Number(await timed(agent.pread(fd, 0, 20)));
      await timed(agent.pwrite(fd, 0, String(value + 1).padStart(20, '0')));
      await timed(agent.lock(fd, { type: 'unlock', how: 'set' }));
      added += 1;
    }
    return added;
  };
  await cluster.agent(0).writeFile('count', '0'.repeat(20));
  const work = Promise.all([writer(1), writer(2), bulk()]);
  const counters = Promise.all([counter(0), counter(0), counter(1)]);
  work.catch(() => undefined);
  counters.catch(() => undefined);
  const silent: number[] = [];
  const waited: number[] = [];
  for (let round = 0; round < rounds; round++) {
    longestMs = 0;
    const done = await cluster.takeOver(mount, round % 2 === 0 ? nextTree() : thisTree());
    silent.push(done.silentMs);
    waited.push(done.waitedMs);
    const at = calls;
    await until('calls go on', () => calls > at + 20);
    longest.push(longestMs);
  }
  stop = true;
  await within('the load ends', work);
  const added = await within('the counters end', counters);
  assert.equal(
    Number(await cluster.agent(1).readFile('count')),
    added.reduce((sum, one) => sum + one, 0),
  );
  const sorted = longest.toSorted((a, b) => a - b);
  const middle = sorted[sorted.length >> 1] ?? 0;
  t.diagnostic(
    `${rounds} takeovers, ${calls} calls; longest call p50 ${middle.toFixed(0)} ms, worst ${(sorted.at(-1) ?? 0).toFixed(0)} ms; ` +
      `calls waited ${waited.map((ms) => ms.toFixed(0)).join(', ')} ms, nothing was read for ${Math.max(...silent).toFixed(0)} ms at most`,
  );
});

const REASONS: readonly (readonly [FailsAt, RegExp])[] = [
  ['hello, in an unknown version', /version 9\.9\.9 cannot take a mount over/],
  ['hello, in nonsense', /says something unexpected/],
  ['the state, with a reason', /it has no key/],
  ...TAKEOVER_STEPS.map((step) => [step, /has ended/] as const),
];

test('if the new process fails at any step, the mount stays with the one before', {
  timeout: 180_000,
}, async (t) => {
  const cluster = await startCluster(t, { mounts: 2, limitMs: 170_000 });
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  const before = await cluster.mountStatus();
  const agent = cluster.agent(0);
  const rival = cluster.agent(1);
  const fd = await agent.open('f', O.CREAT | O.RDWR | O.APPEND);
  await agent.flock(fd, LOCK.EX);
  const theirs = await rival.open('f', O.RDWR);
  let lines = 0;
  let stop = false;
  const writer = (async () => {
    const worker = cluster.agent(0);
    const log = await worker.open('log', O.CREAT | O.WRONLY | O.APPEND);
    for (; !stop; lines++) {
      await worker.write(log, `${lines}\n`);
      await worker.stat('f');
      await worker.writeFile('changing', `${lines}`);
    }
  })();
  writer.catch(() => undefined);
  for (const [step, reason] of REASONS) {
    // In line behind the rival before the attempt, and granted after it.
    const waiter = cluster.agent(0);
    await rival.writeFile(`line ${step}`, '');
    const held = await rival.open(`line ${step}`, O.RDWR);
    await rival.lock(held, { type: 'write', how: 'set' });
    const wanted = await waiter.open(`line ${step}`, O.RDWR);
    const waits = waiter.lock(wanted, { type: 'write', how: 'wait' });
    await waiter.isInLine(cluster.agent(1), `line ${step}`);

    const tree = falseSuccessor(cluster.folder, step);
    const asked = cluster.cli(['takeover', mount.dir, '--with', rootOf(tree)]);
    if (step === 'go, with requests read') {
      // It reads the request of this call, and dies: the kernel sends it again.
      await until('requests are read', () => existsSync(readsMark(cluster.folder, step)));
      await within('a call whose request was read', cluster.agent(0).mkdir(`made at ${step}`));
    }
    const done = await asked;
    assert.deepEqual([done.code, done.stdout], [1, ''], `${step}: ${done.stderr}`);
    assert.match(done.stderr, reason, step);
    assert.equal(done.stderr.split('\n').length, 1, done.stderr);

    const at = lines;
    await until(`writes go on after a failure at ${step}`, () => lines > at + 5);
    await assert.rejects(rival.flock(theirs, LOCK.SH | LOCK.NB), BUSY, step);
    await rival.lock(held, { type: 'unlock', how: 'set' });
    await within(`a lock in line, after a failure at ${step}`, waits);
  }
  const now = await cluster.mountStatus();
  assert.deepEqual([now.uuid, now.softwareVersion], [before.uuid, thisTree().version]);
  assert.ok(isAlive(mount.child.pid), 'the process is the one from before');
  assert.deepEqual((await cluster.status()).evictedBefore ?? [], []);
  stop = true;
  await writer;
  const text = await agent.readFile('log');
  assert.equal(text, Array.from({ length: lines }, (_, line) => `${line}\n`).join(''));
  // And then one that does not fail.
  await cluster.takeOver(mount, nextTree());
  await agent.write(fd, 'x');
});

test('what cannot be taken over says so, and stays', async (t) => {
  const [cluster, mount] = await oneMount(t);
  const refused = async (args: readonly string[], reason: RegExp, code = 1): Promise<void> => {
    const done = await cluster.cli(['takeover', ...args]);
    assert.deepEqual(
      [done.code, reason.test(done.stderr)],
      [code, true],
      `${args.join(' ')}: ${done.stderr}`,
    );
  };
  await refused([cluster.folder], /is not a mount of Holdfast/);
  await refused([mount.dir, '--with', '/nowhere'], /has no Holdfast/);
  await refused([mount.dir, '-o', 'cache=nonsense'], /mount option cache/);
  await refused([mount.dir, '--patience', '0'], /seconds/, 2);
  await cluster.agent().writeFile('f', 'x');
  await cluster.killServer();
  await refused([mount.dir], /the server is away/);
  await cluster.serve();
  assert.equal(await cluster.agent().readFile('f'), 'x');
  // Options of the new process: they count from then on.
  const program = await cluster.cliOk(['mount', cluster.address, mount.dir, '-o', 'takeover,cache=32m']);
  assert.match(program, /^$/);
  const status = await cluster.mountStatus();
  assert.equal(status.cache.limitBytes, 32 * MIB);
});
