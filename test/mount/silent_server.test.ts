/**
 * A server that is merely silent: stopped by SIGSTOP, with its connections open, so that no client knows that it is away.
 * Whoever lists the folder above a mount, or asks for its space, is answered all the same.
 */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { isMounted } from '../../mount/unmount.js';
import type { Agent } from '../fixtures/agent.js';
import { run } from '../fixtures/child.js';
import { type Cluster, type Mount, prepareCluster, startCluster } from '../fixtures/cluster.js';
import { until, within } from '../fixtures/until.js';

const STAT_MS = 1000;
/** Of several: a machine that is busy with something else makes one of them late. */
const TRIES = 3;

/** @param ask runs while the server is stopped. */
async function silent(cluster: Cluster, ask: () => Promise<void>): Promise<void> {
  const { child } = cluster.server;
  child.kill('SIGSTOP');
  try {
    await ask();
  } finally {
    child.kill('SIGCONT');
  }
}

async function statIsQuick(agent: Agent): Promise<void> {
  const took: number[] = [];
  for (let tried = 0; tried < TRIES; tried++) {
    const began = performance.now();
    const { mode } = await within('the stat', agent.stat(''));
    took.push(performance.now() - began);
    assert.equal(mode & 0o170000, 0o040000);
  }
  assert.ok(Math.min(...took) < STAT_MS, `${took.join(', ')} ms`);
}

/** What people and monitoring tools do at a mount point, with programs of their own. */
async function commandsEnd(cluster: Cluster, { dir }: Mount): Promise<void> {
  const commands = [
    ['df', '-P', dir],
    ['ls', '-la', cluster.folder],
    ['getfattr', '-d', '-m', '-', dir],
    ['getfattr', '-n', 'user.unknown', dir],
    ['stat', dir],
  ] as const;
  const codes = await Promise.all(
    commands.map(async ([command, ...args]) => (await run(command, args, { timeoutMs: 15_000 })).code),
  );
  assert.deepEqual(codes, [0, 0, 0, 1, 0]);
}

describe('of a silent server', { concurrency: true }, () => {
  test('a mount whose server falls silent in the moment it is visible answers stat, ls, getfattr and a first df', async (t) => {
    const cluster = prepareCluster(t);
    await cluster.cliOk(['mkfs', ...cluster.deviceArgs]);
    await cluster.serve();
    const mount = cluster.startMount();
    const agent = cluster.agent();
    await until('it is visible', () => isMounted(mount.dir));
    await silent(cluster, async () => {
      await statIsQuick(agent);
      await commandsEnd(cluster, mount);
    });
    await agent.writeFile('f', 'goes on');
  });

  test('the same of one whose root others have changed, after an upgrade, in the middle of a call that waits', async (t) => {
    const cluster = await startCluster(t, { mounts: 2 });
    const [mount] = cluster.mounts;
    assert.ok(mount !== undefined);
    const [agent, waits, other] = [cluster.agent(0), cluster.agent(0), cluster.agent(1)];
    await agent.stat('');
    await cluster.upgrade();
    // Whatever this mount knew of the root is not true any more.
    await other.mkdir('made');
    await silent(cluster, async () => {
      const made = waits.mkdir('waits');
      await waits.blocked();
      await statIsQuick(agent);
      await commandsEnd(cluster, mount);
      cluster.server.child.kill('SIGCONT');
      await within('the call that waited', made);
    });
    assert.deepEqual(await agent.list(), ['made', 'waits']);
  });
});
