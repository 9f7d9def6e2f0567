/** A failover pair: two servers with the same devices, a standby that takes over, and never two at a time. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { LOCK, O } from '../fixtures/agent.js';
import { MIB } from '../fixtures/devices.js';
import { type FailoverPair, failoverPair, PERIOD_S, periods, Worker } from '../fixtures/failover_pair.js';
import { within } from '../fixtures/until.js';

const SMALL = { metaBytes: 64 * MIB, dataBytes: 128 * MIB };
const PERIOD_MS = PERIOD_S * 1000;

function digest(pair: FailoverPair): string {
  const { meta, data } = pair.cluster.devices;
  return createHash('sha256').update(readFileSync(meta)).update(readFileSync(data)).digest('hex');
}

test('A to B and back, clean: files, locks and handles go on, and no host reads what it had cached', async (t) => {
  const pair = await failoverPair(t, SMALL);
  const a = await pair.serve('a');
  const b = await pair.standBy('b');
  const mount = await pair.mount();
  const agent = pair.agent(mount);
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  await agent.flock(fd, LOCK.EX);
  // On both devices: content in blocks, and a small file among the records.
  await agent.call('write_pattern', { fd, seed: 1, offset: 0, length: MIB });
  await agent.writeFile('small', 'from a');
  await agent.fsync(fd);
  await agent.unlink('f');
  const worker = new Worker(agent, fd);
  await worker.goesOn();

  await pair.shutdown('a', a);
  await pair.takesOver(b);
  await worker.goesOn();
  t.diagnostic(`A to B: longest pause ${worker.longestMs.toFixed(0)} ms`);
  await agent.call('write_pattern', { fd, seed: 2, offset: 0, length: MIB });
  await agent.writeFile('small', 'from b');

  const back = await pair.standBy('a');
  await pair.shutdown('b', b);
  await pair.takesOver(back);
  await worker.goesOn();
  await worker.stop();
  t.diagnostic(`and back: longest pause ${worker.longestMs.toFixed(0)} ms`);
  assert.equal(
    await agent.call('check_pattern', { fd, seed: 2, offset: worker.done + 1, length: 4096 }),
    null,
    'content that B wrote, read by A',
  );
  const other = pair.agent(await pair.mount());
  assert.equal(await other.readFile('small'), 'from b');
  assert.deepEqual(
    [(await agent.fstat(fd)).nlink, (await pair.cluster.status()).softwareVersion],
    [0, back.tree.version],
  );
});

test('A is killed: B takes over when the heartbeat was silent for its period, and back', async (t) => {
  const pair = await failoverPair(t, SMALL);
  let active = await pair.serve('a');
  const mount = await pair.mount();
  const agent = pair.agent(mount);
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  await agent.flock(fd, LOCK.EX);
  await agent.unlink('f');
  const worker = new Worker(agent, fd);
  for (const [from, to] of [
    ['a', 'b'],
    ['b', 'a'],
  ] as const) {
    const standby = await pair.standBy(to);
    await worker.goesOn();
    const began = performance.now();
    await pair.kill(active);
    await pair.takesOver(standby);
    const servedMs = performance.now() - began;
    await worker.goesOn();
    const pauseMs = worker.longestMs;
    t.diagnostic(`${from} to ${to}: serving after ${servedMs.toFixed(0)} ms, pause ${pauseMs.toFixed(0)} ms`);
    assert.ok(servedMs > 0.7 * PERIOD_MS, `not before the heartbeat was silent: ${servedMs} ms`);
    const [line] = await standby.child.line(/takes over: .*/);
    assert.match(
      line,
      new RegExp(`a server on host-${from} \\(pid \\d+\\) has it since .* UTC, silent for 1 s`),
    );
    active = standby;
  }
  // Nothing that was answered is lost, and nobody was evicted.
  await worker.stop();
  const made = await Promise.all(
    Array.from({ length: worker.done }, (_, at) => agent.stat(`made-${at}`).then(({ nlink }) => nlink)),
  );
  assert.deepEqual(
    [made.every((nlink) => nlink === 2), (await agent.fstat(fd)).size, (await pair.cluster.status()).evicted],
    [true, worker.done, []],
  );
});

test('a server that was killed is started again on its own host at once', async (t) => {
  const pair = await failoverPair(t, SMALL);
  const args = ['--heartbeat-period', '30'];
  const first = pair.start('a', args);
  await first.ready();
  await pair.kill(first);
  const began = performance.now();
  const second = pair.start('a', args);
  await second.ready();
  const tookMs = performance.now() - began;
  assert.ok(tookMs < 20_000, `${tookMs} ms`);
  await second.child.line(/takes over: .*, that process is gone/);
});

