/** holdfast evict: ends one client's session on a server. */

import type { Command } from 'commander';
import { parseAddress } from './common.js';

export function registerEvict(program: Command): void {
  program
    .command('evict')
    .description('evict one client: its open files answer EIO, its unwritten data is lost')
    .argument('<server>', 'HOST:PORT of the server', parseAddress)
    .argument('<client>', 'UUID, unique beginning of it, or name as shown by "holdfast status"')
    .action(async (address: ReturnType<typeof parseAddress>, client: string) => {
      const { connectAdmin } = await import('./admin.js');
      const { Evict } = await import('../wire/admin.js');
      const admin = await connectAdmin(address);
      try {
        const { reply } = await admin.requester.call(Evict, {
          client,
          reason: 'evicted by the administrator',
        });
        process.stdout.write(`holdfast: evicted ${reply.name} (${reply.uuid})\n`);
      } finally {
        admin.close();
      }
    });
}
