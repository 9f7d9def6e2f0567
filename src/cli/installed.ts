/**
 * What is installed: the package root, its version, the folder for sockets, locks and logs of running processes.
 *
 * The version of the running software is read from package.json of the tree this file runs from, and stands nowhere
 * else: two installed trees with different versions behave as two versions.
 */

import { lstatSync, mkdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { packageRoot } from '../../native/binding.js';
import { FsError } from '../base/errno.js';

const WRITABLE_FOR_OTHERS = 0o022;

/** Version in package.json of the installed tree. */
export function installedVersion(root: string = packageRoot()): string {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version?: unknown };
  if (typeof version !== 'string') throw new Error(`${join(root, 'package.json')} has no version`);
  return version;
}

/**
 * Folder for what lives as long as a process: made if missing. /run/holdfast for root.
 * @throws FsError EACCES if somebody else could have put things there: another user's folder, a link, writable for others.
 */
export function runtimeDir(): string {
  const uid = process.getuid?.() ?? 0;
  const folder =
    process.env.HOLDFAST_RUNTIME_DIR ??
    (uid === 0 ? '/run/holdfast' : join(process.env.XDG_RUNTIME_DIR ?? tmpdir(), `holdfast-${uid}`));
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const found = lstatSync(folder);
  let wrong: string | undefined;
  if (found.isSymbolicLink()) wrong = 'is a symbolic link';
  else if (!found.isDirectory()) wrong = 'is not a folder';
  else if (found.uid !== uid) wrong = `belongs to user ${found.uid}`;
  else if ((found.mode & WRITABLE_FOR_OTHERS) !== 0) wrong = 'can be written by others';
  if (wrong !== undefined) {
    throw new FsError(
      'EACCES',
      `the folder ${folder} ${wrong}, so its sockets and logs cannot be trusted: remove it, or name another one ` +
        'in HOLDFAST_RUNTIME_DIR',
    );
  }
  return folder;
}
