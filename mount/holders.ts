/**
 * Finds the processes that keep a mount busy. It reads only links and texts of /proc. Those come from the kernel's own
 * tables, so no request reaches the mount, and the process that serves the mount may call this too.
 */

import { closeSync, openSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { type MountEntry, mountTable } from './mount_table.js';

const NAMED_HOLDERS = 10;

/** open(2); Node does not name it. */
const O_PATH = 0o10000000;

/** A read of /proc fails if the process has ended or belongs to another user. */
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
  // START-END PERMS OFFSET DEVICE INODE PATH; a line without a path is anonymous memory.
  const maps = readOr(() => readFileSync(`${folder}/maps`, 'utf8'), '');
  return maps.split('\n').some((line) => {
    const at = line.indexOf('/');
    return at >= 0 && isIn(line.slice(at), mountpoint);
  });
}

/** @returns one text for each process, like `bash (4711)`, and one for each mount inside this one. */
export function holdersOf(mountpoint: string): string[] {
  const inside = mountTable()
    .filter((entry) => entry.mountpoint.startsWith(`${mountpoint}/`))
    .map((entry) => `the mount ${entry.mountpoint}`);
  return [...processes((folder) => holds(folder, mountpoint)), ...inside];
}

/**
 * The same for a detached mount, which is in no table any more: the kernel shows paths in it only relative to it.
 * @param entry its former entry in the table.
 */
export function holdersOfDetached(entry: Pick<MountEntry, 'id' | 'device'>): string[] {
  return processes((folder) => holdsDetached(folder, entry));
}

/** @param holders as holdersOf() returns them. @returns a text for one line: the first of them, and how many more. */
export function named(holders: readonly string[]): string {
  if (holders.length === 0) return 'a process that cannot be seen from here';
  const more = holders.length > NAMED_HOLDERS ? ` and ${holders.length - NAMED_HOLDERS} more` : '';
  return `${holders.slice(0, NAMED_HOLDERS).join(', ')}${more}`;
}

function processes(isHolder: (folder: string) => boolean): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && isHolder(`/proc/${name}`))
    .map((pid) => `${readOr(() => readFileSync(`/proc/${pid}/comm`, 'utf8').trim(), '?')} (${pid})`);
}

function holdsDetached(folder: string, { id, device }: Pick<MountEntry, 'id' | 'device'>): boolean {
  const fds = readOr(() => readdirSync(`${folder}/fdinfo`), []);
  if (fds.some((fd) => mountIdIn(`${folder}/fdinfo/${fd}`) === id)) return true;
  if (['cwd', 'root', 'exe'].some((name) => mountIdOf(`${folder}/${name}`) === id)) return true;
  const [major, minor] = device.split(':').map((part) => Number(part).toString(16).padStart(2, '0'));
  const maps = readOr(() => readFileSync(`${folder}/maps`, 'utf8'), '');
  return maps.includes(` ${major}:${minor} `);
}

function mountIdIn(fdinfo: string): string | undefined {
  return /^mnt_id:\s+(\d+)$/m.exec(readOr(() => readFileSync(fdinfo, 'utf8'), ''))?.[1];
}

/** Opens the link with O_PATH, so that no request reaches the mount, which this process itself serves. */
function mountIdOf(link: string): string | undefined {
  const fd = readOr(() => openSync(link, O_PATH), undefined);
  if (fd === undefined) return undefined;
  try {
    return mountIdIn(`/proc/self/fdinfo/${fd}`);
  } finally {
    closeSync(fd);
  }
}
