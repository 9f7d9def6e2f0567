/**
 * The mounts that this process can see (/proc/self/mountinfo). Reading the table sends no request to any mount. So it
 * is safe in a process that serves a mount, and with mounts that do not answer.
 */

import { readFileSync } from 'node:fs';

export interface MountEntry {
  /** mnt_id; /proc/PID/fdinfo names the mount of an open file by it. */
  readonly id: string;
  /** st_dev of every file in the mount, as MAJOR:MINOR. */
  readonly device: string;
  readonly mountpoint: string;
  readonly type: string;
  readonly source: string;
}

/** Type of our mounts in the table, whichever driver made them. */
export const FILESYSTEM_TYPE = 'fuse.holdfast';

/** proc_pid_mountinfo(5): ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [OPTIONAL...] - TYPE SOURCE SUPER. */
export function parseMountTable(text: string): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of text.split('\n')) {
    const [left = '', right = ''] = line.split(' - ', 2);
    const [id, , device, , mountpoint] = left.split(' ');
    const [type, source] = right.split(' ');
    if (id === undefined || device === undefined || mountpoint === undefined || type === undefined) continue;
    entries.push({
      id,
      device,
      mountpoint: unescapeOctal(mountpoint),
      type,
      source: unescapeOctal(source ?? ''),
    });
  }
  return entries;
}

/** The table has space, tab, newline and backslash as a backslash and three octal digits. */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

export function mountTable(): MountEntry[] {
  return parseMountTable(readFileSync('/proc/self/mountinfo', 'utf8'));
}

/** The mount that processes see at a mount point: the last one mounted there. */
export function mountAt(mountpoint: string): MountEntry | undefined {
  return mountTable().findLast((entry) => entry.mountpoint === mountpoint);
}
