/**
 * The OCF resource agent, as Pacemaker calls it: by ocf-tester, and by the actions one by one where that does not look.
 * Two nodes are one machine here; what makes them two is the program each of them has.
 */

import assert from 'node:assert/strict';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { O } from '../fixtures/agent.js';
import { type Finished, run } from '../fixtures/child.js';
import { type Cluster, prepareCluster } from '../fixtures/cluster.js';
import { type Tree, thisTree } from '../fixtures/installed_tree.js';
import { isAlive } from '../fixtures/leftovers.js';
import { until, within } from '../fixtures/until.js';
import { cleanUpFirst, freePort, lacks, programOf } from './programs.js';

const AGENT = join(packageRoot(), 'mount', 'ocf', 'holdfast');
const NAME = 'holdfast-test';
const OCF = { success: 0, failed: 1, configured: 6, installed: 5, notRunning: 7 } as const;

const skip = lacks('ocf-tester', 'resource-agents') || lacks('xmllint', 'libxml2-utils');

type Action = 'start' | 'stop' | 'monitor' | 'validate-all';

/** A formatted target and the resource that serves it. */
class Resource {
  readonly cluster: Cluster;
  readonly parameters: Record<string, string>;
  stopTimeoutMs = 40_000;

  constructor(cluster: Cluster) {
    this.cluster = cluster;
    this.parameters = {
      meta: cluster.devices.meta,
      data: cluster.devices.data,
      listen: cluster.address,
      binary: programOf(cluster.folder),
      logfile: join(cluster.folder, 'server.log'),
    };
  }

  get pidFile(): string {
    return join(this.cluster.folder, `holdfast-${NAME}.pid`);
  }
  get pid(): number {
    return Number(readFileSync(this.pidFile, 'utf8'));
  }
  get log(): string {
    return readFileSync(join(this.cluster.folder, 'server.log'), 'utf8');
  }

  env(more: Readonly<Record<string, string>> = {}): NodeJS.ProcessEnv {
    return {
      ...this.cluster.env,
      OCF_ROOT: '/usr/lib/ocf',
      HA_RSCTMP: this.cluster.folder,
      OCF_RESOURCE_INSTANCE: NAME,
      OCF_RESKEY_CRM_meta_timeout: String(this.stopTimeoutMs),
      // The interval of a recurring monitor; 0 would be a probe.
      OCF_RESKEY_CRM_meta_interval: '10000',
      ...Object.fromEntries(
        Object.entries(this.parameters).map(([key, value]) => [`OCF_RESKEY_${key}`, value]),
      ),
      ...more,
    };
  }

  action(action: Action, more: Readonly<Record<string, string>> = {}): Promise<Finished> {
    return run(AGENT, [action], { env: this.env(more), timeoutMs: 60_000 });
  }

  async expect(action: Action, code: number): Promise<Finished> {
    const done = await this.action(action);
    assert.equal(done.code, code, `${action}: ${done.stdout} ${done.stderr}`);
    return done;
  }

  /** The other node: where another version is installed. */
  onNodeWith(tree: Tree): void {
    this.parameters.binary = programOf(this.cluster.folder, tree);
  }
}

async function resource(t: TestContext): Promise<Resource> {
  const cleanUp = cleanUpFirst(t);
  const cluster = prepareCluster(t);
  cluster.address = `127.0.0.1:${await freePort()}`;
  await cluster.cliOk(['mkfs', ...cluster.deviceArgs]);
  const made = new Resource(cluster);
  cleanUp.push(async () => {
    // The mounts leave while their server is there.
    for (const { child } of cluster.mounts) child.kill('SIGCONT');
    cluster.abortMounts();
    await within('the clients end', Promise.all(cluster.mounts.map(({ child }) => child.exited)));
    await made.expect('stop', OCF.success);
  });
  return made;
}

/** A file on a loop device, so that the agent is given a block device. */
async function attachLoop(cleanUp: (() => Promise<unknown>)[], file: string): Promise<string> {
  const done = await run('losetup', ['--find', '--show', file]);
  assert.equal(done.code, 0, done.stderr);
  const device = done.stdout.trim();
  cleanUp.push(() => run('losetup', ['-d', device]));
  return device;
}

test('ocf-tester finds the agent compliant, on block devices', { skip }, async (t) => {
  const cleanUp = cleanUpFirst(t);
  const cluster = prepareCluster(t);
  const devices = {
    meta: await attachLoop(cleanUp, cluster.devices.meta),
    data: await attachLoop(cleanUp, cluster.devices.data),
  };
  await cluster.cliOk(['mkfs', '--meta', devices.meta, '--data', devices.data]);
  const parameters = {
    ...devices,
    listen: `0.0.0.0:${await freePort()}`,
    binary: programOf(cluster.folder),
    logfile: join(cluster.folder, 'server.log'),
  };
  const options = Object.entries(parameters).flatMap(([key, value]) => ['-o', `${key}=${value}`]);
  const env = { ...cluster.env, OCF_ROOT: '/usr/lib/ocf', HA_RSCTMP: cluster.folder };
  const done = await run('ocf-tester', ['-n', NAME, ...options, AGENT], { env, timeoutMs: 50_000 });
  assert.equal(done.code, 0, `${done.stdout}\n${done.stderr}`);
  assert.match(done.stdout, /passed all tests/);
});

