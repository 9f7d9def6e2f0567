/** A tree of the filesystem against the tree of the model: names, attributes, contents. */

import type { Process } from './file_calls.js';
import type { Model } from './model.js';
import { SystemError } from './system_error.js';

const O_RDONLY = 0;

/** A tree as it is, compared with the model. */
export async function compareTree(
  process: Process,
  base: string,
  model: Model,
  wrong: (what: string) => void,
): Promise<void> {
  const expected = new Map(model.walk().map(({ path, node }) => [path, node]));
  const seen: string[] = [];
  const visit = async (path: string): Promise<void> => {
    for (const name of await process.readdir(base + path || '/')) {
      seen.push(`${path}/${name}`);
      if (expected.get(`${path}/${name}`)?.kind === 'dir') await visit(`${path}/${name}`);
    }
  };
  await visit('');
  const names = seen.sort().join(' ');
  const wanted = [...expected.keys()].sort().join(' ');
  if (names !== wanted) wrong(`${base} holds ${names}, not ${wanted}`);
  for (const [path, node] of expected) {
    const attr = await process.stat(base + path);
    const size = node.kind === 'file' ? node.content.length : attr.sizeBytes;
    const got = [attr.mode & 0o7777, attr.nlink, attr.sizeBytes].join(' ');
    const meant = [node.mode, node.nlink, size].join(' ');
    if (got !== meant) wrong(`mode, nlink, size of ${base}${path}: ${got}, not ${meant}`);
    if (node.kind === 'symlink') {
      const target = await process.readlink(base + path);
      if (target !== node.target) wrong(`${base}${path} leads to ${target}, not ${node.target}`);
      continue;
    }
    const value = await xattr(process, base + path);
    if (value !== node.xattrs.get('user.x')) {
      wrong(`user.x of ${base}${path}: ${value}, not ${node.xattrs.get('user.x')}`);
    }
    if (node.kind !== 'file') continue;
    const file = await process.open(base + path, O_RDONLY);
    const content = await process.pread(file, 0, node.content.length + 1);
    await process.close(file);
    if (content.equals(node.content)) continue;
    let at = 0;
    while (content[at] === node.content[at]) at++;
    wrong(`${base}${path} at ${at}: ${content[at]}, not ${node.content[at]}`);
  }
}

async function xattr(process: Process, path: string): Promise<string | undefined> {
  try {
    return await process.getxattr(path, 'user.x');
  } catch (error) {
    if (error instanceof SystemError && error.code === 'ENODATA') return undefined;
    throw error;
  }
}
