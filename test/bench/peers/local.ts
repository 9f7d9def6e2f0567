/** ext4, and libfuse's passthrough_hp over ext4: what the kernel and FUSE cost without a server behind them. */

import { writeFileSync } from 'node:fs';
import type { Child } from '../../fixtures/child.js';
import { builtPassthrough } from '../passthrough_build.js';
import type { Peer, RunningPeer } from '../peer.js';
import type { Site } from '../site.js';
import { endDaemon } from '../site.js';

/** passthrough_hp keeps an open file for each inode that the kernel knows. Where root may not raise its limit, that must do. */
const DESCRIPTORS = 1 << 20;

/** ext4 on a device of this site. Everything that is not a block device's own filesystem lies on one. */
export class Ext4 {
  readonly folder: string;
  readonly #site: Site;
  readonly #device: string;

  private constructor(site: Site, device: string, folder: string) {
    this.#site = site;
    this.#device = device;
    this.folder = folder;
  }

  static async make(site: Site): Promise<Ext4> {
    const device = await site.device('ext4', site.deviceBytes);
    // All inode tables now: ext4 would write them in the background of the first measurements.
    const whole = ['-E', 'lazy_itable_init=0,lazy_journal_init=0', '-i', '4096'];
    await site.helper('mkfs.ext4', ['-q', '-F', ...whole, device]);
    const ext4 = new Ext4(site, device, site.makeFolder('ext4'));
    await ext4.mount();
    return ext4;
  }

  async mount(): Promise<void> {
    await this.#site.helper('mount', [this.#device, this.folder]);
  }

  async umount(): Promise<void> {
    await this.#site.umount(this.folder);
  }

  async settle(): Promise<void> {
    await this.#site.helper('sync', ['--file-system', this.folder]);
  }

  /** With it, everything that the machine has cached of it. */
  async remountCold(): Promise<void> {
    await this.umount();
    dropCaches();
    await this.mount();
  }
}

/** The machine's caches of files, names and inodes. What is dirty stays, so settle() comes before. */
export function dropCaches(): void {
  writeFileSync('/proc/sys/vm/drop_caches', '3');
}

export const EXT4: Peer = {
  name: 'ext4',
  commands: ['mkfs.ext4'],
  packages: ['e2fsprogs'],
  secondMount: 'same',
  hasClient: false,
  async start(site): Promise<RunningPeer> {
    const ext4 = await Ext4.make(site);
    return {
      mountpoint: ext4.folder,
      mount: async () => ext4.folder,
      drop: () => ext4.remountCold(),
      settle: () => ext4.settle(),
      stop: () => ext4.umount(),
    };
  },
};

export const PASSTHROUGH: Peer = {
  name: 'passthrough',
  commands: ['g++', 'pkg-config', 'dpkg-source', 'fusermount3'],
  packages: ['g++', 'pkg-config', 'dpkg-dev', 'libfuse3-dev', 'fuse3'],
  // Two of them keep caches of the same files and tell each other nothing.
  secondMount: 'none',
  hasClient: true,
  async start(site): Promise<RunningPeer> {
    const program = await builtPassthrough();
    const ext4 = await Ext4.make(site);
    const mountpoint = site.makeFolder('passthrough');
    let child: Child | undefined;
    const mount = async (): Promise<void> => {
      const raised = `ulimit -n ${DESCRIPTORS} 2>/dev/null || ulimit -n "$(ulimit -H -n)"; exec "$0" "$@"`;
      child = site.daemon('client', 'sh', ['-c', raised, program, '--foreground', ext4.folder, mountpoint]);
      await site.mounted(mountpoint, child);
    };
    const umount = async (): Promise<void> => {
      await site.umount(mountpoint);
      if (child !== undefined) await endDaemon(child);
    };
    await mount();
    return {
      mountpoint,
      mount: async () => mountpoint,
      async drop(what) {
        await umount();
        if (what === 'all') await ext4.remountCold();
        await mount();
      },
      settle: () => ext4.settle(),
      async stop() {
        await umount();
        await ext4.umount();
      },
    };
  },
};
