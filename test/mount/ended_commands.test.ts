/** Every command, ended by a failure or a signal in any phase of its life: it ends, and leaves nothing behind. */

import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { Child } from '../fixtures/child.js';
import { type Cluster, prepareCluster, startCluster } from '../fixtures/cluster.js';
import { MIB } from '../fixtures/devices.js';
import { loopsUnder, mountsUnder, processesUnder } from '../fixtures/leftovers.js';
import { until, within } from '../fixtures/until.js';

const SMALL = { metaBytes: 64 * MIB, dataBytes: 64 * MIB };
const ENDING = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT'] as const;
/** Longer than any wait that a command may have; no test expects a command to be faster. */
const ENDS_WITHIN_MS = 30_000;
const SEED = Number(process.env.HOLDFAST_TEST_SEED ?? Math.floor(Math.random() * 1e9));

/** Mulberry32. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Sends the signal at a moment that only the seed and the machine choose. */
async function endedAfter(child: Child, ms: number, signal: NodeJS.Signals): Promise<void> {
  const timer = setTimeout(() => child.kill(signal), ms);
  await within(
    `${child.name} ends after ${signal} at ${ms} ms: ${child.tail()}`,
    child.exited,
    ENDS_WITHIN_MS,
  );
  clearTimeout(timer);
}

async function nothingIsLeft(what: string, folder: string): Promise<void> {
  const left = () => [mountsUnder(folder), loopsUnder(folder), processesUnder(folder)];
  const isNothing = () => left().every((some) => some.length === 0);
  await until(`${what}: nothing is left`, isNothing, ENDS_WITHIN_MS).catch((late: Error) =>
    assert.fail(`${late.message}: ${JSON.stringify(left())}`),
  );
}

test('a mount that fails after it is in the table ends, and takes it away', async (t) => {
  const cluster = await startCluster(t, { ...SMALL, mounts: 0 });
  const dir = join(cluster.folder, 'mnt');
  mkdirSync(dir);
  // Where the folder of control sockets should be.
  writeFileSync(join(cluster.folder, 'run', 'mounts'), '');
  const child = cluster.command(['mount', cluster.address, dir, '--foreground']);
  const exit = await within('the mount ends', child.exited).finally(() => child.kill('SIGKILL'));
  assert.deepEqual([exit, child.stderr.length], [{ code: 1, signal: null }, 1], child.tail());
  assert.deepEqual(mountsUnder(cluster.folder), []);
  rmSync(join(cluster.folder, 'run', 'mounts'));
});

for (const signal of ['SIGHUP', 'SIGQUIT'] as const) {
  test(`${signal} to a foreground mount unmounts it`, async (t) => {
    const cluster = await startCluster(t, SMALL);
    const [mount] = cluster.mounts;
    assert.ok(mount !== undefined);
    await cluster.agent().dies('SIGKILL');
    mount.child.kill(signal);
    assert.deepEqual(await within('the client ends', mount.child.exited), { code: 0, signal: null });
    assert.deepEqual(mountsUnder(cluster.folder), []);
  });
}

test('a mount in the background ends when the command that started it is killed', async (t) => {
  const cluster = prepareCluster(t, SMALL);
  const dir = join(cluster.folder, 'mnt');
  mkdirSync(dir);
  // Nothing listens there: with retry it tries for ever.
  const child = cluster.command(['mount', '127.0.0.1:1', dir, '-o', 'retry']);
  await until('the background process tries', () => processesUnder(dir).length === 2);
  await child.line(/tries again/);
  child.kill('SIGKILL');
  await child.exited;
  await nothingIsLeft('mount', dir);
});

/** A command and the longest time after which it is ended; most of its life lies before. */
type Case = readonly [name: string, lifeMs: number, args: (cluster: Cluster) => readonly string[]];

const CASES: readonly Case[] = [
  ['mkfs', 600, ({ deviceArgs }) => ['mkfs', ...deviceArgs, '--force']],
  ['fsck', 600, ({ deviceArgs }) => ['fsck', ...deviceArgs]],
  ['serve', 900, ({ deviceArgs }) => ['serve', ...deviceArgs, '--listen', '127.0.0.1:0']],
];

