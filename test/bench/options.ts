/** The command line of `npm run bench`. */

import { Command, InvalidArgumentError, Option } from 'commander';

export const TABLES = ['main', 'growth', 'pauses', 'flood', 'trust'] as const;
export type Table = (typeof TABLES)[number];
export const PEERS = ['ext4', 'passthrough', 'sshfs', 'glusterfs', 'moosefs'] as const;

export interface BenchOptions {
  readonly peer: readonly string[];
  /** Folder of another build of Holdfast. */
  readonly before?: string;
  readonly filter?: string;
  readonly rounds: number;
  readonly json?: string;
  readonly table: Table;
  readonly markdown?: true;
  readonly install?: true;
  readonly syscalls?: true;
  /** Folder for the profiles of Holdfast's processes. */
  readonly profile?: string;
  readonly quick?: true;
  /** Of the processors, in percent. */
  readonly others: number;
  /** Of the file of the rows with bytes, in MiB. */
  readonly size: number;
  /** Of each peer, in GiB. */
  readonly device: number;
  readonly files: number;
  readonly stream: number;
  readonly growthMax: number;
}

function parsePeers(text: string): readonly string[] {
  const names = text.split(',').map((name) => name.trim());
  for (const name of names) {
    if (name !== 'holdfast' && !(PEERS as readonly string[]).includes(name))
      throw new InvalidArgumentError(`There is no peer "${name}"; there are ${PEERS.join(', ')}.`);
  }
  return names.filter((name) => name !== 'holdfast');
}

function whole(least: number): (text: string) => number {
  return (text) => {
    const count = Number(text);
    if (!Number.isInteger(count) || count < least)
      throw new InvalidArgumentError(`Give a whole number from ${least} on.`);
    return count;
  };
}

function percent(text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError('Give percent, above 0.');
  return value;
}

/** @param act runs the bench; it is not called for --help or a wrong command line. */
export function benchCommand(act: (options: BenchOptions) => Promise<void>): Command {
  return new Command('bench')
    .description(
      'Measures Holdfast beside other filesystems, in turns, each on a loop device of its own. Needs root.',
    )
    .addOption(
      new Option('--peer <names>', `comma-separated: ${PEERS.join(', ')}; Holdfast is always measured`)
        .argParser(parsePeers)
        .default(PEERS, 'all'),
    )
    .option('--before <folder>', 'the repository of another build of Holdfast: one peer more, named "before"')
    .option('--filter <name>', 'only rows whose names contain this')
    .option('--rounds <n>', 'runs of each row on each peer; the median counts', whole(1), 3)
    .option('--json <file>', 'write everything that was measured into this file; - is stdout')
    .addOption(new Option('--table <table>', 'which table').choices(TABLES).default('main'))
    .option('--markdown', 'write the table into docs/MEASURED.md, with bars in docs/measured/')
    .option('--install', 'install the Debian packages of the peers that are not there')
    .option(
      '--profile <folder>',
      "write CPU profiles of Holdfast's processes into this folder, and say where the time of each row goes; with --filter, draw flame graphs",
    )
    .option('--syscalls', 'count system calls by perf, in one run more of each row')
    .option(
      '--others <percent>',
      'repeat a run in which other processes took more of the processors',
      percent,
      10,
    )
    .option('--quick', 'a tenth of the work: shows that rows run, measures nothing')
    .option('--size <mib>', 'of the file of the rows with bytes', whole(16), 512)
    .option('--device <gib>', 'of the loop device of each peer', whole(2), 5)
    .option(
      '--files <n>',
      "main: files for the row of the server's memory; 0 leaves it out",
      whole(0),
      200_000,
    )
    .option(
      '--stream <gib>',
      "main: streamed for the row of the client's memory; 0 leaves it out",
      whole(0),
      8,
    )
    .option('--growth-max <n>', 'growth: the largest directory', whole(1000), 1_000_000)
    .showHelpAfterError('(run with --help for the usage)')
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'bench: ')) })
    .exitOverride()
    .action(act);
}
