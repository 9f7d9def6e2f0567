/**
 * holdfast fsck: checks a target that no server serves, and repairs errors that leave nothing to guess.
 *
 * Exit status as fsck(8), as a sum: 0 clean, 1 errors were repaired, 4 errors are left, 8 could not check, 16 usage.
 * docs/OPERATIONS.md has the shape of --json, which later versions only extend.
 */

import type { Command } from 'commander';
import { needDevices } from './common.js';
import type { FsckCommandOptions } from './fsck_run.js';

export const FSCK_USAGE = 16;

export function registerFsck(program: Command): void {
  needDevices(program.command('fsck').description('check a filesystem that no server serves, and repair it'))
    .option('--checksums', 'read all file content and compare it with its checksums')
    .option('--repair', 'repair errors that leave nothing to guess; without this option fsck changes nothing')
    .option('--force', 'with --repair: also if it was not stopped cleanly, and clients may come back to it')
    .option(
      '--add-checksums',
      'with --repair: add checksums to metadata of an earlier release, which refuses it from then on',
    )
    .option('--json', 'one JSON object, of a documented and stable shape')
    .action(async (options: FsckCommandOptions) => {
      const { fsck } = await import('./fsck_run.js');
      await fsck(options);
    });
}
