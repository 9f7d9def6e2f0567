/** Makes the target of `holdfast mkfs`. */

import { nodeRuntime } from '../runtime/node_runtime.js';
import { formatTarget } from '../storage/mkfs.js';
import { formatBytes } from './format.js';
import { resolveDevices, withNames, withTarget } from './target_devices.js';

export interface MkfsOptions {
  readonly meta: string;
  readonly data: string;
  readonly label: string;
  readonly force?: boolean;
  readonly recordChecksums: boolean;
}

/** @throws CliError, FsError with a one-line message. */
export async function mkfs(options: MkfsOptions): Promise<void> {
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
}
