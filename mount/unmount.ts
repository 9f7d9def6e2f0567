/**
 * Lists and unmounts the mounts of Holdfast on this host, from outside their client processes: for commands, for
 * clean-up, and after a client was killed.
 */

import { spawnSync } from 'node:child_process';
import { MNT_DETACH, MNT_FORCE, nativeBinding, UMOUNT_NOFOLLOW } from '../native/binding.js';
import { FsError } from '../src/base/errno.js';
import { FILESYSTEM_TYPE, mountAt, mountTable } from './mount_table.js';

/** Mount points of all mounts of Holdfast that this process can see. */
export function listMounts(): string[] {
  return mountTable()
    .filter((entry) => entry.type === FILESYSTEM_TYPE)
    .map((entry) => entry.mountpoint);
}

/** @param mountpoint absolute, without symbolic links. Sends no request to the mount. */
export function isMounted(mountpoint: string): boolean {
  return mountAt(mountpoint)?.type === FILESYSTEM_TYPE;
}

const FLAGS = { plain: 0, detach: MNT_DETACH | MNT_FORCE, lazy: MNT_DETACH };

/**
 * @param how plain: EBUSY while files are open. detach: unmounts at once; ends waiting requests, and open files fail
 *   from then on. lazy: removes the mount from sight at once; open files go on.
 * @throws FsError EBUSY, EINVAL (not a mount point), EPERM.
 */
export function unmountPath(mountpoint: string, how: 'plain' | 'detach' | 'lazy'): void {
  if (process.getuid?.() !== 0) {
    const made = spawnSync('fusermount3', [how === 'plain' ? '-u' : '-uz', '--', mountpoint], {
      encoding: 'utf8',
    });
    if (made.status !== 0) throw fusermountFailure(mountpoint, made.error, made.stderr);
    return;
  }
  try {
    nativeBinding().umountHere(mountpoint, UMOUNT_NOFOLLOW | FLAGS[how]);
  } catch (error) {
    throw unmountFailure(mountpoint, error);
  }
}

export function unmountFailure(mountpoint: string, error: unknown): FsError {
  if (error instanceof FsError) return error;
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const cause = { cause: error };
  switch (code) {
    case 'EBUSY':
      return new FsError(
        'EBUSY',
        `${mountpoint} is in use: programs have files or their directory in it`,
        cause,
      );
    case 'EINVAL':
      return new FsError('EINVAL', `${mountpoint} is not a mount point`, cause);
    case 'EPERM':
      return new FsError('EPERM', `unmounting ${mountpoint} needs root, or the user who mounted it`, cause);
    default:
      return new FsError(
        'EIO',
        `cannot unmount ${mountpoint}: ${error instanceof Error ? error.message : error}`,
        cause,
      );
  }
}

export function fusermountFailure(mountpoint: string, error: Error | undefined, stderr: string): FsError {
  if (error !== undefined) {
    return new FsError('ENOENT', `mounting without root needs fusermount3: apt-get install fuse3`, {
      cause: error,
    });
  }
  const line = stderr.trim().split('\n')[0] ?? '';
  if (/busy/i.test(line))
    return unmountFailure(mountpoint, Object.assign(new Error(line), { code: 'EBUSY' }));
  return new FsError('EPERM', line === '' ? `fusermount3 failed for ${mountpoint}` : line);
}
