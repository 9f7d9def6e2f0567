/** What servers over ext4 have in common: a folder on the device, and clients that are FUSE mounts in the foreground. */

import type { Child } from '../../fixtures/child.js';
import { until } from '../../fixtures/until.js';
import type { RunningPeer } from '../peer.js';
import { endDaemon, type Site } from '../site.js';
import { Ext4 } from './local.js';

const PATIENCE_MS = 60_000;

export interface Served {
  /** Starts the server's processes on the folder of the device. Resolves when clients can connect. */
  startServer(folder: string): Promise<readonly Child[]>;
  /** The command that mounts and stays in the foreground. */
  mountCommand(mountpoint: string): readonly [string, readonly string[]];
  /** Whether a file can be written now; looked at after each mount. Default: from the mount on. */
  isUsable?(mountpoint: string): boolean;
  /** After the first mount ever. */
  firstMount?(mountpoint: string): Promise<void>;
}

/** @param named mount points are called so. */
export async function startServed(site: Site, named: string, served: Served): Promise<RunningPeer> {
  const ext4 = await Ext4.make(site);
  const clients = new Map<string, Child>();
  let servers = await served.startServer(ext4.folder);
  const mountAt = async (mountpoint: string): Promise<void> => {
    const [command, args] = served.mountCommand(mountpoint);
    const child = site.daemon('client', command, args);
    await site.mounted(mountpoint, child);
    await until(
      () => `${named} is usable: ${child.tail()}`,
      () => served.isUsable?.(mountpoint) ?? true,
      PATIENCE_MS,
    );
    clients.set(mountpoint, child);
  };
  const mount = async (index: number): Promise<string> => {
    const mountpoint = site.makeFolder(`${named}-${index}`);
    if (!clients.has(mountpoint)) await mountAt(mountpoint);
    return mountpoint;
  };
  const umount = async (): Promise<string[]> => {
    const mountpoints = [...clients.keys()];
    for (const [mountpoint, child] of clients) {
      await site.umount(mountpoint);
      await child.exited;
    }
    clients.clear();
    return mountpoints;
  };
  const stopServers = async (): Promise<void> => {
    for (const server of servers) await endDaemon(server);
  };
  const mountpoint = await mount(0);
  await served.firstMount?.(mountpoint);
  return {
    mountpoint,
    mount,
    async drop(what) {
      const mountpoints = await umount();
      if (what === 'all') {
        await stopServers();
        await ext4.remountCold();
        servers = await served.startServer(ext4.folder);
      }
      for (const each of mountpoints) await mountAt(each);
    },
    async settle() {
      await site.helper('sync', ['--file-system', mountpoint]);
      await ext4.settle();
    },
    async stop() {
      await umount();
      await stopServers();
      await ext4.umount();
    },
  };
}

/** Until a process listens on this port of the loopback address. */
export async function listens(port: number, by: Child): Promise<void> {
  const { connect } = await import('node:net');
  await until(
    () => `${by.name} listens on ${port}: ${by.tail()}`,
    () => {
      if (by.exit !== undefined) throw new Error(`${by.name} has ended: ${by.tail()}`);
      return new Promise<boolean>((resolve) => {
        const socket = connect(port, '127.0.0.1');
        socket.once('connect', () => {
          socket.destroy();
          resolve(true);
        });
        socket.once('error', () => resolve(false));
      });
    },
    PATIENCE_MS,
  );
}
