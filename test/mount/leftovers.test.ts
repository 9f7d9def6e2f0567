/** What commands leave behind when they end: nothing. */

import assert from 'node:assert/strict';
import { closeSync, mkdirSync, openSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { prepareCluster, startCluster } from '../fixtures/cluster.js';
import { loopsUnder, mountsUnder, processesUnder } from '../fixtures/leftovers.js';
import { until } from '../fixtures/until.js';

test('mkfs leaves no loop device', async (t) => {
  const cluster = prepareCluster(t);
  await cluster.cliOk(['mkfs', ...cluster.deviceArgs]);
  assert.deepEqual(loopsUnder(cluster.folder), []);
});

test('mount in the background returns when the mount is usable, and umount leaves no process', async (t) => {
  const cluster = await startCluster(t, { mounts: 0 });
  const dir = join(cluster.folder, 'background');
  mkdirSync(dir);
  await cluster.cliOk(['mount', cluster.address, dir]);
  assert.deepEqual(mountsUnder(cluster.folder), [dir]);
  const [client, keeper, ...more] = processesUnder(dir).map(({ command }) => command);
  assert.match(client ?? '', /main\.js mount /);
  assert.match(keeper ?? '', /holdfast_keeper /);
  assert.deepEqual(more, []);
  await cluster.cliOk(['umount', dir]);
  await until('client and keeper are gone', () => processesUnder(dir).length === 0);
  assert.deepEqual([mountsUnder(cluster.folder), (await cluster.status()).clients], [[], []]);
});

test('a plain umount(8) flushes what was written, and the client process ends', async (t) => {
  const { run } = await import('../fixtures/child.js');
  const cluster = await startCluster(t);
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  const agent = cluster.agent();
  await agent.writeFile('f', 'x'.repeat(3_000_000));
  await agent.dies('SIGKILL');
  const done = await run('umount', [mount.dir]);
  assert.equal(done.code, 0, done.stderr);
  assert.deepEqual(await mount.child.exited, { code: 0, signal: null });
  await cluster.addMount();
  assert.equal((await cluster.agent(1).readFile('f')).length, 3_000_000);
});

test('umount refuses while files are open, and says so', async (t) => {
  const cluster = await startCluster(t);
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  const agent = cluster.agent();
  const fd = await agent.open('f', 0o102);
  const done = await cluster.cli(['umount', mount.dir]);
  assert.deepEqual([done.code, done.stderr.split('\n').length], [1, 1], done.stderr);
  assert.match(done.stderr, /in use|busy/);
  await agent.write(fd, 'still works');
  assert.equal(await agent.readFile('f'), 'still works');
});

test('SIGTERM to a foreground mount unmounts it', async (t) => {
  const cluster = await startCluster(t);
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  const agent = cluster.agent();
  await agent.writeFile('f', 'x');
  await agent.dies('SIGKILL');
  mount.child.kill('SIGTERM');
  assert.deepEqual(await mount.child.exited, { code: 0, signal: null });
  assert.deepEqual(mountsUnder(cluster.folder), []);
});

test('a killed server leaves no loop device, and a killed client a mount that umount removes', async (t) => {
  const cluster = await startCluster(t);
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  await cluster.killServer();
  await until('the loop devices are gone', () => loopsUnder(cluster.folder).length === 0);
  mount.child.kill('SIGKILL');
  await mount.child.exited;
  await cluster.cliOk(['umount', mount.dir]);
  assert.deepEqual(mountsUnder(cluster.folder), []);
});

test('the runtime folder holds no socket or lock of what has ended', async (t) => {
  const cluster = await startCluster(t);
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  await cluster.umount(mount);
  await cluster.shutdown();
  const left = readdirSync(join(cluster.folder, 'run'), { recursive: true }).map(String);
  assert.deepEqual(
    left.filter((path) => /sock|\.log$/.test(path)),
    [],
  );
});

test('a client whose mount is detached leaves the next mount at its place alone', async (t) => {
  const cluster = await startCluster(t, { mounts: 0 });
  const dir = join(cluster.folder, 'twice');
  mkdirSync(dir);
  await cluster.cliOk(['mount', cluster.address, dir]);
  const [first] = processesUnder(dir);
  assert.ok(first !== undefined);
  const held = openSync(join(dir, 'held'), 'w');
  await cluster.cliOk(['umount', '--lazy', dir]);
  await cluster.cliOk(['mount', cluster.address, dir]);
  // Its end takes no socket of the mount that lies at its place now.
  closeSync(held);
  await until('the first client and its keeper are gone', () => processesUnder(dir).length === 2);
  assert.deepEqual(mountsUnder(cluster.folder), [dir]);
  await cluster.cliOk(['status', dir]);
  await cluster.cliOk(['umount', dir]);
  await until('the second client is gone', () => processesUnder(dir).length === 0);
});
