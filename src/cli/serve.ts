/**
 * holdfast serve: the storage server of one target.
 *
 * Order at start: devices, port, superblocks, multi-mount block, version gate, and only then the first change on the
 * devices (the claim of the block, then the store's begin()). A refusal before that leaves the devices as they were.
 *
 * SIGTERM and SIGINT begin a controlled shutdown; a second one while it drains changes nothing. SIGKILL is a crash.
 */

import { type Command, InvalidArgumentError, Option } from 'commander';
import {
  DEFAULT_PORT,
  logLevelOption,
  needDevices,
  parseAddress,
  parseSeconds,
  secondsOption,
} from './common.js';
import type { ServeOptions } from './serve_run.js';

const PERIOD_MIN_MS = 500;
const PERIOD_MAX_MS = 600_000;

function parsePeriod(text: string): number {
  const ms = parseSeconds(text);
  if (ms < PERIOD_MIN_MS || ms > PERIOD_MAX_MS)
    throw new InvalidArgumentError(`Give ${PERIOD_MIN_MS / 1000} to ${PERIOD_MAX_MS / 1000} seconds.`);
  return ms;
}

function parseCount(text: string): number {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1 || count > 100_000)
    throw new InvalidArgumentError('Give a number from 1 to 100000.');
  return count;
}

export function registerServe(program: Command): void {
  needDevices(program.command('serve').description('serve a filesystem'))
    .addOption(
      new Option(
        '--listen <host:port>',
        'address to listen on; loopback unless you name another: root of any machine that reaches it is root on the files',
      )
        .argParser(parseAddress)
        .default({ host: '127.0.0.1', port: DEFAULT_PORT }, `127.0.0.1:${DEFAULT_PORT}`),
    )
    .option('--standby', 'wait until the active server has released the devices or is dead, then take over')
    .addOption(
      secondsOption(
        '--heartbeat-period <seconds>',
        'a partner takes over if this server has been silent for this time; give both the same',
        5000,
        parsePeriod,
      ),
    )
    .option(
      '--force-start',
      'start after an unclean stop although the version changed; evicts the previous clients',
    )
    .option(
      '--no-redo-log',
      'commit without the log, so that a release without one can be force-started after a crash; fsync takes longer',
    )
    .addOption(
      secondsOption(
        '--drain-timeout <seconds>',
        'at shutdown, evict clients that have not drained by then',
        30_000,
      ),
    )
    .option(
      '--any-port',
      'take connections from source ports above 1023 too: then every user who reaches the address is root on the files',
    )
    .option(
      '--max-clients <number>',
      'limit on the number of mounts; one more waits until there is room',
      parseCount,
      10_000,
    )
    .addOption(logLevelOption())
    .option('--metrics <host:port>', 'serve Prometheus metrics over HTTP', parseAddress)
    .action(async (options: ServeOptions) => {
      const { serve } = await import('./serve_run.js');
      await serve(options);
    });
}
