/**
 * The installed software: the package root, its version, the folder for sockets, locks and logs of running processes.
 *
 * The version of the running software is VERSION+DIGEST: the version in package.json of the tree that this file runs from, and
 * the digest of the sources of this build (build.mjs). No other file has it. A server replays the operations of a killed one
 * only if both are the same software, and two builds of one package version are not.
 */

import { existsSync, lstatSync, mkdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { packageRoot } from '../../native/binding.js';
import { FsError } from '../base/errno.js';
import type { Requires } from '../wire/negotiate.js';

const WRITABLE_FOR_OTHERS = 0o022;
/** A file in the installed tree, written by build.mjs: {"digest": "..."}. */
export const BUILD_FILE = join('dist', 'build.json');

/** Version of the software in the installed tree: VERSION+DIGEST. @throws Error if nobody has built the tree. */
export function installedVersion(root: string = packageRoot()): string {
  const build = join(root, BUILD_FILE);
  if (!existsSync(build)) throw new Error(`${build} is not there: run "npm run build"`);
  return `${textIn(join(root, 'package.json'), 'version')}+${textIn(build, 'digest')}`;
}

/** What the version in the installed tree wants of its peers. @throws Error if its package.json says something else. */
export function requiresOf(root: string = packageRoot()): Requires {
  const path = join(root, 'package.json');
  const { holdfast } = JSON.parse(readFileSync(path, 'utf8')) as { holdfast?: { requires?: unknown } };
  const requires = holdfast?.requires ?? {};
  if (typeof requires !== 'object') throw new Error(`${path}: holdfast.requires is no object`);
  const { first, lowestPeer } = requires as Record<string, unknown>;
  if (first !== undefined && first !== 'servers' && first !== 'clients')
    throw new Error(`${path}: holdfast.requires.first is "servers" or "clients"`);
  if (lowestPeer !== undefined && (typeof lowestPeer !== 'string' || !/^\d+\.\d+\.\d+$/.test(lowestPeer)))
    throw new Error(`${path}: holdfast.requires.lowestPeer is a version, X.Y.Z`);
  return { first, lowestPeer };
}

function textIn(path: string, field: string): string {
  const value = (JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>)[field];
  if (typeof value !== 'string') throw new Error(`${path} has no ${field}`);
  return value;
}

/**
 * Folder for files that live as long as a process; makes it if it is missing. /run/holdfast for root.
 * @throws FsError EACCES if another user could have put files there: another user's folder, a link, writable for others.
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
