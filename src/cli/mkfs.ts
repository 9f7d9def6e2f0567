/** holdfast mkfs: makes a target on two devices. */

import type { Command } from 'commander';
import { InvalidArgumentError } from 'commander';
import { formatBytes, needDevices } from './common.js';

interface MkfsOptions {
  readonly meta: string;
  readonly data: string;
  readonly label: string;
  readonly force?: boolean;
  readonly recordChecksums: boolean;
}

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
      const { resolveDevices, withNames, withTarget } = await import('./target_devices.js');
      const { nodeRuntime } = await import('../runtime/node_runtime.js');
      const { formatTarget } = await import('../storage/mkfs.js');
      const runtime = nodeRuntime();
      const pair = await resolveDevices(options);
      try {
        await withTarget(runtime, pair, 'mkfs', async ({ devices, multiMount }) => {
          await pair.reserve();
          const made = await formatTarget(runtime, devices, {
            label: options.label,
            force: options.force === true,
            recordChecksums: options.recordChecksums,
            multiMount,
          });
          for (const line of made.destroyed) {
            process.stderr.write(`holdfast: destroyed: ${pair.named(line)}\n`);
          }
          process.stdout.write(
            `holdfast: made ${made.superblock.label} (${made.superblock.targetUuid}): ` +
              `metadata ${formatBytes(devices.metaSizeBytes)}, data ${formatBytes(devices.data.sizeBytes)}\n`,
          );
        });
      } catch (thrown) {
        throw withNames(pair, thrown);
      } finally {
        await pair.release();
      }
    });
}
