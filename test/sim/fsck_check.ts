/** What is on the devices while nobody serves them must be consistent: after a controlled stop, and after every crash. */

import { checkTarget } from '../../src/storage/fsck.js';
import { Machine } from './machine.js';
import type { World } from './world.js';

export async function checkDevices(world: World, when: string): Promise<void> {
  const { scheduler, network, rng, disks } = world;
  const program = new Machine('fsck', scheduler, network, rng.fork('fsck')).run('fsck');
  const db = disks.meta.medium(program).open();
  const data = disks.data.openShared(program);
  const { findings } = await checkTarget(program.runtime(), db, data, { checksums: true });
  for (const { kind, text } of findings) world.violated(`fsck ${when}: ${kind}: ${text}`);
  await db.close();
  program.end('exit');
}
