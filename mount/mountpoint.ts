/** Checks a mount point before anything is mounted on it. */

import { realpath, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { FsError } from '../src/base/errno.js';
import { FILESYSTEM_TYPE, mountAt } from './mount_table.js';

/**
 * The directory to mount on: absolute, without symbolic links.
 * @throws FsError ENOENT, ENOTDIR, EBUSY (a mount of ours is there), ENOTCONN (a dead mount is there), EACCES.
 */
export async function checkMountpoint(path: string): Promise<string> {
  // This comes before any system call on the path itself, because a blocked mount there would block us.
  refuseOurs(path, resolve(path));
  let real: string;
  try {
    real = await realpath(path);
    refuseOurs(path, real);
    if (!(await stat(real)).isDirectory())
      throw new FsError('ENOTDIR', `mount point ${path} is not a directory`);
  } catch (error) {
    throw mountpointFailure(path, error);
  }
  return real;
}

function refuseOurs(path: string, absolute: string): void {
  const there = mountAt(absolute);
  if (there?.type !== FILESYSTEM_TYPE) return;
  throw new FsError('EBUSY', `${path} is busy: ${there.source} is mounted there; holdfast umount ${path}`);
}

function mountpointFailure(path: string, error: unknown): FsError {
  if (error instanceof FsError) return error;
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const cause = { cause: error };
  switch (code) {
    case 'ENOENT':
      return new FsError(
        'ENOENT',
        `mount point ${path} does not exist; make it first: mkdir -p ${path}`,
        cause,
      );
    case 'ENOTDIR':
      return new FsError('ENOTDIR', `mount point ${path}: a part of the path is not a directory`, cause);
    case 'ENOTCONN':
      return new FsError('ENOTCONN', `${path} is a mount whose process has died; umount ${path}`, cause);
    case 'EACCES':
      return new FsError('EACCES', `this user may not access mount point ${path}`, cause);
    default:
      return new FsError(
        'EIO',
        `mount point ${path}: ${error instanceof Error ? error.message : error}`,
        cause,
      );
  }
}
