/**
 * Versions side by side: trees that `npm run package` has made, each in a folder of its own (/opt/holdfast-VERSION), with a link
 * beside them (/opt/holdfast) that says which one is in use. What programs find in the PATH leads through the link, so one
 * rename changes it for all of them.
 *
 * - A tree is never changed after it was unpacked. Processes go on with the tree that they were started from, whatever the link says.
 * - Each tree has its own Node, so the kernel knows which tree a process runs from: its executable is bin/node of that tree.
 */

import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { CliError } from './failure.js';
import { BUILD_FILE, installedVersion } from './installed.js';

export interface PackedTree {
  readonly path: string;
  /** VERSION+DIGEST. */
  readonly version: string;
}

export interface RunningProcess {
  readonly pid: number;
  /** `serve`, `mount`, ...: the command that it runs. */
  readonly command: string;
}

const NODE = join('bin', 'node');
const PROGRAM = join('bin', 'holdfast');

/** Whether `npm run package` has made the tree: it brings its own Node. */
export function isPacked(root: string): boolean {
  return existsSync(join(root, NODE)) && existsSync(join(root, PROGRAM));
}

/** Of the trees in the same folder as `root`. */
export function linkBeside(root: string): string {
  return join(dirname(root), 'holdfast');
}

/**
 * @param folder where the trees are. It has the link too, unless the link is made for another root (install --prefix).
 * @returns the tree that the link leads to; undefined: there is no link, or nothing where it leads.
 */
export function treeInUse(link: string, folder = dirname(link)): string | undefined {
  const there = lstatSync(link, { throwIfNoEntry: false });
  if (there === undefined) return undefined;
  if (!there.isSymbolicLink()) {
    throw new CliError(`${link} is no link: it should say which version is in use; move it away`);
  }
  const tree = resolve(folder, readlinkSync(link));
  return existsSync(tree) ? tree : undefined;
}

/** At every moment the link leads to the old tree or to the new one. */
export function switchLink(link: string, tree: string): void {
  const made = `${link}.${process.pid}`;
  mkdirSync(dirname(link), { recursive: true });
  rmSync(made, { force: true });
  symlinkSync(basename(tree), made);
  renameSync(made, link);
}

/** The trees in a folder, in the order of their versions. */
export function treesIn(folder: string): PackedTree[] {
  return readdirSync(folder)
    .filter((name) => name.startsWith('holdfast-'))
    .map((name) => join(folder, name))
    .filter((path) => isPacked(path) && existsSync(join(path, BUILD_FILE)))
    .map((path) => ({ path, version: installedVersion(path) }))
    .sort((a, b) => a.version.localeCompare(b.version, 'en', { numeric: true }));
}

/** Processes of the tree that this user may see, this one aside. */
export function processesOf(tree: string): RunningProcess[] {
  const node = join(tree, NODE);
  const own = statSync(node, { throwIfNoEntry: false });
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => {
      try {
        const exe = statSync(`/proc/${pid}/exe`);
        if (own !== undefined && exe.dev === own.dev && exe.ino === own.ino) return true;
        // The same package was installed again meanwhile.
        return readlinkSync(`/proc/${pid}/exe`) === `${node} (deleted)`;
      } catch {
        // The process has ended, is a thread of the kernel, or belongs to somebody else.
        return false;
      }
    })
    .map((pid) => ({ pid: Number(pid), command: commandOf(pid) }))
    .sort((a, b) => a.pid - b.pid);
}

export function textOf(processes: readonly RunningProcess[]): string {
  return processes.map(({ pid, command }) => `${command} (pid ${pid})`).join(', ');
}

function commandOf(pid: string): string {
  try {
    const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    const at = words.findIndex((word) => word.endsWith('.js'));
    return (at < 0 ? undefined : words[at + 1]) || 'a process';
  } catch {
    // It has ended just now.
    return 'a process';
  }
}
