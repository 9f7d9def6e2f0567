/** holdfast umount: unmounts, and returns when everything is on the server. */

import type { Command } from 'commander';
import { CliError, formatBytes } from './common.js';

export function registerUmount(program: Command): void {
  program
    .command('umount')
    .description('unmount; returns when everything written is on the server')
    .argument('<mountpoint>')
    .option(
      '-f, --force',
      'detach even if files are open or the server does not answer; unwritten data may be lost',
    )
    .action(async (path: string, options: { force?: boolean }) => {
      const { askControl, mountpointPath } = await import('./control.js');
      const { isMounted, unmountPath } = await import('../../mount/unmount.js');
      const mountpoint = mountpointPath(path);
      const force = options.force === true;
      const answer = await askControl(mountpoint, { command: 'umount', force }, (data) => {
        const { dirtyBytes } = data as { dirtyBytes: number };
        if (process.stderr.isTTY)
          process.stderr.write(`\rholdfast: ${formatBytes(dirtyBytes)} left to write   `);
      });
      if (answer !== undefined) {
        const { lostBytes } = answer.data as { lostBytes?: number };
        if (lostBytes === undefined) return;
        process.stderr.write(
          `holdfast: the server did not answer: ${formatBytes(lostBytes)} that were not written are lost\n`,
        );
        return;
      }
      // No client process: what is left of the mount can only be detached.
      if (!isMounted(mountpoint)) throw new CliError(`${path} is not a mount of Holdfast`);
      unmountPath(mountpoint, force ? 'detach' : 'plain');
    });
}
