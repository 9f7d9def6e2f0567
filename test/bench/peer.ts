/** What a filesystem must offer to be compared: how it is installed, started, mounted, and how its caches are emptied. */

import { statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { Drop } from './row.js';
import type { Site } from './site.js';

export interface Peer {
  readonly name: string;
  /** Commands without which it does not run, and the Debian packages that have them. */
  readonly commands: readonly string[];
  readonly packages: readonly string[];
  /** Whether two mounts of it are two clients of one server. 'same': a local filesystem has one mount, used twice. */
  readonly secondMount: 'client' | 'same' | 'none';
  /** Whether it has caches of a client, apart from those of the server. */
  readonly hasClient: boolean;
  start(site: Site): Promise<RunningPeer>;
}

export interface RunningPeer {
  /** The root of the filesystem, through its first mount. */
  readonly mountpoint: string;
  /** The same through another mount: 1 is the second one. Mounts it if it is not. */
  mount(index: number): Promise<string>;
  drop(what: Exclude<Drop, 'nothing'>): Promise<void>;
  /** What was written is on the device: the next peer has the disk to itself. */
  settle(): Promise<void>;
  /** RPCs so far; undefined: it does not count them. */
  rpcs?(): Promise<number | undefined>;
  stop(): Promise<void>;
}

export function hasCommand(command: string): boolean {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  return folders.some(
    (folder) => statSync(join(folder, command), { throwIfNoEntry: false })?.isFile() === true,
  );
}

/** @returns what has to be installed, as the table says it; undefined: nothing. */
export function notInstalled(peer: Pick<Peer, 'commands' | 'packages'>): string | undefined {
  if (peer.commands.every(hasCommand)) return undefined;
  return `not installed: apt-get install ${peer.packages.join(' ')}`;
}
