/** Unmounts, for `holdfast umount` and umount(8)'s helper: everything written is on the server when they return. */

import { holdersOf, named } from '../../mount/holders.js';
import { isMounted, unmountPath } from '../../mount/unmount.js';
import { FsError } from '../base/errno.js';
import { askControl, mountpointPath } from './control.js';
import { CliError } from './failure.js';
import { formatBytes } from './format.js';

/**
 * flush: EBUSY while files are open; waits until everything is on the server. force: at once; data that cannot be written is
 * lost. lazy: out of sight at once; the client goes on for programs that have files open, then flushes.
 */
type UnmountHow = 'flush' | 'force' | 'lazy';

/** @throws CliError, FsError EBUSY. */
export async function unmount(path: string, how: UnmountHow): Promise<void> {
  const mountpoint = mountpointPath(path);
  if (how === 'lazy') {
    if (!isMounted(mountpoint)) throw new CliError(`${path} is not a mount of Holdfast`);
    unmountPath(mountpoint, 'lazy');
    return;
  }
  try {
    await unmountNow(path, mountpoint, how === 'force');
  } catch (thrown) {
    if (!(thrown instanceof FsError) || thrown.code !== 'EBUSY') throw thrown;
    // Here and not in the client process: to look for them in a large /proc takes a while, and the client's calls would wait.
    const text = `${mountpoint} is in use by ${named(othersIn(mountpoint))}; end them, or holdfast umount --lazy ${mountpoint}`;
    throw new FsError('EBUSY', text, { cause: thrown });
  }
}

/** This command has the working directory of the shell that it was typed in. */
function othersIn(mountpoint: string): string[] {
  return holdersOf(mountpoint).filter((holder) => !holder.endsWith(` (${process.pid})`));
}

async function unmountNow(path: string, mountpoint: string, force: boolean): Promise<void> {
  const answer = await askControl(mountpoint, { command: 'umount', force }, (data) => {
    const { dirtyBytes } = data as { dirtyBytes: number };
    if (process.stderr.isTTY) process.stderr.write(`\rholdfast: ${formatBytes(dirtyBytes)} left to write   `);
  });
  if (answer !== undefined) {
    const { lostBytes } = answer.data as { lostBytes?: number };
    if (lostBytes === undefined) return;
    process.stderr.write(
      `holdfast: the server did not answer: ${formatBytes(lostBytes)} of unwritten data are lost\n`,
    );
    return;
  }
  // There is no client process: the rest of the mount can only be detached.
  if (!isMounted(mountpoint)) throw new CliError(`${path} is not a mount of Holdfast`);
  unmountPath(mountpoint, force ? 'detach' : 'plain');
}
