/**
 * Which processes keep a mount busy. Only links and texts of /proc are read: they name paths from the kernel's own tables,
 * so nothing of the mount is touched, and the process that serves it may look.
 */

import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { mountTable } from './mount_table.js';

/** Reads of /proc that fail: the process has ended, or belongs to somebody else. */
function readOr<T>(read: () => T, otherwise: T): T {
  try {
    return read();
  } catch {
    return otherwise;
  }
}

function isIn(path: string, mountpoint: string): boolean {
  return path === mountpoint || path.startsWith(`${mountpoint}/`) || path === `${mountpoint} (deleted)`;
}

function holds(folder: string, mountpoint: string): boolean {
  const fds = readOr(() => readdirSync(`${folder}/fd`), []).map((fd) => `fd/${fd}`);
  const links = ['cwd', 'root', 'exe', ...fds];
  if (
    links.some((name) =>
      isIn(
        readOr(() => readlinkSync(`${folder}/${name}`), ''),
        mountpoint,
      ),
    )
  )
    return true;
  // START-END PERMS OFFSET DEVICE INODE PATH; a line without a path is memory of its own.
  const maps = readOr(() => readFileSync(`${folder}/maps`, 'utf8'), '');
  return maps.split('\n').some((line) => {
    const at = line.indexOf('/');
    return at >= 0 && isIn(line.slice(at), mountpoint);
  });
}

/** @returns one text for each, like `bash (4711)`, and for what is mounted inside. */
export function holdersOf(mountpoint: string): string[] {
  const processes = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && holds(`/proc/${name}`, mountpoint))
    .map((pid) => `${readOr(() => readFileSync(`/proc/${pid}/comm`, 'utf8').trim(), '?')} (${pid})`);
  const inside = mountTable()
    .filter((entry) => entry.mountpoint.startsWith(`${mountpoint}/`))
    .map((entry) => `the mount ${entry.mountpoint}`);
  return [...processes, ...inside];
}
