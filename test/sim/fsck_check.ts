/** What is on the devices while nobody serves them must be consistent: after a controlled stop, and after every crash. */

import { fsckTarget } from '../../src/storage/fsck/fsck.js';
import type { FsckCounts } from '../../src/storage/fsck/report.js';
import { Machine } from './machine.js';
import type { World } from './world.js';

/** @returns what is there. A check says nothing if the simulator lets reads fail meanwhile. */
export async function checkDevices(world: World, when: string): Promise<FsckCounts> {
  const { scheduler, network, rng, disks } = world;
  const program = new Machine('fsck', scheduler, network, rng.fork('fsck')).run('fsck');
  const before = disks.data.errors;
  const devices = {
    metaPath: 'meta',
    metaSizeBytes: disks.meta.sizeBytes,
    metaMedium: disks.meta.medium(program),
    runtimeDir: 'none',
    data: disks.data.openShared(program),
  };
  const { findings, counts } = await fsckTarget(program.runtime(), devices, { checksums: true });
  const isDisturbed = disks.data.errors !== before;
  for (const { kind, text } of findings) {
    if (!isDisturbed) world.violated(`fsck ${when}: ${kind}: ${text}`);
  }
  program.end('exit');
  return counts;
}
