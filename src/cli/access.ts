/** holdfast access: who may connect to a filesystem over the network, and what they may do. */

import { type Command, Option } from 'commander';
import type { AddOptions, RotateOptions, Where } from './access_run.js';
import { keyOption, parseAccessName, parseCount, parseDuration, parseRanges, parseServer } from './common.js';

const DAY_MS = 86_400_000;
const LIMIT_MAX = 1_000_000_000;

function limit(flags: string, help: string): Option {
  return new Option(flags, help).argParser((text: string) => parseCount(text, LIMIT_MAX));
}

function outputOption(): Option {
  return new Option('--output <file>', 'write the key to this new file (mode 0600), not to standard output');
}

/** The options that say which server. */
function where(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--server <server>',
        'LABEL or HOST:PORT; if this host has one server, it need not be named',
      ).argParser(parseServer),
    )
    .addOption(keyOption());
}

export function registerAccess(program: Command): void {
  const access = program
    .command('access')
    .description('who may connect over the network: make keys, list them, renew them, take them back');
  where(access.command('add'))
    .description('let one more client in; prints its key, which nobody can see again')
    .argument('<name>', 'of the client: letters, digits, dots, _ and -', parseAccessName)
    .option('--read-only', 'it may change nothing')
    .option(
      '--no-root-squash',
      'its root is root on the files; without this, uid and gid 0 of the client count as nobody (65534)',
    )
    .option('--admin', 'it may shut the server down, evict clients and change this table')
    .addOption(
      new Option('--from <networks>', 'only from these networks: ADDRESS/BITS[,ADDRESS/BITS...]').argParser(
        parseRanges,
      ),
    )
    .option(
      '--cert',
      'it has a certificate with this common name (or DNS name), and gets no key: see serve --tls-ca',
    )
    .addOption(limit('--max-clients <number>', 'limit on its mounts'))
    .addOption(limit('--max-locks <number>', 'limit on the locks of each of its mounts'))
    .addOption(limit('--max-opens <number>', 'limit on the open files of each of its mounts'))
    .addOption(
      limit(
        '--max-requests <number>',
        'limit on its requests a second, of all its mounts; what is above waits',
      ),
    )
    .addOption(
      limit(
        '--max-waiting <bytes>',
        'limit on what arrives of it, and on what is being written for it, of all its mounts; what is above waits',
      ),
    )
    .addOption(outputOption().conflicts('cert'))
    .action(async (name: string, options: AddOptions) => (await run()).addAccess(name, options));
  where(access.command('list'))
    .description('show the table; no secrets')
    .option('--json', 'one JSON object, of a documented and stable shape')
    .action(async (options: Where & { json?: boolean }) => (await run()).listAccess(options));
  where(access.command('remove'))
    .description('take the access back: its clients are evicted at once')
    .argument('<name>', 'of the client', parseAccessName)
    .action(async (name: string, options: Where) => (await run()).removeAccess(name, options));
  where(access.command('rotate'))
    .description('make a new key for a client; the old one goes on working for a while')
    .argument('<name>', 'of the client', parseAccessName)
    .addOption(
      new Option('--grace <time>', 'how long the old key goes on working: 0, 30m, 12h, 7d')
        .argParser(parseDuration)
        .default(7 * DAY_MS, '7d'),
    )
    .addOption(outputOption())
    .action(async (name: string, options: RotateOptions) => (await run()).rotateAccess(name, options));
}

function run(): Promise<typeof import('./access_run.js')> {
  return import('./access_run.js');
}
