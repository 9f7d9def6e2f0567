/**
 * holdfast fsck: checks a target that nobody serves, and repairs what can be repaired without guessing.
 *
 * Exit status as fsck(8), as a sum: 0 clean, 1 errors were repaired, 4 errors are left, 8 it could not be done, 16 usage.
 * The shape of --json is documented in docs/OPERATIONS.md and only ever grows.
 */

import type { Command } from 'commander';
import { needDevices } from './common.js';
import type { FsckCommandOptions } from './fsck_run.js';

export const FSCK_USAGE = 16;

export function registerFsck(program: Command): void {
  needDevices(program.command('fsck').description('check a filesystem that nobody serves, and repair it'))
    .option('--checksums', 'read all file content and compare it with its checksums')
    .option('--repair', 'repair what can be repaired without guessing; nothing is written otherwise')
    .option('--force', 'with --repair: also when it was not stopped cleanly, and clients may come back to it')
    .option(
      '--add-checksums',
      'with --repair: metadata of earlier releases gets checksums; they refuse it from then on',
    )
    .option('--json', 'one JSON object, of a documented and stable shape')
    .action(async (options: FsckCommandOptions) => {
      const { fsck } = await import('./fsck_run.js');
      await fsck(options);
    });
}
