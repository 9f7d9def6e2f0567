/** holdfast umount: unmounts, and returns when the client has written everything to the server. */

import { type Command, Option } from 'commander';
import { CliError } from './failure.js';

export function registerUmount(program: Command): void {
  program
    .command('umount')
    .description('unmount; returns when everything written is on the server')
    .argument('<mountpoint>')
    .option(
      '-f, --force',
      'detach even if files are open or the server does not answer; unwritten data may be lost',
    )
    .option(
      '-l, --lazy',
      'detach now; the client goes on for programs that have files open, then writes and ends',
    )
    // Of the unit's ExecStopPost: systemd starts another client if it keeps the mount.
    .addOption(new Option('--unless-kept <unit>').hideHelp())
    .action(async (path: string, options: { force?: boolean; lazy?: boolean; unlessKept?: string }) => {
      if (options.force === true && options.lazy === true)
        throw new CliError('give --force or --lazy, not both', 2);
      if (options.unlessKept !== undefined) {
        const { isKeptFor } = await import('./service_manager.js');
        if (await isKeptFor(options.unlessKept)) return;
      }
      const { unmount } = await import('./umount_run.js');
      await unmount(path, options.force === true ? 'force' : options.lazy === true ? 'lazy' : 'flush');
    });
}
