/**
 * Builds of different versions with each other, on real mounts: an old client with a new server and the reverse, and
 * upgrades of the server in both directions under clients of both versions. Old is release 0.1, built from git.
 *
 * What only both sides together can do (FEATURE bits) is left out then; everything else works.
 */

import assert from 'node:assert/strict';
import { join } from 'node:path';
import test from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { type Agent, LOCK, O } from '../fixtures/agent.js';
import { run } from '../fixtures/child.js';
import type { Cluster } from '../fixtures/cluster.js';
import { MIB } from '../fixtures/devices.js';
import { until, within } from '../fixtures/until.js';
import { clientVersions, cluster, evictedWithReason, skip, treeFor } from './ages.js';

async function command(program: string, ...args: readonly string[]): Promise<void> {
  const done = await run(program, args);
  assert.equal(done.code, 0, `${program} ${args.join(' ')}: ${done.stdout.slice(0, 500)} ${done.stderr}`);
}

/** A tree of sources unpacked, compared, moved; what programs do with names, attributes, locks and fsync. */
async function workload(made: Cluster, agent: Agent, dir: string): Promise<void> {
  const sources = join(packageRoot(), 'src');
  const archive = join(made.folder, 'sources.tar');
  await command('tar', '-cf', archive, '-C', sources, '.');
  await agent.mkdir('unpacked');
  await command('tar', '-xf', archive, '-C', join(dir, 'unpacked'));
  await agent.rename('unpacked', 'moved');
  await command('diff', '-r', sources, join(dir, 'moved'));
  await command('rm', '-r', join(dir, 'moved'));

  const fd = await agent.open('file', O.CREAT | O.EXCL | O.RDWR);
  await agent.call('write_pattern', { fd, seed: 7, offset: 0, length: 3 * MIB + 5 });
  await agent.fsync(fd);
  await agent.ftruncate(fd, 2 * MIB + 1);
  await agent.call('fallocate', { fd, mode: 3, offset: MIB, length: 8192 });
  assert.equal(await agent.call('check_pattern', { fd, seed: 7, offset: 0, length: MIB }), null);
  assert.equal(await agent.pread(fd, MIB, 4), '\0\0\0\0');
  await agent.link('file', 'linked');
  await agent.symlink('file', 'symlink');
  await agent.call('setxattr', { path: 'file', name: 'user.a', value: 'value' });
  await agent.call('chmod', { path: 'file', mode: 0o640 });
  await agent.writeFile('other', 'replaced');
  await agent.rename('other', 'linked');
  assert.deepEqual(
    [
      (await agent.fstat(fd)).nlink,
      (await agent.stat('symlink')).mode & 0o777,
      await agent.call('getxattr', { path: 'file', name: 'user.a' }),
      await agent.readFile('linked'),
      await agent.list(),
    ],
    [1, 0o640, 'value', 'replaced', ['file', 'linked', 'symlink']],
  );
  await agent.flock(fd, LOCK.EX);
  await agent.lock(fd, { type: 'write', how: 'set', start: 5, length: 5 });
  await agent.close(fd);
  for (const name of ['file', 'linked', 'symlink']) await agent.unlink(name);
}

for (const [client, server] of [
  ['old', 'new'],
  ['new', 'old'],
] as const) {
  test(`client ${client}, server ${server}: everything works`, { skip }, async (t) => {
    const made = await cluster(t, server, [client]);
    const [mount] = made.mounts;
    assert.ok(mount !== undefined);
    assert.deepEqual(await clientVersions(made), [treeFor(client).version]);
    await workload(made, made.agent(), mount.dir);
    await until('nothing is left open', async () => (await made.status()).clients[0]?.opens === 0);
    await made.umount(mount);
    assert.deepEqual((await made.status()).clients, []);
  });

  test(`clients old and new, server ${server}: they share files, names and locks`, { skip }, async (t) => {
    const made = await cluster(t, server, ['old', 'new']);
    for (const [one, two] of [
      [made.agent(0), made.agent(1)],
      [made.agent(1), made.agent(0)],
    ] as const) {
      await assert.rejects(two.stat('f'), { code: 'ENOENT' });
      await one.writeFile('f', 'one');
      assert.equal(await two.readFile('f'), 'one');
      await two.writeFile('f', 'other');
      assert.equal(await one.readFile('f'), 'other');
      const [held, wanted] = [await one.open('f', O.RDWR), await two.open('f', O.RDWR)];
      await one.flock(held, LOCK.EX);
      await assert.rejects(two.flock(wanted, LOCK.EX | LOCK.NB), { code: 'EAGAIN' });
      const granted = two.flock(wanted, LOCK.EX);
      await two.blocked();
      await one.rename('f', 'g');
      await one.flock(held, LOCK.UN);
      await within('the lock goes over', granted);
      await assert.rejects(two.stat('f'), { code: 'ENOENT' });
      await two.unlink('g');
      assert.equal((await one.fstat(held)).nlink, 0);
    }
  });

  test(`clients old and new go on through an upgrade of the server from ${client} to ${server} and back`, {
    skip,
  }, async (t) => {
    const made = await cluster(t, client, ['old', 'new']);
    const [one, two] = [made.agent(0), made.agent(1)];
    const open = await Promise.all(
      [one, two].map(async (agent, at) => {
        const fd = await agent.open(`open${at}`, O.CREAT | O.RDWR);
        // Dirty when the shutdown begins.
        await agent.call('write_pattern', { fd, seed: at, offset: 0, length: 4 * MIB });
        await agent.unlink(`open${at}`);
        return { agent, fd, seed: at };
      }),
    );
    await one.writeFile('locked', '');
    const [held, wanted] = [await one.open('locked', O.RDWR), await two.open('locked', O.RDWR)];
    await one.flock(held, LOCK.EX);
    const waiting = two.flock(wanted, LOCK.EX);
    await two.blocked();
    const third = made.agent(1);
    for (const age of [server, client]) {
      await made.shutdown();
      const parked = [one.writeFile(`made-${age}`, age), third.mkdir(`made-by-two-${age}`)];
      await made.serve({ tree: treeFor(age) });
      await within('the parked calls', Promise.all(parked));
      const { evicted, state } = await until('recovery ends', async () => {
        const status = await made.status();
        return status.state === 'active' ? status : undefined;
      });
      assert.deepEqual([evicted, state], [[], 'active']);
    }
    await one.flock(held, LOCK.UN);
    await within('the lock goes over', waiting);
    for (const { agent, fd, seed } of open) {
      assert.equal(await agent.call('check_pattern', { fd, seed, offset: 0, length: 4 * MIB }), null);
    }
    const names = ['locked', 'made-by-two-new', 'made-by-two-old', 'made-new', 'made-old'];
    assert.deepEqual([await one.list(), await two.list()], [names, names]);
  });
}

