/**
 * What is installed: the package root, its version, the folder for sockets, locks and logs of running processes.
 *
 * The version of the running software is read from package.json of the tree this file runs from, and stands nowhere
 * else: two installed trees with different versions behave as two versions.
 */

import { mkdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Folder of the installed package: the nearest one above this file whose package.json is ours. */
export function packageRoot(from: string = fileURLToPath(import.meta.url)): string {
  for (let folder = dirname(from); ; folder = dirname(folder)) {
    if (readName(folder) === 'holdfast') return folder;
    if (folder === dirname(folder)) throw new Error(`no package.json of holdfast above ${from}`);
  }
}

function readName(folder: string): string | undefined {
  try {
    return (JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { name?: string }).name;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw cause;
  }
}

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
