/**
 * holdfast shutdown: begins the controlled shutdown of a server and shows its progress. It returns when the server is gone and
 * its target is clean. SIGTERM to `holdfast serve` begins the same shutdown.
 */

import type { Command } from 'commander';
import { printable } from '../base/printable.js';
import { type Address, formatAddress } from '../runtime/ports.js';
import type { ShutdownEndsNotice, StatusReply } from '../wire/admin.js';
import { keyOption, parseSeconds, parseServer } from './common.js';
import { CliError, plain } from './failure.js';
import { formatBytes } from './format.js';

const POLL_MS = 100;
/** Exit status if the target is clean, and the server evicted clients for that. */
const EVICTED_STATUS = 3;
/** The most clients that one line names. */
const NAMED_MAX = 5;

interface ShutdownOptions {
  readonly timeout?: number;
  readonly cancel?: boolean;
  readonly key?: string;
}

export function registerShutdown(program: Command): void {
  program
    .command('shutdown')
    .description(
      'controlled shutdown: clients flush and wait, the server commits everything and marks the target clean',
    )
    .argument(
      '[server]',
      'LABEL or HOST:PORT; if this host has one server, it need not be named',
      parseServer,
    )
    .option(
      '--timeout <seconds>',
      'evict clients that have not drained by then; can shorten the timeout of a shutdown under way',
      parseSeconds,
    )
    .option(
      '--cancel',
      'call off a shutdown while a client still drains; ending the command (Ctrl-C) does not',
    )
    .addOption(keyOption())
    .addHelpText(
      'after',
      '\nExit status 3: the target is clean, and the server evicted clients that had not drained.',
    )
    .action(shutdown);
}

async function shutdown(server: Address | undefined, options: ShutdownOptions): Promise<void> {
  const { timeout, cancel, key } = options;
  const { onlyServer } = await import('./local_servers.js');
  const address = server ?? onlyServer();
  const { connectAdmin } = await import('./admin.js');
  const { Shutdown, ShutdownEnds, Status } = await import('../wire/admin.js');
  const { decode } = await import('../wire/schema.js');
  const { nodeRuntime } = await import('../runtime/node_runtime.js');
  const { sleep } = await import('../runtime/ports.js');
  const { timers } = nodeRuntime();
  let end: ShutdownEndsNotice | undefined;
  const admin = await connectAdmin(address, {
    key,
    onNotice: ({ header, body }) => {
      if (header.opcode === ShutdownEnds.opcode) end = decode(ShutdownEnds.request, body);
    },
  });
  const progress = new Progress();
  try {
    const { reply } = await admin.requester.call(Shutdown, { drainTimeoutMs: timeout, cancel });
    if (!reply.accepted) throw new CliError(reply.text);
    if (cancel === true) {
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
      const status = await admin.requester.call(Status, {}).catch(() => undefined);
      if (status === undefined) break;
      if (last === 'draining' && status.reply.state === 'active') {
        throw new CliError('the shutdown was called off; the server goes on');
      }
      last = status.reply.state;
      progress.show(status.reply);
      await Promise.race([sleep(timers, POLL_MS), ended]);
    }
    progress.end();
    if (last === 'active' || last === 'recovering') {
      throw new CliError(
        `the server at ${formatAddress(address)} went away before it had drained; see its log`,
      );
    }
    process.stdout.write(`holdfast: ${formatAddress(address)} is shut down\n`);
    if (end !== undefined && end.evictedCount > 0) throw evictedError(end);
  } catch (thrown) {
    throw plain(thrown);
  } finally {
    progress.end();
    admin.close();
  }
}

function evictedError({ evicted, evictedCount }: ShutdownEndsNotice): CliError {
  const named = evicted.slice(0, NAMED_MAX).map(({ name, reason }) => `${name} (${reason})`);
  const more = evictedCount > named.length ? ` and ${evictedCount - named.length} more` : '';
  return new CliError(
    `${evictedCount === 1 ? 'a client was' : `${evictedCount} clients were`} evicted: ${named.join(', ')}${more}`,
    EVICTED_STATUS,
  );
}

/** On a terminal one line that changes; elsewhere a new line whenever the server waits for other clients. */
class Progress {
  #isShown = false;
  #waitedFor = '';

  show(status: StatusReply): void {
    const left = status.clients.filter((client) => client.state !== 'drained');
    const dirty = left.reduce((sum, client) => sum + client.dirtyBytes, 0);
    const rpcs = left.reduce((sum, client) => sum + client.rpcsInFlight, 0);
    const drained = `${status.clients.length - left.length}/${status.clients.length} clients drained`;
    const names = left.slice(0, NAMED_MAX).map((client) => client.name);
    const more = left.length > names.length ? ` and ${left.length - names.length} more` : '';
    const waits = names.length === 0 ? '' : `, waits for ${names.join(', ')}${more}`;
    const seconds = status.drainLeftMs === undefined ? undefined : Math.ceil(status.drainLeftMs / 1000);
    const limit = names.length === 0 || seconds === undefined ? '' : `, evicts in ${seconds} s`;
    const line = printable(`holdfast: ${status.state}: ${drained}${waits}${limit}`);
    if (process.stderr.isTTY) {
      process.stderr.write(`\r\x1b[K${line}, ${formatBytes(dirty)} dirty, ${rpcs} RPCs in flight`);
      this.#isShown = true;
    } else if (waits !== this.#waitedFor) {
      this.#waitedFor = waits;
      if (waits !== '') process.stderr.write(`${line}\n`);
    }
  }

  /** Ends the changing line, so that the next output begins on a new one. */
  end(): void {
    if (this.#isShown) process.stderr.write('\n');
    this.#isShown = false;
  }
}
