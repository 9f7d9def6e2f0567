/** holdfast grow: makes a target as large as its devices have become. No server may serve it meanwhile. */

import type { Command } from 'commander';
import { needDevices } from './common.js';
import { CliError, describeFailure } from './failure.js';
import { formatBytes } from './format.js';

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
        const { grow } = await import('./grow_run.js');
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
