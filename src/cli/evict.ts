/** holdfast evict: ends one client's session on a server. */

import { type Command, InvalidArgumentError } from 'commander';
import { printable } from '../base/printable.js';
import type { Address } from '../runtime/ports.js';
import { keyOption, parseServer } from './common.js';
import { plain } from './failure.js';

export function registerEvict(program: Command): void {
  program
    .command('evict')
    .description('evict one client: its open files answer EIO, its unwritten data is lost')
    .usage('[options] [server] <client>')
    .argument(
      '[words...]',
      'server: LABEL or HOST:PORT; if this host has one server, it need not be named. client: UUID, unique beginning of it, or name as shown by "holdfast status"',
    )
    .addOption(keyOption())
    .action(async (words: string[], { key }: { key?: string }, command: Command) => {
      const [client, server, ...surplus] = words.toReversed();
      if (client === undefined || surplus.length > 0)
        command.error('error: give the client, or the server and the client', { exitCode: 2 });
      const { connectAdmin } = await import('./admin.js');
      const { onlyServer } = await import('./local_servers.js');
      const { Evict } = await import('../wire/admin.js');
      const admin = await connectAdmin(server === undefined ? onlyServer() : serverOf(server, command), {
        key,
      });
      try {
        const { reply } = await admin.requester.call(Evict, {
          client,
          reason: 'evicted by the administrator',
        });
        process.stdout.write(`holdfast: evicted ${printable(reply.name)} (${reply.uuid})\n`);
      } catch (thrown) {
        throw plain(thrown);
      } finally {
        admin.close();
      }
    });
}

function serverOf(text: string, command: Command): Address {
  try {
    return parseServer(text);
  } catch (thrown) {
    if (!(thrown instanceof InvalidArgumentError)) throw thrown;
    return command.error(`error: ${thrown.message}`, { exitCode: 2 });
  }
}
