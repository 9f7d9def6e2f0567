/**
 * holdfast demo: runs everything on this machine, on loop devices that it makes and removes. It makes two mounts, runs a
 * workload of several processes, upgrades the server twice to another version under it, ends one blocked process by SIGINT,
 * and verifies every byte. Exit status 0 only if every check held.
 */

import type { Command } from 'commander';
import { InvalidArgumentError } from 'commander';
import { secondsOption } from './common.js';
import type { DemoOptions } from './demo/run.js';

function parseSize(text: string): number {
  const size = Number(text);
  if (!Number.isInteger(size) || size < 128) throw new InvalidArgumentError('Give whole MiB, 128 at least.');
  return size;
}

export function registerDemo(program: Command): void {
  program
    .command('demo')
    .description(
      'upgrade a server twice under a running workload, on loop devices of this machine, and verify it',
    )
    .addOption(secondsOption('--phase <seconds>', 'time between the upgrades', 3000))
    .option('--size <MiB>', 'size of the data device', parseSize, 1024)
    .option('--keep', 'leave the temporary folder (logs, device files) behind')
    .action(async (options: DemoOptions) => {
      const { runDemo } = await import('./demo/run.js');
      await runDemo(options);
    });
}
