/** Clients that come, die, stop or are cut off at each step of a controlled shutdown, with real processes. */

import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { LOCK, O } from '../fixtures/agent.js';
import {
  type Cluster,
  type ClusterOptions,
  type Mount,
  prepareCluster,
  startCluster,
} from '../fixtures/cluster.js';
import { MIB } from '../fixtures/devices.js';
import { type Host, Network } from '../fixtures/hosts.js';
import { until, within } from '../fixtures/until.js';

function mountOf(cluster: Cluster, index: number): Mount {
  const mount = cluster.mounts[index];
  assert.ok(mount !== undefined);
  return mount;
}

/** To a command on another machine the server names only the beginning of each client's uuid. */
async function stateOf(cluster: Cluster, uuid: string): Promise<string | undefined> {
  return (await cluster.status()).clients.find((client) => uuid.startsWith(client.uuid))?.state;
}

/** How often this client has begun to connect, by its log. */
function connects(mount: Mount): number {
  return mount.child.stderr.filter((line) => /-> CONNECTING/.test(line)).length;
}

/** A client that stops taking part, the step of the shutdown at which it does, and how it comes back. */
type Step = 'BAST' | 'draining' | 'drained';
interface Victim {
  readonly cluster: Cluster;
  readonly stop: () => Promise<void>;
  /** Where the server runs, on a network. */
  readonly on?: Host;
  /** Undefined: it is gone for good. */
  readonly comeBack?: () => Promise<void>;
}

/**
 * Mount 0 is the victim, mount 1 a client that can be made to hold the shutdown up, mount 2 a bystander.
 * The victim is evicted, alone, when it was not drained; else it has everything again.
 */
async function victimStops(
  t: TestContext,
  step: Step,
  { cluster, stop, comeBack, on }: Victim,
): Promise<void> {
  const [victim, bystander] = [cluster.agent(0), cluster.agent(2)];
  await victim.writeFile('durable', 'kept');
  const fd = await victim.open('victim', O.CREAT | O.RDWR);
  await victim.write(fd, 'victim');
  await victim.fsync(fd);
  const kept = await bystander.open('bystander', O.CREAT | O.RDWR);
  await bystander.write(kept, 'bystander');
  await bystander.flock(kept, LOCK.EX);
  await cluster.agent(1).stat('durable');
  const { uuid } = await cluster.mountStatus(mountOf(cluster, 0));
  const holder = mountOf(cluster, 1).child;
  if (step === 'BAST') await stop();
  if (step === 'draining') {
    const dirty = await victim.open('dirty', O.CREAT | O.RDWR);
    await victim.call('write_pattern', { fd: dirty, seed: 1, offset: 0, length: 64 * MIB });
  }
  if (step === 'drained') holder.kill('SIGSTOP');
  const shutdown = cluster.cli(['shutdown', cluster.admin, '--timeout', step === 'drained' ? '30' : '2']);
  if (step === 'draining') {
    await cluster.server.child.line(/waits for \d+ clients to drain/);
    await stop();
  }
  if (step === 'drained') {
    await until('it is drained', async () => (await stateOf(cluster, uuid)) === 'drained');
    await stop();
    holder.kill('SIGCONT');
  }
  const { code, stderr } = await shutdown;
  await cluster.serverEnded();
  const evicted = cluster.server.child.stderr.filter((line) => /is evicted/.test(line));
  const isEvicted = evicted.length === 1;
  assert.equal(code, isEvicted ? 3 : 0, stderr);
  if (step === 'draining') t.diagnostic(isEvicted ? 'it was caught in its drain' : 'it was drained before');
  if (step === 'BAST') assert.ok(isEvicted, cluster.server.child.tail());
  if (step === 'drained') assert.deepEqual(evicted, []);
  await cluster.serve({ tree: cluster.otherTree(), ...where(on) });
  const held = bystander.pread(kept, 0, 20);
  if (comeBack !== undefined) await comeBack();
  else if (!isEvicted) await cluster.cliOk(['evict', cluster.admin, uuid]);
  assert.equal(await within('the bystander goes on', held), 'bystander');
  const rival = await cluster.agent(1).open('bystander', O.RDWR);
  assert.ok(rival > 0);
  if (comeBack === undefined) return;
  if (isEvicted) {
    await until('the old handle fails', () =>
      victim.pread(fd, 0, 9).then(
        () => false,
        (error: { code?: string }) => error.code === 'EIO',
      ),
    );
  } else assert.equal(await within('the old handle', victim.pread(fd, 0, 9)), 'victim');
  assert.equal(await within('it reads', victim.readFile('durable')), 'kept');
  await within('it works', victim.writeFile('after', 'x'));
  assert.deepEqual((await cluster.status()).evicted.length, 0, 'nobody since the new server started');
}