for (const [client, server] of [
  ['old', 'new'],
  ['new', 'old'],
] as const) {
  test(`client ${client}, server ${server} killed: the client is evicted, told why, and goes on`, {
    skip,
  }, async (t) => {
    const made = await cluster(t, server, [client]);
    const agent = made.agent();
    await agent.writeFile('durable', 'kept');
    await agent.fsync(await agent.open('durable', O.RDONLY));
    const fd = await agent.open('open', O.CREAT | O.RDWR);
    await agent.write(fd, 'dirty');
    await made.killServer();
    await made.serve({ tree: treeFor(server) });
    // Neither side may pretend that nothing was lost: replay is what one of them does not have.
    const failure = await agent.fsync(fd).then(
      () => undefined,
      (error: { code?: string }) => error.code,
    );
    assert.equal(failure, 'EIO');
    await assert.rejects(agent.pread(fd, 0, 5), { code: 'EIO' });
    assert.equal((await evictedWithReason(made)).length, 1);
    assert.equal(await within('new operations work', agent.readFile('durable')), 'kept');
    await agent.writeFile('new', 'made after');
    assert.equal(await agent.readFile('new'), 'made after');
  });
}

test('an old client that does not drain is evicted from a new server, alone', { skip }, async (t) => {
  const made = await cluster(t, 'new', ['old', 'new']);
  const [stopped] = made.mounts;
  assert.ok(stopped !== undefined);
  const [asleep, awake] = [made.agent(0), made.agent(1)];
  const lost = await asleep.open('f', O.CREAT | O.RDWR);
  const kept = await awake.open('g', O.CREAT | O.RDWR);
  await awake.write(kept, 'kept');
  stopped.child.kill('SIGSTOP');
  await made.shutdownEvicting(1);
  await made.serve({ tree: { ...made.otherTree(), serveArgs: treeFor('new').serveArgs } });
  stopped.child.kill('SIGCONT');
  assert.equal(await within('the other goes on', awake.pread(kept, 0, 9)), 'kept');
  await until('the old handle fails', () =>
    asleep.pread(lost, 0, 1).then(
      () => false,
      (error: { code?: string }) => error.code === 'EIO',
    ),
  );
  await within('it works again', asleep.writeFile('after', 'x'));
  assert.deepEqual(await awake.list(), ['after', 'f', 'g']);
  await made.shutdown();
  await made.serve({ tree: treeFor('old') });
  assert.equal(await within('a version without records of evictions serves', awake.readFile('g')), 'kept');
});

test('a shutdown of a new server that is called off lets an old client go on', { skip }, async (t) => {
  const made = await cluster(t, 'new', ['old', 'new']);
  const [, blocker] = made.mounts;
  assert.ok(blocker !== undefined);
  const agent = made.agent(0);
  await agent.writeFile('f', 'before');
  blocker.child.kill('SIGSTOP');
  const stopping = made.cli(['shutdown', made.address]);
  await until('the old client is drained', async () =>
    (await made.status()).clients.some((client) => client.state === 'drained'),
  );
  const parked = agent.writeFile('g', 'during');
  await agent.blocked();
  await made.cliOk(['shutdown', made.address, '--cancel']);
  blocker.child.kill('SIGCONT');
  await within('the parked call', parked);
  assert.deepEqual([(await stopping).code, await agent.readFile('g')], [1, 'during']);
});
