/**
 * Tells umount(8) that a mount of ours has a helper. It asks statfs(2) for the type of a mount without options for userspace, is
 * told "fuse", and would look for no helper of ours: such an option makes it look into its table.
 */

import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { logger } from '../src/base/log.js';
import { FILESYSTEM_TYPE } from './mount_table.js';

const log = logger('mount');

const HELPER = `/sbin/umount.${FILESYSTEM_TYPE}`;

/** Where there is no helper, there is nothing to tell. A failure costs umount(8)'s wait for what is not written, and no more. */
export async function tellUmount(source: string, mountpoint: string): Promise<void> {
  if (process.getuid?.() !== 0 || !existsSync(HELPER)) return;
  // A fake mount of mount(8), which keeps the options in its own way (/run/mount/utab, locked).
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
