/**
 * Tells umount(8) that our mount has a helper. For a mount without userspace options umount(8) asks statfs(2) for the
 * type, gets "fuse", and would not look for our helper. With a userspace option it looks into its own table, which has
 * our type.
 */

import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { logger } from '../src/base/log.js';
import { FILESYSTEM_TYPE } from './mount_table.js';

const log = logger('mount');

const HELPER = `/sbin/umount.${FILESYSTEM_TYPE}`;

/** Does nothing if there is no helper. If this fails, umount(8) only does not wait for data that is not written yet. */
export async function tellUmount(source: string, mountpoint: string): Promise<void> {
  if (process.getuid?.() !== 0 || !existsSync(HELPER)) return;
  // A fake mount by mount(8), which stores the option in its own table (/run/mount/utab, locked).
  const args = ['-f', '-i', '-t', FILESYSTEM_TYPE, '-o', `uhelper=${FILESYSTEM_TYPE}`, source, mountpoint];
  await new Promise<void>((resolve) => {
    const child = spawn('mount', args, { stdio: 'ignore' });
    child.once('error', (error) => {
      log('mount(8) cannot be run: %s', error.message);
      resolve();
    });
    child.once('close', (status) => {
      if (status !== 0) log('mount(8) did not note the helper of %s: status %d', mountpoint, status);
      resolve();
    });
  });
}