test('a resource moves to a node with another version, and a client keeps its open file', {
  skip,
}, async (t) => {
  const res = await resource(t);
  const { cluster } = res;
  await res.expect('start', OCF.success);
  const first = (await cluster.status()).instance;
  await cluster.addMount();
  const agent = cluster.agent();
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  await agent.write(fd, 'before');
  await agent.unlink('f');
  await res.expect('stop', OCF.success);
  await res.expect('monitor', OCF.notRunning);
  const waiting = agent.pread(fd, 0, 10);
  res.onNodeWith(cluster.otherTree());
  await res.expect('start', OCF.success);
  await res.expect('monitor', OCF.success);
  assert.equal(await waiting, 'before');
  assert.deepEqual((await cluster.status()).evicted, []);
  assert.equal((await cluster.status()).instance, first + 1);
});

test('monitor tells a killed server from one that does not answer, and stop ends both', {
  skip,
}, async (t) => {
  const res = await resource(t);
  await res.expect('start', OCF.success);
  const { pid } = res;
  res.stopTimeoutMs = 12_000;
  process.kill(pid, 'SIGSTOP');
  const failed = await res.expect('monitor', OCF.failed);
  assert.match(failed.stderr, new RegExp(`process ${pid} .* does not answer`));
  const began = performance.now();
  await res.expect('stop', OCF.success);
  assert.equal(isAlive(pid), false);
  assert.ok(performance.now() - began < res.stopTimeoutMs, 'stop ends within its timeout');
  await res.expect('monitor', OCF.notRunning);

  await res.expect('start', OCF.success);
  process.kill(res.pid, 'SIGKILL');
  await until('the server is gone', () => !isAlive(res.pid));
  await res.expect('monitor', OCF.notRunning);
  await res.expect('stop', OCF.success);
  await res.expect('start', OCF.success);
});

test('a lost pid file neither hides the server nor starts a second one', { skip }, async (t) => {
  const res = await resource(t);
  await res.expect('start', OCF.success);
  const { pid } = res;
  rmSync(res.pidFile);
  await res.expect('monitor', OCF.success);
  assert.equal(res.pid, pid);
  rmSync(res.pidFile);
  await res.expect('start', OCF.success);
  assert.equal(res.pid, pid);
  rmSync(res.pidFile);
  await res.expect('stop', OCF.success);
  assert.equal(isAlive(pid), false);
});

test('a process that has the number of a server that ended is left alone', { skip }, async (t) => {
  const res = await resource(t);
  await res.expect('start', OCF.success);
  process.kill(res.pid, 'SIGKILL');
  await until('the server is gone', () => !isAlive(res.pid));
  writeFileSync(res.pidFile, `${process.pid}\n`);
  await res.expect('monitor', OCF.notRunning);
  await res.expect('stop', OCF.success);
  await res.expect('start', OCF.success);
});

test('a start that the server refuses fails with its words', { skip }, async (t) => {
  const res = await resource(t);
  await res.expect('start', OCF.success);
  process.kill(res.pid, 'SIGKILL');
  await until('the server is gone', () => !isAlive(res.pid));
  const newer = res.cluster.otherTree();
  res.onNodeWith(newer);
  const refused = await res.expect('start', OCF.failed);
  for (const part of ['ocf-exit-reason:', thisTree().version, newer.version, '--force-start']) {
    assert.ok(refused.stderr.includes(part), refused.stderr);
  }
  await res.expect('monitor', OCF.notRunning);
  // The node that has the old version can.
  res.onNodeWith(thisTree());
  await res.expect('start', OCF.success);
});

test('stop evicts a client that does not drain early enough to end cleanly in time', { skip }, async (t) => {
  const res = await resource(t);
  const { cluster } = res;
  await res.expect('start', OCF.success);
  const mount = await cluster.addMount();
  mount.child.kill('SIGSTOP');
  res.stopTimeoutMs = 13_000;
  await res.expect('stop', OCF.success);
  mount.child.kill('SIGCONT');
  assert.match(res.log, /the clean mark is written/);
  // Clean, so that any version may start.
  res.onNodeWith(cluster.otherTree());
  await res.expect('start', OCF.success);
});

test('parameters that are wrong are told from a node that cannot run it', { skip }, async (t) => {
  const res = await resource(t);
  const { meta = '', listen = '' } = res.parameters;
  const wrong = async (parameter: string, value: string): Promise<number | null> => {
    const done = await res.action('validate-all', { [`OCF_RESKEY_${parameter}`]: value });
    assert.match(done.stderr, /ocf-exit-reason:/);
    return done.code;
  };
  assert.deepEqual(
    [
      await wrong('meta', ''),
      await wrong('data', meta),
      await wrong('listen', '7988'),
      await wrong('drain_timeout', '1.5'),
      await wrong('data', '/dev/holdfast-no-such-device'),
      await wrong('binary', 'holdfast-no-such-program'),
    ],
    [...Array.from({ length: 4 }, () => OCF.configured), OCF.installed, OCF.installed],
  );
  // A probe asks whether it runs here; where it cannot, it does not.
  const probe = { OCF_RESKEY_CRM_meta_interval: '0', OCF_RESKEY_binary: 'holdfast-no-such-program' };
  assert.equal((await res.action('monitor', probe)).code, OCF.notRunning);
  // serve's own judgement of its command line.
  const usage = await res.action('start', { OCF_RESKEY_options: '--no-such-option' });
  assert.equal(usage.code, OCF.configured, usage.stderr);
  assert.equal(
    (await res.action('validate-all', { OCF_RESKEY_listen: `[::1]:${listen.split(':')[1]}` })).code,
    0,
  );
});
