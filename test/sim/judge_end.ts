/**
 * The end of a run: what everybody left is looked at through a fresh mount, everybody leaves, and nothing is left of
 * anybody: no export, no record, no lock, no open file, no orphan; then a controlled shutdown that is clean at once.
 */

import { isDir, isRegular } from '../../src/base/attr.js';
import { compareTree } from './compare_tree.js';
import type { Process } from './file_calls.js';
import { checkDevices } from './fsck_check.js';
import { SystemError } from './system_error.js';
import { TreeKeeper } from './tree_keeper.js';
import type { Worker } from './worker.js';
import type { World } from './world.js';

/** More than a client without a connection is kept. */
const KILLED_GONE_MS = 90_000;
/** Every client may still find out that it was evicted. */
const UNMOUNTED_MS = 40_000;

export async function judgeEnd(
  world: World,
  workers: readonly Worker[],
  more: (process: Process) => Promise<void>,
): Promise<void> {
  world.say('everything is looked at');
  // Whoever is evicted now was thrown out for nothing.
  const beganMs = world.scheduler.nowMs;
  for (const client of world.clients) await client.unmount();
  const tookMs = world.scheduler.nowMs - beganMs;
  if (tookMs > UNMOUNTED_MS)
    world.violated(`everybody unmounts in ${tookMs} ms, though nothing is in the way`);
  const auditor = world.client();
  await auditor.mount();
  const process = auditor.process();
  for (const worker of workers) {
    if (!(worker instanceof TreeKeeper)) continue;
    if (worker.state === 'done' && !worker.isDisturbed && !worker.mayHaveLostUntold) {
      await compareTree(process, worker.base, worker.model, (what) => world.violated(`at the end: ${what}`));
    } else {
      await comparePromised(world, process, worker);
    }
  }
  await more(process);
  await auditor.unmount();
  await judgeNothingLeft(world);
}

async function comparePromised(world: World, process: Process, worker: TreeKeeper): Promise<void> {
  for (const { path, kind, content } of worker.promised()) {
    try {
      const { sizeBytes, mode } = await process.stat(worker.base + path);
      const found = isDir(mode) ? 'dir' : isRegular(mode) ? 'file' : 'symlink';
      if (found !== kind) world.violated(`${worker.base}${path} was synced as ${kind} and is ${found}`);
      if (kind !== 'file' || content === undefined) continue;
      const file = await process.open(worker.base + path, 0);
      const got = await process.pread(file, 0, sizeBytes);
      await process.close(file);
      if (!got.equals(content)) world.violated(`${worker.base}${path} was synced, and is something else`);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      world.violated(`${worker.base}${path} was synced: ${error.message}`);
    }
  }
}

async function judgeNothingLeft(world: World): Promise<void> {
  const { active } = world;
  const server = active?.server;
  const target = server?.target;
  if (active === undefined || server === undefined || target === undefined) {
    world.violated('no server serves at the end');
    return;
  }
  // Clients that were killed are evicted when their time is over.
  const limitMs = world.scheduler.nowMs + KILLED_GONE_MS;
  const isLeft = (): boolean => target.exports.size === 0 && target.leaving.size === 0;
  await world.until(() => isLeft() || world.scheduler.nowMs > limitMs);
  const { orphans } = server.status();
  const left = {
    exports: target.exports.size,
    records: target.store.clients().length,
    orphans,
    modifying: target.modifying.count,
    activeLocks: target.locks.holders('active').length,
    inodeLocks: target.locks.holders('inode').length,
    dataLocks: target.locks.holders('data').length,
    flocks: target.locks.holders('flock').length,
  };
  const there = Object.entries(left).filter(([, count]) => count !== 0);
  if (there.length > 0) world.violated(`left at the end: ${there.map((pair) => pair.join(' ')).join(', ')}`);
  await server.shutdown();
  await world.until(() => active.program === undefined);
  await checkDevices(world, 'at the end');
}
