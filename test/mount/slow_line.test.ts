/**
 * Four mounts on a host behind a slow and long line, and one beside the server: work on the line is slow, and nobody is taken
 * for dead. HOLDFAST_SLOW_LINE=full moves as much as each line carries in half
 * a minute, with 150 ms each way (6 minutes in all).
 */

import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { type Agent, O } from '../fixtures/agent.js';
import { type Cluster, prepareCluster } from '../fixtures/cluster.js';
import { SlowLine } from '../fixtures/slow_line.js';
import { until, within } from '../fixtures/until.js';

const IS_FULL = process.env.HOLDFAST_SLOW_LINE === 'full';
const WAY_MS = IS_FULL ? 150 : 60;
const FAR_COUNT = 4;
const KIB = 1024;
/** How much one client writes and another reads, at so many kbit/s. */
const MOVED: readonly (readonly [number, number])[] = IS_FULL
  ? [
      [256, 1024 * KIB],
      [1000, 4096 * KIB],
      [10_000, 32_768 * KIB],
    ]
  : [[256, 64 * KIB]];
/** A line is never idle for long: what is asked for beside it is answered in so many seconds, however slow it is. */
const ANSWER_LIMIT_MS = 8000;

interface Site {
  readonly cluster: Cluster;
  readonly line: SlowLine;
  readonly far: readonly Agent[];
  readonly near: Agent;
}

async function site(t: TestContext): Promise<Site> {
  const line = await SlowLine.make();
  const cluster = prepareCluster(t, { limitMs: IS_FULL ? 400_000 : 110_000 });
  cluster.whenEnded(() => line.remove());
  await cluster.cliOk(['mkfs', ...cluster.deviceArgs, '--label', 'test']);
  await cluster.serve({ listen: `${line.nearAddress}:0` });
  await Promise.all(Array.from({ length: FAR_COUNT }, () => cluster.addMount([], undefined, line.host)));
  await cluster.addMount();
  const agents = cluster.mounts.map((_, index) => cluster.agent(index));
  return { cluster, line, far: agents.slice(0, FAR_COUNT), near: agents[FAR_COUNT] as Agent };
}

/** The server's end of each client's connection. One that is made anew has another source port. */
async function connections({ cluster }: Site): Promise<ReadonlyMap<string, string | undefined>> {
  const { clients, evicted } = await cluster.status();
  assert.deepEqual(evicted, []);
  return new Map(clients.map(({ uuid, address }) => [uuid, address]));
}

async function timed(what: Promise<unknown>): Promise<number> {
  const began = performance.now();
  await what;
  return performance.now() - began;
}

function leastMs(kilobits: number, bytes: number): number {
  return (bytes * 8) / kilobits;
}

/** Written and synced by one mount. @returns ms */
function store(agent: Agent, name: string, bytes: number): Promise<number> {
  return timed(
    (async () => {
      const fd = await agent.open(name, O.CREAT | O.RDWR);
      await agent.call('write_pattern', { fd, seed: bytes, offset: 0, length: bytes });
      await agent.fsync(fd);
      await agent.close(fd);
    })(),
  );
}

async function isStored(agent: Agent, name: string, bytes: number): Promise<void> {
  const fd = await agent.open(name, O.RDONLY);
  assert.equal(await agent.call('check_pattern', { fd, seed: bytes, offset: 0, length: bytes }), null);
  await agent.close(fd);
}

/** Asks again and again while it goes on. @returns the longest wait for an answer. */
async function longestWait(
  goesOn: Promise<unknown>,
  ask: (round: number) => Promise<unknown>,
): Promise<number> {
  let done = false;
  const ended = goesOn.finally(() => {
    done = true;
  });
  let longestMs = 0;
  for (let round = 0; !done; round += 1) longestMs = Math.max(longestMs, await timed(ask(round)));
  await ended;
  return longestMs;
}

