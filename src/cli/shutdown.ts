/**
 * holdfast shutdown: controlled shutdown of a server, with progress. Returns when the server is gone and its target
 * clean. SIGTERM to `holdfast serve` does the same.
 */

import type { Command } from 'commander';
import type { StatusReply } from '../wire/admin.js';
import { CliError, formatAddress, formatBytes, parseAddress, parseSeconds } from './common.js';

const POLL_MS = 100;

export function registerShutdown(program: Command): void {
  program
    .command('shutdown')
    .description(
      'controlled shutdown: clients flush and wait, everything is committed, the target is marked clean',
    )
    .argument('<server>', 'HOST:PORT', parseAddress)
    .option(
      '--timeout <seconds>',
      'evict clients that have not drained by then; brings that of a shutdown under way forward',
      parseSeconds,
    )
    .option('--cancel', 'call off a shutdown that still drains; ending this command (Ctrl-C) does not')
    .action(
      async (address: ReturnType<typeof parseAddress>, options: { timeout?: number; cancel?: boolean }) => {
        const { connectAdmin } = await import('./admin.js');
        const { Shutdown } = await import('../wire/admin.js');
        const { readStatus } = await import('./server_status.js');
        const { nodeRuntime } = await import('../runtime/node_runtime.js');
        const { sleep } = await import('../runtime/ports.js');
        const { timers } = nodeRuntime();
        const admin = await connectAdmin(address);
        try {
          const { reply } = await admin.requester.call(Shutdown, {
            drainTimeoutMs: options.timeout,
            cancel: options.cancel,
          });
          if (!reply.accepted) throw new CliError(reply.text);
          if (options.cancel === true) {
            process.stdout.write(`holdfast: ${reply.text}\n`);
            return;
          }
          process.stderr.write(`holdfast: ${reply.text}\n`);
          let gone = false;
          const ended = admin.closed.then(() => {
            gone = true;
          });
          let last: StatusReply['state'] | undefined;
          while (!gone) {
            const status = await readStatus(admin.requester).catch(() => undefined);
            if (status === undefined) break;
            if (last === 'draining' && status.state === 'active') {
              throw new CliError('the shutdown was called off; the server goes on');
            }
            last = status.state;
            showProgress(status);
            await Promise.race([sleep(timers, POLL_MS), ended]);
          }
          if (process.stderr.isTTY) process.stderr.write('\n');
          if (last === 'active' || last === 'recovering') {
            throw new CliError(
              `the server at ${formatAddress(address)} went away before it had drained; see its log`,
            );
          }
          process.stdout.write(`holdfast: ${formatAddress(address)} is shut down\n`);
        } finally {
          admin.close();
        }
      },
    );
}

function showProgress(status: StatusReply): void {
  if (!process.stderr.isTTY) return;
  const left = status.clients.filter((client) => client.state !== 'drained');
  const dirty = left.reduce((sum, client) => sum + client.dirtyBytes, 0);
  const rpcs = left.reduce((sum, client) => sum + client.rpcsInFlight, 0);
  const clients = `${status.clients.length - left.length}/${status.clients.length} clients drained`;
  process.stderr.write(
    `\r\x1b[Kholdfast: ${status.state}: ${clients}, ${formatBytes(dirty)} dirty, ${rpcs} RPCs in flight`,
  );
}