for (const how of ['clean', 'killed'] as const) {
  test(`both are started at once after a ${how} end: one wins, the other refuses in one line`, async (t) => {
    const pair = await failoverPair(t, SMALL);
    const first = await pair.serve('a');
    if (how === 'clean') await pair.shutdown('a', first);
    else await pair.kill(first);
    const both = [pair.start('a'), pair.start('b')] as const;
    const outcomes = await Promise.all(
      both.map((server) =>
        Promise.race([
          server.ready().then(
            () => 'serves',
            () => 'ended',
          ),
          server.child.exited.then(({ code }) => `status ${code}`),
        ]),
      ),
    );
    assert.equal(outcomes.filter((outcome) => outcome === 'serves').length, 1, `${outcomes}\n${pair.dump()}`);
    const winner = both[outcomes.indexOf('serves')];
    const loser = both.find((server) => server !== winner);
    assert.ok(winner !== undefined && loser !== undefined);
    assert.equal((await loser.child.exited).code, 1);
    assert.equal(loser.child.stderr.length, 1, loser.child.tail());
    assert.match(
      loser.child.tail(),
      /in use: a server on host-[ab] \(pid \d+\) has it since .* UTC; stop it first/,
    );
    await periods(2);
    assert.equal(winner.child.exit, undefined);
  });
}

test('two standbys: one takes over, the other goes on standing by', async (t) => {
  const pair = await failoverPair(t, SMALL);
  const first = await pair.serve('a');
  const standbys = [
    await pair.standBy('b'),
    pair.start('a', ['--standby', '--listen', '127.0.0.1:0']),
  ] as const;
  await standbys[1].standingBy();
  await pair.shutdown('a', first);
  const winner = await Promise.race(standbys.map((server) => server.ready().then(() => server)));
  const other = standbys.find((server) => server !== winner);
  assert.ok(other !== undefined);
  other.ready().catch(() => undefined);
  await periods(2);
  assert.deepEqual([winner.child.exit, other.child.exit, other.address], [undefined, undefined, '']);
});

test('a standby that is shut down through its port ends, and leaves the active server alone', async (t) => {
  const pair = await failoverPair(t, SMALL);
  const active = await pair.serve('a');
  const standby = await pair.standBy('b');
  await pair.shutdown('b', standby);
  await pair.cluster.cliOk(['status', pair.sides.a.address]);
  assert.equal(active.child.exit, undefined);
});

test('a second server, and mkfs by force, refuse a target that another host serves', async (t) => {
  const pair = await failoverPair(t, SMALL);
  await pair.serve('a');
  const agent = pair.agent(await pair.mount());
  await agent.writeFile('f', 'x');
  for (const command of [
    ['mkfs', '--force'],
    ['serve', '--listen', '127.0.0.1:0'],
  ]) {
    const done = await pair.cli('b', [...command, ...pair.deviceArgs('b')]);
    assert.deepEqual([done.code, done.stderr.split('\n').length], [1, 1], done.stderr);
    assert.match(done.stderr, /in use: a server on host-a \(pid \d+\) has it since .* UTC; stop it first/);
  }
  await agent.writeFile('g', 'y');
  assert.deepEqual([await agent.readFile('f'), await agent.readFile('g')], ['x', 'y']);
});

test('A paused past its period, B active, A resumes: A stops without a write', async (t) => {
  const pair = await failoverPair(t, SMALL);
  const a = await pair.serve('a');
  const b = await pair.standBy('b');
  const mount = await pair.mount();
  const agent = pair.agent(mount);
  await agent.writeFile('f', 'from a');
  await agent.fsync(await agent.open('f', O.RDONLY));
  a.child.kill('SIGSTOP');
  await pair.takesOver(b);
  const before = pair.writes('a');
  // Through another client, which finds that A says nothing.
  const other = pair.agent(await pair.mount());
  await within('B serves', other.writeFile('g', 'from b'), 30_000);
  a.child.kill('SIGCONT');
  const exit = await within('A stops', a.child.exited);
  assert.deepEqual([exit.code, pair.writes('a')], [1, before], a.child.tail());
  const why = a.child.stderr.at(-1) ?? '';
  assert.match(
    why,
    /was lost after a silence, nothing was written since: a server on host-b \(pid \d+\) has it/,
  );
  assert.deepEqual([await other.readFile('g'), await other.readFile('f')], ['from b', 'from a']);
  assert.equal(await within('the first client too', agent.readFile('g'), 30_000), 'from b');
});

test('A paused past its period with no partner goes on where it was', async (t) => {
  const pair = await failoverPair(t, SMALL);
  const a = await pair.serve('a');
  const agent = pair.agent(await pair.mount());
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  a.child.kill('SIGSTOP');
  await periods(1.5);
  const write = agent.pwrite(fd, 0, 'x').then(() => agent.fsync(fd));
  a.child.kill('SIGCONT');
  await within('the write is durable', write, 30_000);
  assert.equal(a.child.exit, undefined);
});

test('B of another version does not take over from a killed A: it says so, ends, and changes nothing', async (t) => {
  const pair = await failoverPair(t, SMALL);
  const a = await pair.serve('a');
  const b = await pair.standBy('b', pair.cluster.otherTree());
  await pair.kill(a);
  const before = digest(pair);
  const exit = await within('B refuses', b.child.exited);
  assert.deepEqual([exit.code, digest(pair)], [1, before], b.child.tail());
  assert.match(b.child.stderr.at(-1) ?? '', /left no clean mark.*--force-start/);
  // The way out that it names.
  const again = await pair.serve('a');
  await pair.shutdown('a', again);
});
