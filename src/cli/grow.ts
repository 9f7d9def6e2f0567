/** holdfast grow: makes a target as large as its devices have become. No server may serve it meanwhile. */

import type { Command } from 'commander';
import { CliError, describeFailure, formatBytes, needDevices } from './common.js';

interface GrowCommandOptions {
  readonly meta: string;
  readonly data: string;
  readonly force?: boolean;
  readonly json?: boolean;
}

export function registerGrow(program: Command): void {
  const command = program
    .command('grow')
    .description('make use of devices that became larger; no server may serve them meanwhile');
  needDevices(command)
    .option('--force', 'also if it was not stopped cleanly')
    .option('--json', 'one JSON object, of a documented and stable shape')
    .action(async (options: GrowCommandOptions) => {
      const isJson = options.json === true;
      try {
        const { superblock, meta, data } = await grow(options);
        const { label, targetUuid } = superblock;
        process.stdout.write(
          isJson
            ? `${JSON.stringify({ exitStatus: 0, target: { label, targetUuid }, meta, data })}\n`
            : `holdfast: ${label} (${targetUuid}): metadata ${change(meta)}, data ${change(data)}\n`,
        );
      } catch (thrown) {
        const { line } = describeFailure(thrown);
        if (isJson) process.stdout.write(`${JSON.stringify({ exitStatus: 1, error: line })}\n`);
        throw new CliError(line, 1, { cause: thrown });
      }
    });
}

function change({ beforeBytes, bytes }: { readonly beforeBytes: number; readonly bytes: number }): string {
  if (beforeBytes === bytes) return `${formatBytes(bytes)} as before`;
  return `${formatBytes(bytes)}, ${formatBytes(bytes - beforeBytes)} more`;
}

async function grow(options: GrowCommandOptions): Promise<import('../storage/grow.js').Grown> {
  const { resolveDevices, withNames, withTarget } = await import('./target_devices.js');
  const { nodeRuntime } = await import('../runtime/node_runtime.js');
  const { growTarget } = await import('../storage/grow.js');
  const runtime = nodeRuntime();
  const pair = await resolveDevices(options);
  try {
    return await withTarget(runtime, pair, 'grow', ({ devices, claim }) =>
      growTarget(runtime, devices, {
        force: options.force === true,
        claim: async () => {
          await pair.reserve();
          return claim();
        },
      }),
    );
  } catch (thrown) {
    throw withNames(pair, thrown);
  } finally {
    await pair.release();
  }
}