function where(on: Host | undefined): { on?: Host } {
  return on === undefined ? {} : { on };
}

const OPTIONS: ClusterOptions = { mounts: 3, limitMs: 80_000 };

for (const step of ['BAST', 'draining', 'drained'] as const) {
  test(`a client that is killed (step: ${step}) holds nobody up`, { timeout: 100_000 }, async (t) => {
    const cluster = await startCluster(t, OPTIONS);
    const { child } = mountOf(cluster, 0);
    const stop = async (): Promise<void> => {
      child.kill('SIGKILL');
      await child.exited;
      cluster.abortMount(mountOf(cluster, 0));
    };
    await victimStops(t, step, { cluster, stop });
  });

  test(`a client that is stopped (step: ${step}) and goes on later`, { timeout: 100_000 }, async (t) => {
    const cluster = await startCluster(t, OPTIONS);
    const { child } = mountOf(cluster, 0);
    const signal = (name: NodeJS.Signals) => async (): Promise<void> => child.kill(name);
    await victimStops(t, step, { cluster, stop: signal('SIGSTOP'), comeBack: signal('SIGCONT') });
  });

  test(`a client whose link is cut (step: ${step}) and healed later`, { timeout: 100_000 }, async (t) => {
    const { cluster, network, server: on, far } = await site(t);
    const comeBack = (): Promise<void> => network.heal(far);
    await victimStops(t, step, { cluster, on, stop: () => network.cut(far), comeBack });
  });
}

/** A server and three clients, the first of which has a link of its own. */
interface Site {
  readonly cluster: Cluster;
  readonly network: Network;
  readonly server: Host;
  readonly far: Host;
}

async function site(t: TestContext): Promise<Site> {
  const network = await Network.make();
  const cluster = prepareCluster(t, OPTIONS);
  cluster.whenEnded(() => network.remove());
  const [server, far, near] = [
    await network.addHost('srv'),
    await network.addHost('far'),
    await network.addHost('near'),
  ];
  await cluster.cliOk(['mkfs', ...cluster.deviceArgs, '--label', 'test']);
  await cluster.serve({ on: server, listen: `${server.address}:0` });
  for (const host of [far, near, near]) await cluster.addMount([], undefined, host);
  return { cluster, network, server, far };
}

test('a client that mounts while a shutdown drains waits, and gets in when it is called off, or from the next server', async (t) => {
  const cluster = await startCluster(t);
  cluster.env.DEBUG = 'holdfast:client:import';
  const agent = cluster.agent();
  await agent.writeFile('f', 'there');
  const { child } = mountOf(cluster, 0);
  for (const how of ['called off', 'done'] as const) {
    child.kill('SIGSTOP');
    const command = cluster.cli(['shutdown', cluster.admin]);
    await until('it drains', async () => (await cluster.status()).state === 'draining');
    const late = cluster.startMount();
    const isIn = late.ready();
    isIn.catch(() => undefined);
    // It has been told to wait when it begins once more.
    await until('it asks again and again', () => connects(late) > 2);
    assert.equal(
      (await cluster.status()).clients.some(({ state }) => state === 'connected'),
      false,
    );
    if (how === 'called off') await cluster.cliOk(['shutdown', cluster.admin, '--cancel']);
    child.kill('SIGCONT');
    await command;
    if (how === 'done') {
      await cluster.serverEnded();
      await cluster.serve({ tree: cluster.otherTree() });
    }
    await isIn;
    assert.equal(await cluster.agent(cluster.mounts.length - 1).readFile('f'), 'there');
  }
  assert.deepEqual((await cluster.status()).evicted, []);
});
