/**
 * Crashes in the middle of the removal of orphans. A large file goes in steps, many orphans go in batches, each of them a
 * transaction; what a crash leaves between any two of them is consistent, and the next server removes the rest.
 */

import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import type { FsckCounts } from '../../src/storage/fsck/report.js';
import { O_CREAT } from './file_calls.js';
import { checkDevices } from './fsck_check.js';
import type { Disks } from './server_node.js';
import { makeImage, simulate, type World } from './world.js';

const O_RDWR = 2;
const MIB = 1 << 20;
/** One block in each MiB: a file of so many block maps, removed in steps of 64. */
const LARGE_WINDOWS = 300;
const LARGE_FILES = 2;
/** Removed in batches of 16, some of them in a commit. */
const SMALL_FILES = 600;
/** Longer than a group commit waits: each step of the removal is a transaction of its own on the device. */
const TURN_MS = 55;
/** No transaction for so long: everything is removed. */
const QUIET_MS = 500;
/** The client that had the orphans open is not waited for. */
const SETTINGS = { recoverySoftMs: 50 };

/** Devices of a target that was killed with orphans on it, whose client will not come back. */
let orphaned: Disks;
let empty: Disks;

before(async () => {
  empty = await makeImage();
  const world = await simulate({ seed: 7, image: empty }, async (made) => {
    const process = made.client().process();
    const keeper = made.client().process();
    for (let number = 0; number < LARGE_FILES; number++) await makeLarge(process, `/large${number}`);
    for (let number = 0; number < SMALL_FILES; number++) {
      await keeper.pwrite(await keeper.open(`/s${number}`, O_CREAT | O_RDWR), 0, Buffer.from('small'));
      await keeper.unlink(`/s${number}`);
    }
    for (let number = 0; number < LARGE_FILES; number++) await process.unlink(`/large${number}`);
    await made.server().server?.target?.store.sync();
    made.client().crash();
    made.server().crash();
  });
  const counts = await inspected(world);
  assert.deepEqual(
    [counts.orphans, counts.blockMaps],
    [LARGE_FILES + SMALL_FILES, LARGE_FILES * LARGE_WINDOWS],
  );
  orphaned = world.disks;
});

type Caller = ReturnType<ReturnType<World['client']>['process']>;

async function makeLarge(process: Caller, path: string): Promise<void> {
  const file = await process.open(path, O_CREAT | O_RDWR);
  for (let index = 0; index < LARGE_WINDOWS; index++) {
    await process.pwrite(file, index * MIB, Buffer.alloc(4096, 1 + (index % 255)));
  }
  await process.fsync(file);
}

/** What is on the devices of a world that is over. */
async function inspected(world: World): Promise<FsckCounts> {
  let counts: FsckCounts | undefined;
  const looking = checkDevices(world, 'now').then((found) => {
    counts = found;
  });
  await world.scheduler.run(() => counts !== undefined, Number.POSITIVE_INFINITY);
  await looking;
  assert.ok(counts !== undefined);
  const [violation] = world.violations;
  if (violation !== undefined) throw violation;
  return counts;
}

/** Commits from now on: writes to the redo log, and transactions. */
function countCommits(world: World): () => number {
  const { meta } = world.disks;
  const watched = meta.onCommit;
  const watchedLog = meta.log.onWrite;
  let commits = 0;
  meta.log.onWrite = (...write) => {
    watchedLog(...write);
    commits += 1;
  };
  meta.onCommit = (program, get) => {
    watched(program, get);
    commits += 1;
  };
  return () => commits;
}

function slowly(world: World): void {
  world.server().machine.turnMs = TURN_MS;
}

/** How much of the removal is still to be done. */
function left({ orphans, doomed, blockMaps }: FsckCounts): string {
  return `${orphans} orphans, ${doomed} doomed, ${blockMaps} block maps`;
}

async function untilRecovered(world: World): Promise<void> {
  await world.until(() => world.server().server?.state === 'active');
}

/** Everything is removed in the end: nothing of it in memory, nothing on the devices, and all space is free. */
async function judgeRemoved(world: World): Promise<void> {
  const node = world.server();
  await world.until(() => {
    const status = node.server?.status();
    return status?.orphans === 0 && status.blocksFree === status.blocks;
  });
  await node.server?.shutdown();
  await world.until(() => node.program === undefined);
  const counts = await checkDevices(world, 'at the end');
  assert.equal(left(counts), '0 orphans, 0 doomed, 0 block maps');
  // The root.
  assert.deepEqual([counts.inodes, counts.names, counts.blocks, counts.clients], [1, 0, 0, 0]);
}

