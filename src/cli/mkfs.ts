/** holdfast mkfs: makes a target on two devices. */

import type { Command } from 'commander';
import { InvalidArgumentError } from 'commander';
import { needDevices } from './common.js';
import type { MkfsOptions } from './mkfs_run.js';

function parseLabel(text: string): string {
  if (!/^[\x21-\x7e]{1,32}$/.test(text))
    throw new InvalidArgumentError('A label is 1 to 32 printable ASCII characters.');
  return text;
}

export function registerMkfs(program: Command): void {
  const command = program.command('mkfs').description('make a filesystem on a metadata and a data device');
  needDevices(command, 'metadata device (block device; a regular file is attached to a loop device)')
    .option('--label <name>', 'name that serve and status show', parseLabel, 'holdfast')
    .option('--force', 'destroy the data on the devices')
    .option(
      '--no-record-checksums',
      'leave out checksums of metadata, so that releases without them can serve it too',
    )
    .action(async (options: MkfsOptions) => {
      const { mkfs } = await import('./mkfs_run.js');
      await mkfs(options);
    });
}
