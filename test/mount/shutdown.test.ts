/**
 * Controlled shutdowns that do not go straight, with real processes: called off, asked for twice, in the middle of a
 * recovery, and with a server that is killed at each step.
 */

import assert from 'node:assert/strict';
import test from 'node:test';
import { LOCK, O } from '../fixtures/agent.js';
import { type Cluster, type Mount, startCluster } from '../fixtures/cluster.js';
import { ModelledTree } from '../fixtures/modelled_tree.js';
import { lacksCommit, treeOf } from '../fixtures/old_tree.js';
import { RELEASE_0_1 } from '../fixtures/releases.js';
import { until, within } from '../fixtures/until.js';

const NO_MARK = /without the clean mark.*only this version/;

function mountOf(cluster: Cluster, index: number): Mount {
  const mount = cluster.mounts[index];
  assert.ok(mount !== undefined);
  return mount;
}

/** It starts another version, which says that it needs the mark. */
async function assertRefused(cluster: Cluster): Promise<void> {
  const refused = cluster.startServer({ tree: cluster.otherTree() });
  const { code } = await within('the refusal', refused.child.exited);
  assert.deepEqual([code, /no clean mark/.test(refused.child.tail())], [1, true], refused.child.tail());
}

test('a shutdown that is called off after every client but one has drained: all go back to work, without an error', async (t) => {
  const cluster = await startCluster(t, { mounts: 3 });
  const [appender, locker, slow] = [cluster.agent(0), cluster.agent(1), cluster.agent(2)];
  const log = await appender.open('log', O.CREAT | O.WRONLY | O.APPEND);
  const locked = await locker.open('locked', O.CREAT | O.RDWR);
  await locker.flock(locked, LOCK.EX);
  await slow.stat('log');
  let stop = false;
  let written = 0;
  const appending = (async () => {
    for (; !stop; written++) await appender.write(log, `${written}\n`);
  })();
  appending.catch(() => undefined);
  const { child } = mountOf(cluster, 2);
  for (let round = 0; round < 2; round++) {
    child.kill('SIGSTOP');
    const command = cluster.cli(['shutdown', cluster.address]);
    await until('two clients are drained', async () => {
      const { clients } = await cluster.status();
      return clients.filter(({ state }) => state === 'drained').length === 2;
    });
    const before = written;
    await cluster.cliOk(['shutdown', cluster.address, '--cancel']);
    await until('the load goes on', () => written > before + 5);
    child.kill('SIGCONT');
    const { code, stderr } = await command;
    assert.deepEqual([code, /called off; the server goes on/.test(stderr)], [1, true], stderr);
    await within('the slow one too', slow.writeFile(`slow${round}`, 'x'));
  }
  stop = true;
  await appending;
  const other = await slow.open('locked', O.RDWR);
  await assert.rejects(slow.flock(other, LOCK.EX | LOCK.NB), { code: 'EAGAIN' });
  const records = (await slow.readFile('log')).split('\n').slice(0, -1);
  assert.deepEqual(
    records,
    Array.from({ length: written }, (_, at) => `${at}`),
  );
  assert.deepEqual((await cluster.status()).evicted, []);
  const late = await cluster.cli(['shutdown', cluster.address, '--cancel']);
  assert.deepEqual([late.code, late.stderr], [1, 'holdfast: no shutdown is under way']);
});

test('ending the command does not end the shutdown, and its help says so', async (t) => {
  const cluster = await startCluster(t);
  const agent = cluster.agent();
  await agent.writeFile('f', 'x');
  const { child } = mountOf(cluster, 0);
  child.kill('SIGSTOP');
  const help = (await cluster.cliOk(['shutdown', '--help'])).replace(/\s+/g, ' ');
  assert.match(
    help,
    /--cancel call off a shutdown while a client still drains; ending the command \(Ctrl-C\) does not/,
  );
  const command = cluster.command(['shutdown', cluster.address]);
  await command.line(/shutting down/);
  command.kill('SIGINT');
  assert.equal((await within('the command ends', command.exited)).signal, 'SIGINT');
  assert.equal((await cluster.status()).state, 'draining');
  child.kill('SIGCONT');
  await cluster.serverEnded();
  await cluster.serve({ tree: cluster.otherTree() });
  assert.equal(await agent.readFile('f'), 'x');
});