test('mkfs, fsck and serve end with any signal at any moment', { timeout: 120_000 }, async (t) => {
  t.diagnostic(`HOLDFAST_TEST_SEED=${SEED}`);
  const random = generator(SEED);
  const cluster = prepareCluster(t, { ...SMALL, damages: true, limitMs: 110_000 });
  for (const [name, lifeMs, args] of CASES) {
    for (const signal of [...ENDING, 'SIGKILL'] as const) {
      await endedAfter(cluster.command(args(cluster)), random() * lifeMs, signal);
      await nothingIsLeft(`${name}, seed ${SEED}`, cluster.folder);
    }
  }
});

test('every command of a client ends with any signal at any moment', { timeout: 120_000 }, async (t) => {
  t.diagnostic(`HOLDFAST_TEST_SEED=${SEED}`);
  const random = generator(SEED);
  const cluster = await startCluster(t, { ...SMALL, mounts: 0, limitMs: 110_000 });
  const dir = join(cluster.folder, 'mnt');
  mkdirSync(dir);
  const commands = [
    ['mount', cluster.address, dir, '--foreground'],
    ['status', cluster.address, '--watch'],
    ['evict', cluster.address, 'nobody'],
  ];
  for (const args of commands) {
    for (const signal of ENDING) {
      await endedAfter(cluster.command(args), random() * 700, signal);
      await until(
        `${args[0]}, seed ${SEED}: no mount is left`,
        () => mountsUnder(cluster.folder).length === 0,
      );
    }
  }
  for (const signal of [...ENDING, 'SIGKILL'] as const) {
    await endedAfter(cluster.command(['mount', cluster.address, dir]), random() * 700, signal);
    // The command may have been done before: then the mount is there, and whole.
    await until(
      `mount in the background, ${signal}, seed ${SEED}: it is usable or gone`,
      async () =>
        processesUnder(dir).length === 0
          ? mountsUnder(cluster.folder).length === 0
          : (await cluster.cli(['umount', dir])).code === 0,
      ENDS_WITHIN_MS,
    );
  }
});

/** The demo with folders of its own, so that what it leaves can be seen. */
function startDemo(t: TestContext, cluster: Cluster): Child {
  const env = { ...cluster.env, TMPDIR: cluster.folder };
  const child = new Child('demo', process.execPath, [cluster.tree.main, 'demo', '--size', '128'], env);
  t.after(() => child.kill('SIGKILL'));
  return child;
}

const demoFolders = ({ folder }: Cluster): string[] =>
  readdirSync(folder).filter((name) => name.startsWith('holdfast-demo-'));

test('the demo, interrupted at any moment, takes away all it made', { timeout: 120_000 }, async (t) => {
  t.diagnostic(`HOLDFAST_TEST_SEED=${SEED}`);
  const random = generator(SEED);
  const cluster = prepareCluster(t, { ...SMALL, limitMs: 110_000 });
  const ended = async (child: Child, signal: NodeJS.Signals): Promise<void> => {
    child.kill(signal);
    await within(() => `the demo ends: ${child.tail()}`, child.exited, ENDS_WITHIN_MS);
    await nothingIsLeft(`demo, seed ${SEED}`, cluster.folder);
    assert.deepEqual(demoFolders(cluster), []);
  };
  // While the first mount comes up.
  const child = startDemo(t, cluster);
  await until(
    'a mount comes up',
    () => processesUnder(cluster.folder).some(({ command }) => / mount /.test(command)),
    ENDS_WITHIN_MS,
  );
  await ended(child, 'SIGINT');
  for (const signal of ENDING) {
    const later = startDemo(t, cluster);
    await until('the demo has begun', () => demoFolders(cluster).length > 0, ENDS_WITHIN_MS);
    await new Promise((resolve) => setTimeout(resolve, random() * 3000));
    await ended(later, signal);
  }
});