test('a slow line is slow, and no reason to give a connection up', {
  timeout: IS_FULL ? 420_000 : 120_000,
}, async (t) => {
  const made = await site(t);
  const { line, far, near } = made;
  const [one, two, three] = far as [Agent, Agent, Agent, Agent];
  const before = await connections(made);

  for (const [kilobits, bytes] of MOVED) {
    await t.test(
      `${kilobits} kbit/s: what one moves takes what the line takes, others get their answers`,
      async () => {
        await line.is(kilobits, WAY_MS);
        const name = `f${kilobits}`;
        const stored = store(one, name, bytes);
        await until('it is there', async () => (await near.list()).includes(name));
        const statMs = await longestWait(stored, () => near.stat(name));
        const writeMs = await stored;
        await isStored(near, name, bytes);
        const read = timed(isStored(two, name, bytes));
        const mkdirMs = await longestWait(read, (round) => three.mkdir(`d${kilobits}-${round}`));
        const readMs = await read;
        t.diagnostic(
          `${kilobits} kbit/s, ${bytes / KIB} KiB (the line needs ${leastMs(kilobits, bytes)} ms): ` +
            `write and fsync ${writeMs.toFixed()} ms, stat beside it ${statMs.toFixed()} ms; ` +
            `read ${readMs.toFixed()} ms, mkdir beside it ${mkdirMs.toFixed()} ms`,
        );
        assert.ok(Math.max(statMs, mkdirMs) < ANSWER_LIMIT_MS, `${statMs} and ${mkdirMs} ms`);
      },
    );
  }

  await t.test(
    'who reads for longer than a lock may be kept is not given up, and who wants the lock gets it',
    {
      skip: !IS_FULL,
    },
    async () => {
      await line.is(10_000, WAY_MS);
      const bytes = 1024 * KIB;
      await store(near, 'wanted', bytes);
      // Past the kernel's cache: one request of 1 MiB, in the middle of which the lock cannot go back.
      const fd = await two.open('wanted', O.RDWR);
      await two.pread(fd, bytes - 1, 1);
      const again = await near.open('wanted', O.RDWR);
      await line.is(256, WAY_MS);
      const read = two.call('check_pattern', { fd, seed: bytes, offset: 0, length: bytes });
      await two.blocked();
      const waitedMs = await timed(near.pwrite(again, 0, 'new'));
      assert.equal(await read, null);
      t.diagnostic(`the lock of a reader on 256 kbit/s was waited for ${waitedMs.toFixed()} ms`);
    },
  );

  await t.test('four clients on 1 Mbit/s all get through, and nothing so far cost a connection', async () => {
    await line.is(1000, WAY_MS);
    const bytes = (IS_FULL ? 1024 : 64) * KIB;
    const each = await Promise.all(far.map((agent, index) => store(agent, `four${index}`, bytes)));
    for (const index of far.keys()) await isStored(near, `four${index}`, bytes);
    t.diagnostic(
      `four times ${bytes / KIB} KiB on 1 Mbit/s (the line needs ${leastMs(1000, 4 * bytes)} ms): ${each.map((ms) => ms.toFixed())} ms`,
    );
    assert.deepEqual(await connections(made), before);
  });

  await t.test('a burst in which everything is lost evicts nobody', async () => {
    await line.is(1000, WAY_MS);
    const bytes = (IS_FULL ? 1024 : 128) * KIB;
    const burstMs = IS_FULL ? 5000 : 2000;
    const stored = store(one, 'burst', bytes);
    await until('it is there', async () => (await near.list()).includes('burst'));
    await line.drops(true);
    await new Promise((resolve) => setTimeout(resolve, burstMs));
    await line.drops(false);
    const tookMs = await stored;
    await isStored(near, 'burst', bytes);
    t.diagnostic(`${bytes / KIB} KiB with a burst of ${burstMs} ms: ${tookMs.toFixed()} ms`);
    await connections(made);
  });

  await t.test('a connection that the line has forgotten is noticed, and made anew', async () => {
    await line.is(10_000, WAY_MS);
    const known = await connections(made);
    await line.forgetsConnections();
    const tookMs = await timed(
      within('all go on', Promise.all(far.map((agent, n) => agent.mkdir(`anew${n}`))), 20_000),
    );
    t.diagnostic(`a forgotten connection held calls up for ${tookMs.toFixed()} ms`);
    const anew = [...(await connections(made))].filter(([uuid, address]) => address !== known.get(uuid));
    assert.equal(anew.length, FAR_COUNT);
  });
});