/** Crashes after so many more commits. @returns whether it came to that: the removal took as many. */
async function crashAfter(world: World, commits: () => number, count: number): Promise<boolean> {
  const { scheduler } = world;
  const wanted = commits() + count;
  let seen = commits();
  let sinceMs = scheduler.nowMs;
  await world.until(() => {
    if (commits() !== seen) sinceMs = scheduler.nowMs;
    seen = commits();
    return seen >= wanted || scheduler.nowMs - sinceMs > QUIET_MS;
  });
  if (seen < wanted) return false;
  world.server().crash(count % 2 === 0 ? 'kill' : 'power');
  return true;
}

test('a server that is killed after any step of the removal of orphans: the next removes the rest', async () => {
  const states = new Set<string>();
  for (let count = 0, more = true; more; count++) {
    assert.ok(count < 100, 'the removal comes to an end');
    await simulate({ clients: 0, seed: 1000 + count, image: orphaned, settings: SETTINGS }, async (world) => {
      slowly(world);
      await untilRecovered(world);
      more = await crashAfter(world, countCommits(world), count);
      if (more) {
        states.add(left(await checkDevices(world, 'after the crash')));
        await world.server().start();
      }
      await judgeRemoved(world);
    });
  }
  // Between the batches of orphans, and between the steps of either large file.
  const seen = [...states].join('; ');
  const counts = (of: string): Set<number> =>
    new Set([...seen.matchAll(new RegExp(`(\\d+) ${of}`, 'g'))].map(([, count]) => Number(count)));
  const [orphans, blockMaps] = [counts('orphans'), counts('block maps')];
  // The last commit of the removal is not durable when it begins.
  assert.ok(orphans.has(602) && Math.min(...orphans) <= 16 && orphans.size >= 20, seen);
  for (const steps of [600, 536, 300, 108, 0]) assert.ok(blockMaps.has(steps), seen);
  assert.ok(blockMaps.size >= 9, seen);
});

test('killed twice in a row while it removes orphans, and while it goes on with that', async () => {
  const states = new Set<string>();
  for (const first of [1, 2, 4, 6]) {
    for (const second of [1, 2, 3, 5]) {
      const seed = 2000 + 10 * first + second;
      await simulate({ clients: 0, seed, image: orphaned, settings: SETTINGS }, async (world) => {
        slowly(world);
        const commits = countCommits(world);
        await untilRecovered(world);
        assert.ok(await crashAfter(world, commits, first));
        const once = left(await checkDevices(world, 'after the first crash'));
        void world.server().start();
        await world.until(() => world.server().store !== undefined);
        assert.ok(await crashAfter(world, commits, second));
        states.add(`${once} - ${left(await checkDevices(world, 'after the second crash'))}`);
        await world.server().start();
        await judgeRemoved(world);
      });
    }
  }
  assert.ok(states.size >= 12, [...states].join('\n'));
});

test('killed while a file is removed that a living client has just closed: the client goes on, the rest is removed', async () => {
  const states = new Set<string>();
  for (const count of [1, 2, 3, 4, 5]) {
    await simulate({ seed: 3000 + count, image: empty }, async (world) => {
      const process = world.client().process();
      await makeLarge(process, '/large');
      const kept = await process.open('/kept', O_CREAT | O_RDWR);
      await process.unlink('/large');
      await process.unlink('/kept');
      await process.pwrite(kept, 0, Buffer.from('kept'));
      await world.sleep(500);
      slowly(world);
      const commits = countCommits(world);
      const other = world.client().process();
      const closing = process.exit();
      const held = await other.open('/held', O_CREAT | O_RDWR);
      assert.ok(await crashAfter(world, commits, count));
      const counts = await checkDevices(world, 'after the crash');
      states.add(left(counts));
      await world.server().start();
      await closing;
      await other.pwrite(held, 0, Buffer.from('held'));
      assert.equal((await other.pread(held, 0, 4)).toString(), 'held');
      await other.close(held);
      await other.unlink('/held');
      await world.client().unmount();
      assert.deepEqual(world.scheduler.trace.last(1000, /evicts/), []);
      await judgeRemoved(world);
    });
  }
  assert.ok(states.size >= 4, [...states].join('\n'));
});
