/** Devices as administrators have them: sparse files, devices that became larger, copies of both for a backup. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { runOk } from '../fixtures/child.js';
import { prepareCluster, startCluster } from '../fixtures/cluster.js';
import { MIB, makeDevices } from '../fixtures/devices.js';
import { loopsUnder } from '../fixtures/leftovers.js';
import { until } from '../fixtures/until.js';

const SMALL = { metaBytes: 32 * MIB, dataBytes: 64 * MIB };
const allocated = (path: string): number => statSync(path).blocks * 512;

test('mkfs and serve reserve the space of sparse files', async (t) => {
  const cluster = prepareCluster(t, SMALL);
  const { meta, data } = cluster.devices;
  assert.ok(allocated(data) < MIB);
  await cluster.cliOk(['mkfs', ...cluster.deviceArgs]);
  for (const path of [meta, data]) assert.ok(allocated(path) >= statSync(path).size, path);
  // As a copy that leaves holes would have them, and then a server.
  await until('the devices are released', () => loopsUnder(cluster.folder).length === 0);
  for (const path of [meta, data]) await runOk('fallocate', ['--dig-holes', path]);
  assert.ok(allocated(data) < 8 * MIB);
  await cluster.serve();
  for (const path of [meta, data]) assert.ok(allocated(path) >= statSync(path).size, path);
  await cluster.shutdown();
});

test('a sparse file that its filesystem has no room for is refused in one line', async (t) => {
  const cluster = prepareCluster(t, SMALL);
  const small = join(cluster.folder, 'small');
  mkdirSync(small);
  await runOk('mount', ['-t', 'tmpfs', '-o', 'size=48m', 'tmpfs', small]);
  const { data } = makeDevices(small, '', 20 * MIB, 64 * MIB);
  const made = await cluster.cli(['mkfs', '--meta', cluster.devices.meta, '--data', data]);
  assert.equal(made.code, 1, made.stderr);
  assert.match(
    made.stderr,
    /^holdfast: \S+data\.img is a sparse file that lacks \d+ bytes, .* make room there, or use a block device$/,
  );
  assert.equal(allocated(data), 0, 'nothing was taken');
  // One that was made elsewhere, and a server.
  await cluster.cliOk(['mkfs', ...cluster.deviceArgs]);
  await until('the devices are released', () => loopsUnder(cluster.folder).length === 0);
  await runOk('cp', ['--sparse=always', cluster.devices.data, data]);
  const served = await cluster.cli([
    'serve',
    '--meta',
    cluster.devices.meta,
    '--data',
    data,
    '--listen',
    '127.0.0.1:0',
  ]);
  assert.equal(served.code, 1, served.stderr);
  assert.match(served.stderr, /^holdfast: \S+data\.img is a sparse file that lacks/);
  await until('the devices are released', () => loopsUnder(cluster.folder).length === 0);
  await runOk('umount', [small]);
});

test('a larger device is named by serve and status, and used after holdfast grow', async (t) => {
  const cluster = await startCluster(t, SMALL);
  await cluster.agent().writeFile('file', 'content');
  const refused = await cluster.cli(['grow', ...cluster.deviceArgs]);
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /^holdfast: .*a server on .* has it since/);
  await cluster.shutdown();
  await until('the devices are released', () => loopsUnder(cluster.folder).length === 0);
  const { meta, data } = cluster.devices;
  truncateSync(data, 128 * MIB);
  truncateSync(meta, 48 * MIB);

  const server = await cluster.serve();
  const lines = server.child.stderr.filter((line) => line.includes('larger'));
  assert.deepEqual(lines, [
    `holdfast: ${meta} is larger than formatted: 16.0 MiB are not used; holdfast grow makes use of them`,
    `holdfast: ${data} is larger than formatted: 64.0 MiB are not used; holdfast grow makes use of them`,
  ]);
  const status = (await cluster.status()) as { metaUnusedBytes?: number; dataUnusedBytes?: number };
  assert.deepEqual([status.metaUnusedBytes, status.dataUnusedBytes], [16 * MIB, 64 * MIB]);
  assert.match(
    await cluster.cliOk(['status', cluster.address]),
    /64\.0 MiB of the data device are not used; run holdfast grow/,
  );
  await cluster.shutdown();

  const grown = JSON.parse(await cluster.cliOk(['grow', ...cluster.deviceArgs, '--json']));
  assert.deepEqual(
    [grown.exitStatus, grown.meta, grown.data],
    [0, { beforeBytes: 32 * MIB, bytes: 48 * MIB }, { beforeBytes: 64 * MIB, bytes: 128 * MIB }],
  );
  assert.match(
    await cluster.cliOk(['grow', ...cluster.deviceArgs]),
    /metadata 48\.0 MiB as before, data 128\.0 MiB as before/,
  );
  await cluster.serve();
  // The mount has lived through it.
  assert.equal(await cluster.agent().readFile('file'), 'content');
  const after = (await cluster.status()) as { dataUnusedBytes?: number; blocks: number };
  assert.deepEqual([after.dataUnusedBytes, after.blocks], [undefined, (128 * MIB) / 4096 - 16]);
  await cluster.shutdown();
  assert.equal((await cluster.cli(['fsck', ...cluster.deviceArgs, '--checksums'])).code, 0);
  await cluster.serve();
});

test('copies of both devices make a backup: of a stopped target, and of one whose server stands still meanwhile', async (t) => {
  const cluster = await startCluster(t, SMALL);
  const agent = cluster.agent();
  await agent.writeFile('synced', 'before');
  const fd = await agent.open('synced', 0);
  await agent.fsync(fd);
  const { meta, data } = cluster.devices;
  const copy = (name: string): { meta: string; data: string } => {
    const to = {
      meta: join(cluster.folder, `${name}meta.img`),
      data: join(cluster.folder, `${name}data.img`),
    };
    for (const kind of ['meta', 'data'] as const)
      execFileSync('cp', ['--reflink=auto', kind === 'meta' ? meta : data, to[kind]]);
    return to;
  };
  const { server } = cluster;
  // What docs/OPERATIONS.md says: both copies are taken while the server is stopped by a signal.
  process.kill(server.child.pid, 'SIGSTOP');
  const frozen = copy('frozen-');
  process.kill(server.child.pid, 'SIGCONT');
  await agent.writeFile('synced', 'after');
  await cluster.shutdown();
  const stopped = copy('stopped-');
  await cluster.serve();

  for (const [what, devices, content, code] of [
    ['frozen', frozen, 'before', 0],
    ['stopped', stopped, 'after', 0],
  ] as const) {
    const args = ['--meta', devices.meta, '--data', devices.data];
    const checked = await cluster.cli(['fsck', ...args, '--checksums']);
    assert.equal(checked.code, code, `${what}: ${checked.stdout}`);
    const restored = prepareCluster(t, SMALL);
    for (const kind of ['meta', 'data'] as const) await runOk('cp', [devices[kind], restored.devices[kind]]);
    await restored.serve();
    // The original's client does not come: the copy need not wait for it.
    const [client] = (await restored.status()).clients;
    await restored.cliOk(['evict', restored.address, client?.name ?? '']);
    await restored.addMount();
    assert.equal(await restored.agent().readFile('synced'), content);
  }
});
