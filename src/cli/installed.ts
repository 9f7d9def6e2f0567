/**
 * What is installed: the package root, its version, the folder for sockets, locks and logs of running processes.
 *
 * The version of the running software is read from package.json of the tree this file runs from, and stands nowhere
 * else: two installed trees with different versions behave as two versions.
 */

import { mkdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { packageRoot } from '../../native/binding.js';

/** Version in package.json of the installed tree. */
export function installedVersion(root: string = packageRoot()): string {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version?: unknown };
  if (typeof version !== 'string') throw new Error(`${join(root, 'package.json')} has no version`);
  return version;
}

/** Folder for what lives as long as a process: made if missing. /run/holdfast for root. */
export function runtimeDir(): string {
  const uid = process.getuid?.() ?? 0;
  const folder =
    process.env.HOLDFAST_RUNTIME_DIR ??
    (uid === 0 ? '/run/holdfast' : join(process.env.XDG_RUNTIME_DIR ?? tmpdir(), `holdfast-${uid}`));
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  return folder;
}
