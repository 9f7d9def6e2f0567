/** A second installed tree with another version in its package.json: a server takes it for another version. */

import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../../native/binding.js';
import { BUILD_FILE } from '../installed.js';

/**
 * Copies the running installation to `target`, as another version.
 * @param identity VERSION+DIGEST, as installedVersion() gives it.
 * @returns the path of its main program.
 */
export function installAs(identity: string, target: string, root: string = packageRoot()): string {
  const [version, digest] = identity.split('+');
  mkdirSync(target, { recursive: true });
  const description = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<string, unknown>;
  writeFileSync(join(target, 'package.json'), `${JSON.stringify({ ...description, version }, null, 2)}\n`);
  // Copies files: through a link, Node would find the package.json of the original.
  cpSync(join(root, 'dist', 'bin'), join(target, 'dist', 'bin'), { recursive: true });
  writeFileSync(join(target, BUILD_FILE), `${JSON.stringify({ digest })}\n`);
  const release = join('native', 'build', 'Release');
  mkdirSync(join(target, release), { recursive: true });
  for (const name of ['holdfast_native.node', 'holdfast_keeper']) {
    const from = join(root, release, name);
    if (existsSync(from)) copyFileSync(from, join(target, release, name));
  }
  symlinkSync(join(root, 'node_modules'), join(target, 'node_modules'));
  return join(target, 'dist', 'bin', 'main.js');
}

/** The version after this one, of the same sources: its last number plus one. */
export function nextVersion(identity: string): string {
  const [version = '', digest] = identity.split('+');
  const next = version.replace(/\d+(?=\D*$)/, (digits) => String(Number(digits) + 1));
  return `${next === version ? `${version}.1` : next}+${digest}`;
}
