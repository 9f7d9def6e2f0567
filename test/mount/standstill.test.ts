/**
 * A server process that stood still for longer than all its limits (stopped, frozen with its container, starved of
 * processor time): what clients have said meanwhile waits in its sockets, and is read before anybody is found to be late.
 */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { StatusReply } from '../../src/wire/admin.js';
import { type Agent, O } from '../fixtures/agent.js';
import { type Cluster, type Server, startCluster } from '../fixtures/cluster.js';
import { failoverPair } from '../fixtures/failover_pair.js';
import { until, within } from '../fixtures/until.js';

/** Of the server's limits: for a glimpse and a called lock, for a client that does not come back. */
const LOCK_MS = 20_000;
const SOFT_MS = 30_000;
const LIMIT_MS = 120_000;

async function passed(ms: number): Promise<void> {
  const began = performance.now();
  await until(`${ms} ms have passed`, () => performance.now() - began > ms, ms + 10_000);
}

/** Stops it until the signal comes, and so long at least. */
async function standsStill({ child }: Server, ms: number, meanwhile?: () => void): Promise<void> {
  child.kill('SIGSTOP');
  meanwhile?.();
  await passed(ms);
  child.kill('SIGCONT');
}

function signal(cluster: Cluster, mount: number, name: 'SIGSTOP' | 'SIGCONT'): void {
  cluster.mounts[mount]?.child.kill(name);
}

interface Look {
  /** The size that it finds. In an object: whoever gets it must not wait for it. */
  readonly looked: Promise<number>;
}

/** A client that is asked for what it has written, and has not answered: stopped, with the question in its socket. */
async function isAsked(cluster: Cluster, asked: number, who: Agent, path: string): Promise<Look> {
  signal(cluster, asked, 'SIGSTOP');
  const looked = who.stat(path).then(({ size }) => size);
  // Looked at below; the test must not end with an unheard failure when something before that fails.
  looked.catch(() => undefined);
  await until('the server has asked', async () =>
    (await cluster.status()).clients.some(({ rpcsInFlight }) => rpcsInFlight > 0),
  );
  return { looked };
}

describe('a server that stood still', { concurrency: true }, () => {
  test('evicts nobody who answered a glimpse, called a lock back or came back meanwhile', async (t) => {
    const cluster = await startCluster(t, { mounts: 2, limitMs: LIMIT_MS });
    const [writer, reader] = [cluster.agent(0), cluster.agent(1)];
    const fd = await writer.open('f', O.CREAT | O.RDWR);
    const kept = await reader.open('kept', O.CREAT | O.RDWR);
    await writer.pwrite(fd, 0, 'written');
    await writer.fsync(fd);
    const { looked } = await isAsked(cluster, 0, reader, 'f');
    await standsStill(cluster.server, LOCK_MS + 2000, () => signal(cluster, 0, 'SIGCONT'));
    const size = await within('the look', looked, 30_000);
    await writer.pwrite(fd, 7, ' more');
    await writer.fsync(fd);
    await reader.pwrite(kept, 0, 'x');
    assert.deepEqual(
      [size, await reader.readFile('f'), (await cluster.status()).evicted],
      [7, 'written more', []],
    );
  });

  test('in the middle of a recovery evicts nobody who came back meanwhile', async (t) => {
    const cluster = await startCluster(t, { mounts: 2, limitMs: LIMIT_MS });
    const agents = [cluster.agent(0), cluster.agent(1)];
    const fds = await Promise.all(agents.map((agent, at) => agent.open(`f${at}`, O.CREAT | O.RDWR)));
    for (const mount of [0, 1]) signal(cluster, mount, 'SIGSTOP');
    const server = await cluster.crash();
    await standsStill(server, SOFT_MS + 2000, () => {
      for (const mount of [0, 1]) signal(cluster, mount, 'SIGCONT');
    });
    const written = agents.map((agent, at) => agent.pwrite(fds[at] ?? -1, 0, 'x'));
    await within('both go on', Promise.all(written), 30_000);
    assert.deepEqual((await cluster.status()).evicted, []);
  });

  test('and whose partner has taken over ends without a write, and has evicted nobody', async (t) => {
    const pair = await failoverPair(t, { limitMs: LIMIT_MS });
    const a = await pair.serve('a');
    const b = await pair.standBy('b');
    await pair.mount();
    await pair.mount();
    const { cluster } = pair;
    const [writer, reader] = cluster.mounts.map((mount) => pair.agent(mount)) as [Agent, Agent];
    const fd = await writer.open('f', O.CREAT | O.RDWR);
    await writer.pwrite(fd, 0, 'written');
    const { looked } = await isAsked(cluster, 0, reader, 'f');
    let before = 0;
    await standsStill(a, LOCK_MS + 2000, () => {
      before = pair.writes('a');
      signal(cluster, 0, 'SIGCONT');
    });
    const exit = await within('A stops', a.child.exited);
    assert.deepEqual([exit.code, pair.writes('a')], [1, before], a.child.tail());
    await pair.takesOver(b);
    const size = await within('the look', looked, 30_000);
    await writer.pwrite(fd, 7, ' more');
    const { evicted } = JSON.parse(
      await cluster.cliOk(['status', pair.sides.b.address, '--json']),
    ) as StatusReply;
    const said = a.child.stderr.filter((line) => line.includes('is evicted'));
    assert.deepEqual([size, await reader.readFile('f'), evicted, said], [7, 'written more', [], []]);
  });
});
