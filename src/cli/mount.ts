/** holdfast mount: a client process that mounts a filesystem, in the background unless --foreground. */

import { type Command, Option } from 'commander';
import { OWN_OPTIONS } from '../../mount/option_list.js';
import type { Level } from '../base/notices.js';
import { logLevelOption, parseSource, type Source } from './common.js';

function optionsHelp(): string {
  const words = OWN_OPTIONS.map(({ word }) => word);
  return `\nWords of -o: ${[...words, 'ro, nosuid, nodev, noexec, noatime'].join(', ')}.`;
}

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
        'comma-separated mount options, may be repeated; the words are below, and in mount.holdfast(8)',
      )
        .argParser((value: string, before: readonly string[]) => [...before, value])
        .default([], 'none'),
    )
    .addHelpText('after', optionsHelp)
    .addOption(logLevelOption())
    .option(
      '--foreground',
      'stay in the foreground; SIGTERM, SIGINT, SIGHUP and SIGQUIT unmount when no file is open',
    )
    // Of a process that takes a mount over. An older version does not know it, and fails before it does anything.
    .addOption(new Option('--take-over').hideHelp())
    // Of a process that a keeper has started.
    .addOption(new Option('--after-death').hideHelp())
    .action(
      async (
        source: Source,
        mountpoint: string,
        options: {
          o: string[];
          foreground?: boolean;
          logLevel: Level;
          takeOver?: boolean;
          afterDeath?: boolean;
        },
      ) => {
        const { goOn, mount } = await import('./mount_start.js');
        if (options.takeOver === true || options.afterDeath === true) {
          const how = options.takeOver === true ? 'take over' : 'after death';
          await goOn(how, source, mountpoint, options.o.join(','), options.logLevel);
          return;
        }
        await mount(source, mountpoint, options.o.join(','), options.foreground === true, options.logLevel);
      },
    );
}
