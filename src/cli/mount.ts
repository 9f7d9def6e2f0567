/** holdfast mount: a client process that mounts a filesystem, in the background unless --foreground. */

import { type Command, Option } from 'commander';
import type { Level } from '../base/notices.js';
import { logLevelOption, parseSource, type Source } from './common.js';

export function registerMount(program: Command): void {
  program
    .command('mount')
    .description('mount a filesystem; returns when it is usable')
    .argument(
      '<source>',
      'LABEL of a filesystem that this host serves; unix:/PATH; or [LABEL@]HOST:PORT[,HOST:PORT...]: the server and its failover partner',
      parseSource,
    )
    .argument('<mountpoint>')
    .addOption(
      new Option(
        '-o <options>',
        'comma-separated mount options, may be repeated; see docs/OPERATIONS.md (intr=fatal|all, intr_grace=SECONDS, cache=SIZE, retry, umount_timeout=SECONDS, key=FILE, tls=off, driver=...)',
      )
        .argParser((value: string, before: readonly string[]) => [...before, value])
        .default([], 'none'),
    )
    .addOption(logLevelOption())
    .option(
      '--foreground',
      'stay in the foreground; SIGTERM, SIGINT, SIGHUP and SIGQUIT unmount when no file is open',
    )
    .action(
      async (
        source: Source,
        mountpoint: string,
        options: { o: string[]; foreground?: boolean; logLevel: Level },
      ) => {
        const { mount } = await import('./mount_start.js');
        await mount(source, mountpoint, options.o.join(','), options.foreground === true, options.logLevel);
      },
    );
}