test('of two shutdown requests with different timeouts the shorter one holds, and both commands see the end', async (t) => {
  const cluster = await startCluster(t, { mounts: 2 });
  const good = cluster.agent(1);
  const fd = await good.open('f', O.CREAT | O.RDWR);
  await good.write(fd, 'text');
  await cluster.agent(0).stat('f');
  mountOf(cluster, 0).child.kill('SIGSTOP');
  const began = performance.now();
  const long = cluster.cli(['shutdown', cluster.address, '--timeout', '50']);
  await cluster.server.child.line(/waits for \d+ clients to drain/);
  const short = cluster.cli(['shutdown', cluster.address, '--timeout', '1']);
  assert.deepEqual([(await long).code, (await short).code], [3, 3]);
  assert.match(
    (await long).stderr,
    /waits for \S+, evicts in \d+ s\n[\s\S]*a client was evicted: \S+ \(it did not drain/,
  );
  assert.match((await short).stderr, /joins the shutdown that is under way/);
  await cluster.serverEnded();
  assert.ok(performance.now() - began < 20_000);
  assert.match(cluster.server.child.tail(), /did not drain within 1000 ms/);
  await cluster.serve({ tree: cluster.otherTree() });
  assert.equal(await good.pread(fd, 0, 9), 'text');
  const { evictedBefore: [one, ...more] = [] } = await cluster.status();
  assert.deepEqual([one?.instance, more], [1, []]);
  assert.match(
    await cluster.cliOk(['status', cluster.address]),
    /\n {2}evicted by instance 1, \S+Z: \S+ \(\S+\): it did not drain within 1000 ms \(it had \d+ opens, \d+ locks/,
  );
});

test('a shutdown in the middle of the recovery from a kill leaves no mark; the same version recovers everything', async (t) => {
  const cluster = await startCluster(t, { mounts: 2, faults: true });
  const [agent, away] = [cluster.agent(0), cluster.agent(1)];
  const fd = await agent.open('open', O.CREAT | O.RDWR);
  await agent.fsync(fd);
  await away.stat('open');
  await cluster.hold();
  // Answered and not durable, and dirty: what another version would not take over.
  await agent.mkdir('d');
  for (let at = 0; at < 20; at++) await agent.writeFile(`d/${at}`, `${at}`);
  await agent.pwrite(fd, 0, 'dirty');
  const { child } = mountOf(cluster, 1);
  child.kill('SIGSTOP');
  await cluster.crash();
  for (const how of ['SIGTERM', 'command'] as const) {
    assert.equal((await cluster.status()).state, 'recovering');
    if (how === 'SIGTERM') cluster.server.child.kill('SIGTERM');
    else assert.match((await cluster.cli(['shutdown', cluster.address])).stderr, NO_MARK);
    await cluster.serverEnded();
    assert.match(cluster.server.child.tail(), NO_MARK);
    await assertRefused(cluster);
    await cluster.serve();
  }
  child.kill('SIGCONT');
  await agent.fsync(fd);
  assert.equal(await within('the other mount', away.readFile('open')), 'dirty');
  assert.equal((await away.list('d')).length, 20);
  assert.deepEqual((await cluster.status()).evicted, []);
  // Recovered, so the mark is true, and another version may come.
  await cluster.upgrade();
  assert.equal(await agent.pread(fd, 0, 9), 'dirty');
});

const skipOld = lacksCommit(RELEASE_0_1.commit);

for (const age of ['this', 'an older'] as const) {
  test(`a shutdown in the middle of the recovery from a clean stop leaves the mark, with clients of ${age} version`, {
    skip: age === 'this' ? false : skipOld,
    timeout: 120_000,
  }, async (t) => {
    const tree = age === 'this' ? undefined : treeOf(RELEASE_0_1.commit);
    // Clients of that release know neither keys nor Unix sockets.
    const serveArgs = age === 'this' ? [] : ['--tls=off', '--from', '127.0.0.0/8'];
    const cluster = await startCluster(t, { mounts: 0, limitMs: 110_000, serveArgs });
    await cluster.addMount([], tree);
    await cluster.addMount([], tree);
    const [agent, away] = [cluster.agent(0), cluster.agent(1)];
    const fd = await agent.open('open', O.CREAT | O.RDWR);
    await agent.write(fd, 'text');
    await agent.unlink('open');
    await agent.flock(fd, LOCK.EX);
    await away.writeFile('f', 'x');
    await cluster.shutdown();
    const { child } = mountOf(cluster, 1);
    child.kill('SIGSTOP');
    const parked = agent.writeFile('parked', 'during');
    for (let round = 0; round < 2; round++) {
      await cluster.serve({ tree: cluster.otherTree() });
      await until('one client is back', async () => (await cluster.status()).recovery?.away === 1);
      await cluster.shutdown();
      assert.doesNotMatch(cluster.server.child.tail(), NO_MARK);
    }
    await cluster.serve({ tree: cluster.otherTree() });
    child.kill('SIGCONT');
    await within('the parked call', parked);
    assert.deepEqual([await agent.pread(fd, 0, 9), await away.readFile('parked')], ['text', 'during']);
    assert.deepEqual((await cluster.status()).evicted, []);
  });
}

test('clients that die or stop while the server commits, and it is killed then: the others lose nothing', async (t) => {
  const cluster = await startCluster(t, { mounts: 3, faults: true });
  const [good, dying, stopped] = [cluster.agent(0), cluster.agent(1), cluster.agent(2)];
  await dying.writeFile('of the dying', 'x');
  await stopped.mkdir('stopped');
  await good.mkdir('good');
  await dying.fsync(await dying.open('of the dying', O.RDWR));
  const { uuid } = await cluster.mountStatus(mountOf(cluster, 1));
  const fd = await good.open('good/open', O.CREAT | O.RDWR);
  await cluster.hold();
  await good.write(fd, 'drained, not durable');
  for (const name of ['good', 'stopped'])
    for (let at = 0; at < 10; at++)
      await (name === 'good' ? good : stopped).writeFile(`${name}/${at}`, `${at}`);
  cluster.server.child.kill('SIGTERM');
  await cluster.server.child.line(/all clients are drained; commits/);
  mountOf(cluster, 1).child.kill('SIGKILL');
  mountOf(cluster, 2).child.kill('SIGSTOP');
  await cluster.killServer();
  await mountOf(cluster, 1).child.exited;
  cluster.abortMount(mountOf(cluster, 1));
  await assertRefused(cluster);
  await cluster.serve();
  mountOf(cluster, 2).child.kill('SIGCONT');
  await until('two are back', async () => (await cluster.status()).recovery?.away === 1);
  await cluster.cliOk(['evict', cluster.address, uuid]);
  assert.equal(await within('the handle', good.pread(fd, 0, 30)), 'drained, not durable');
  for (const [agent, name] of [
    [stopped, 'good'],
    [good, 'stopped'],
  ] as const)
    for (let at = 0; at < 10; at++) assert.equal(await agent.readFile(`${name}/${at}`), `${at}`);
  assert.equal((await cluster.status()).evicted.length, 1);
});

test('kill -9 at each step of a shutdown under load: the mark is never early, and nothing is lost', {
  timeout: 240_000,
}, async (t) => {
  const cluster = await startCluster(t, { mounts: 2, limitMs: 230_000, faults: true });
  const appender = cluster.agent(0);
  const fd = await appender.open('log', O.CREAT | O.WRONLY | O.APPEND);
  let written = 0;
  let stop = false;
  const appending = (async () => {
    for (; !stop; written++) await appender.write(fd, `${written}\n`);
  })();
  const trees = [new ModelledTree(), new ModelledTree()];
  const working = trees.map((tree, at) => tree.work(cluster, at, `tree${at}`, () => stop));
  const load = Promise.all([appending, ...working]);
  load.catch(() => undefined);
  const counts = (): number[] => [written, ...trees.map(({ operations }) => operations)];
  let [marked, refused] = [0, 0];
  const steps: readonly (readonly [RegExp, 'hold' | 'commits', number])[] = [
    [/draining/, 'commits', 0],
    [/waits for \d+ clients to drain/, 'commits', 0],
    [/waits for \d+ clients to drain/, 'commits', 20],
    // Nothing is durable of what they drained: the mark must wait for it.
    [/all clients are drained; commits/, 'hold', 0],
    [/all clients are drained; commits/, 'hold', 200],
    [/committing/, 'commits', 0],
    [/all clients are drained; commits/, 'commits', 0],
    [/the clean mark is written/, 'commits', 0],
  ];
  for (const [line, how, afterMs] of steps) {
    const before = counts();
    const goesOn = until(
      'the load goes on',
      () => counts().every((n, at) => n > (before[at] ?? 0) + 20),
      40_000,
    );
    await Promise.race([goesOn, load]);
    if (how === 'hold') await cluster.hold();
    const { child } = cluster.server;
    child.kill('SIGTERM');
    await child.line(line);
    if (afterMs > 0) await new Promise((resolve) => setTimeout(resolve, afterMs));
    await cluster.killServer();
    const next = cluster.startServer({ tree: cluster.otherTree() });
    const started = await Promise.race([
      next.ready().then(() => true),
      next.child.exited.then(() => false),
    ]).catch(() => false);
    // What it has said by its end: the signal comes later than the line that it waits for.
    const hasDrained = child.stderr.some((said) => /all clients are drained; commits/.test(said));
    if (started) {
      assert.ok(how === 'commits' && hasDrained, `a mark at ${line}: ${child.tail()}`);
      marked += 1;
      cluster.adopt(next);
    } else {
      assert.doesNotMatch(String(line), /mark/, 'a mark that was told of is there');
      refused += 1;
      await cluster.serve();
    }
  }
  stop = true;
  await load;
  await appender.close(fd);
  const records = (await cluster.agent(1).readFile('log')).split('\n').slice(0, -1);
  assert.deepEqual(
    records,
    Array.from({ length: written }, (_, at) => `${at}`),
  );
  for (const [at, tree] of trees.entries()) await tree.check(cluster, 1 - at, `tree${at}`);
  assert.deepEqual((await cluster.status()).evicted, []);
  t.diagnostic(`${marked} marks, ${refused} refusals; ${written} records, ${counts().slice(1)} operations`);
});
