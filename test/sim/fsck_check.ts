/** What is on the devices while nobody serves them must be consistent: after a controlled stop, and after every crash. */

import { checkTarget } from '../../src/storage/fsck/fsck.js';
import type { FsckCounts } from '../../src/storage/fsck/report.js';
import { Machine } from './machine.js';
import type { World } from './world.js';

/** @returns what is there. A check says nothing if the simulator lets reads fail meanwhile. */
export async function checkDevices(world: World, when: string): Promise<FsckCounts> {
  const { scheduler, network, rng, disks } = world;
  const program = new Machine('fsck', scheduler, network, rng.fork('fsck')).run('fsck');
  const db = disks.meta.medium(program).open();
  const data = disks.data.openShared(program);
  const before = disks.data.errors;
  const { findings, counts } = await checkTarget(program.runtime(), db, data, { checksums: true });
  const isDisturbed = disks.data.errors !== before;
  for (const { kind, text } of findings) {
    if (!isDisturbed) world.violated(`fsck ${when}: ${kind}: ${text}`);
  }
  await db.close();
  program.end('exit');
  return counts;
}
