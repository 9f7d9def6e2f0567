/**
 * holdfast serve: the storage server of one target.
 *
 * Order at start: devices, port, superblocks, multi-mount block, version gate, and only then the first change on the
 * devices (the claim of the block, then the store's begin()). A refusal before that leaves the devices as they were.
 *
 * SIGTERM and SIGINT begin a controlled shutdown; a second one while it drains changes nothing. SIGKILL is a crash.
 */

import { type Command, InvalidArgumentError, Option } from 'commander';
import { parseMetricsAddress } from '../base/metrics_address.js';
import { parseSlowLimit } from '../base/slow_limit.js';
import type { Address } from '../runtime/ports.js';
import {
  DEFAULT_PORT,
  logLevelOption,
  needDevices,
  parseAddress,
  parseCount,
  parseRanges,
  parseSeconds,
  secondsOption,
} from './common.js';
import { parsePageAddress, wrongPageOptions } from './live/page_address.js';
import type { ServeOptions } from './serve_run.js';

function parseSlow(text: string): number {
  const ms = parseSlowLimit(text);
  if (ms === undefined) throw new InvalidArgumentError('Give a time like 200ms or 2s.');
  return ms;
}

function parseMetrics(text: string): Address {
  const address = parseMetricsAddress(text);
  if (address === undefined)
    throw new InvalidArgumentError(`"${text}" is not HOST:PORT, PORT or unix:/PATH.`);
  return address;
}

const CLIENTS_MAX = 100_000;
const PERIOD_MIN_MS = 500;
const PERIOD_MAX_MS = 600_000;

function parsePeriod(text: string): number {
  const ms = parseSeconds(text);
  if (ms < PERIOD_MIN_MS || ms > PERIOD_MAX_MS)
    throw new InvalidArgumentError(`Give ${PERIOD_MIN_MS / 1000} to ${PERIOD_MAX_MS / 1000} seconds.`);
  return ms;
}

export function registerServe(program: Command): void {
  needDevices(program.command('serve').description('serve a filesystem'))
    .addOption(
      new Option(
        '--listen <host:port>',
        'address to listen on; loopback unless you name another. Over the network only those come in who have a key (holdfast access)',
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
    .option('--tls-cert <file>', 'certificate of this server (PEM), for clients that have certificates')
    .option('--tls-key <file>', 'its private key')
    .option('--tls-ca <file>', 'certificates of the CAs that sign clients')
    .addOption(
      new Option(
        '--tls <mode>',
        'off: take connections without a key too, from the networks of --from and from privileged ports; root of those hosts is root on the files, and everybody on the way reads and changes what they send',
      )
        .choices(['on', 'off'])
        .default('on'),
    )
    .addOption(
      new Option('--from <networks>', 'with --tls=off: ADDRESS/BITS[,ADDRESS/BITS...]').argParser(
        parseRanges,
      ),
    )
    .option(
      '--max-clients <number>',
      'limit on the number of mounts; one more waits until there is room',
      (text: string) => parseCount(text, CLIENTS_MAX),
      10_000,
    )
    .addOption(logLevelOption())
    .option(
      '--metrics <address>',
      'serve Prometheus metrics over HTTP at HOST:PORT, PORT (loopback) or unix:/PATH',
      parseMetrics,
    )
    .option(
      '--http <address>',
      'serve a live page for browsers at HOST:PORT or PORT (loopback); with a key if other hosts reach it',
      parsePageAddress,
    )
    .option(
      '--http-key <file>',
      'file with the key of the page, mode 0600: browsers ask for it as a password',
    )
    .option(
      '--slow <time>',
      'log each operation that takes longer, and what it waited for; for example 200ms, 2s',
      parseSlow,
    )
    .action(async (options: ServeOptions, command: Command) => {
      const wrong = wrongTogether(options);
      if (wrong !== undefined) command.error(`error: ${wrong}`, { exitCode: 2 });
      const { serve } = await import('./serve_run.js');
      await serve(options);
    });
}

/** @returns what is wrong with these options together. */
function wrongTogether(options: ServeOptions): string | undefined {
  const { tls, from, tlsCert, tlsKey, tlsCa, http, httpKey } = options;
  if (tls === 'off' && from === undefined) return '--tls=off needs --from: the networks that you trust';
  if (tls === 'on' && from !== undefined)
    return '--from is for --tls=off; for a key it is an option of "holdfast access add"';
  const files = [tlsCert, tlsKey, tlsCa].filter((file) => file !== undefined);
  if (files.length === 1 || files.length === 2) return 'certificates need --tls-cert, --tls-key and --tls-ca';
  return wrongPageOptions(http, httpKey);
}
