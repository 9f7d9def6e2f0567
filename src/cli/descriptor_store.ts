/**
 * systemd as the keeper of a mount whose client is the process of a unit (FileDescriptorStoreMax= in mount/systemd): it keeps
 * /dev/fuse and the seed of the next client (seed_memory.ts). If the client dies, systemd starts the unit's command again, and that
 * process finds both (sd_listen_fds(3)) and goes on with the mount.
 *
 * Both are one entry of the store, sent with one message: so systemd has both or none. The next seed goes into the same memory, and
 * systemd hears nothing of it. systemd must not poll them (FDPOLL=0), or each request of the kernel would wake it.
 */

import { closeSync, fstatSync } from 'node:fs';
import type { Negotiated } from '../../mount/fuse_mount.js';
import { mountAt } from '../../mount/mount_table.js';
import { nativeBinding } from '../../native/binding.js';
import { FsError } from '../base/errno.js';
import { giveToKeeper } from './fuse_descriptors.js';
import type { Keeper } from './keeper.js';
import { readSeed, type Seed, type SeedMount, writeSeed } from './seed_memory.js';
import { hasManager, tellManager } from './service_manager.js';

/** Of both in the store. Frozen: the next process may be of another version. */
const NAME = 'holdfast-mount';
/** The first of the descriptors that systemd passes (SD_LISTEN_FDS_START). */
const FIRST_FD = 3;
/** MAJOR and MINOR of /dev/fuse: the kernel's documentation fixes them. */
const FUSE_DEVICE = [10, 229] as const;

export class DescriptorStore implements Keeper {
  readonly kind = 'store';
  /** The memory of the seed. */
  readonly inherited: number;
  /** That the client reads. */
  readonly #fuse: number;
  readonly #negotiated: Negotiated;
  readonly #mount: SeedMount;

  private constructor(memory: number, fuse: number, negotiated: Negotiated, mount: SeedMount) {
    nativeBinding().closeOnExec(memory);
    this.inherited = memory;
    this.#fuse = fuse;
    this.#negotiated = negotiated;
    this.#mount = mount;
  }

  /** For a mount that this process has made. @returns undefined if there is no systemd, or somebody has taken the mount away. */
  static start(
    mountpoint: string,
    source: string,
    fuse: number,
    negotiated: Negotiated,
  ): DescriptorStore | undefined {
    if (!hasManager()) return undefined;
    const device = mountAt(mountpoint)?.device;
    if (device === undefined) return undefined;
    const memory = nativeBinding().memoryFile(NAME);
    return new DescriptorStore(memory, fuse, negotiated, { mountpoint, device, source });
  }

  /** For a mount that another process has had, whose seed is in this memory. */
  static at(memory: number, fuse: number, negotiated: Negotiated): DescriptorStore {
    return new DescriptorStore(memory, fuse, negotiated, readSeed(memory));
  }

  tell(_program: readonly string[], seed: Seed): void {
    writeSeed(this.inherited, { ...this.#mount, ...seed });
  }

  keep(): Promise<void> {
    return giveToKeeper(this.#fuse, this.#negotiated, (given) =>
      tellManager(['FDSTORE=1', `FDNAME=${NAME}`, 'FDPOLL=0'], [given, this.inherited]),
    );
  }

  forget(): Promise<void> {
    return forgetStored();
  }
}

/** systemd keeps nothing of a mount any more. */
export function forgetStored(): Promise<void> {
  return tellManager(['FDSTOREREMOVE=1', `FDNAME=${NAME}`]);
}

/** What a dead client has left in the store. */
export interface Stored {
  /** Descriptor of /dev/fuse. */
  readonly fuse: number;
  /** Of the memory of the seed. */
  readonly memory: number;
  /** Of the mount, as the process has read it that has made the mount. */
  readonly source: string;
}

/**
 * The descriptors of a mount among those that systemd has passed to this process: none if it is no process of a unit, or the unit has no
 * mount. Programs that this one starts hear nothing of them.
 */
export function passedDescriptors(env: NodeJS.ProcessEnv = process.env): number[] {
  const { LISTEN_PID: pid, LISTEN_FDS: count, LISTEN_FDNAMES: names } = env;
  for (const name of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES', 'LISTEN_PIDFDID']) delete env[name];
  // A parent of this process has had them, and has not passed them on.
  if (pid !== String(process.pid)) return [];
  const all = (names ?? '').split(':').slice(0, Number(count));
  const ours = all.flatMap((name, at) => (name === NAME ? [FIRST_FD + at] : []));
  for (const descriptor of ours) nativeBinding().closeOnExec(descriptor);
  return ours;
}

/**
 * @param descriptors as passedDescriptors() has found them.
 * @param sources what the source that the user has named may be: a LABEL is the name of a host while its server is away.
 * @throws FsError, which says why this process cannot go on with the mount.
 */
export function storedMount(
  descriptors: readonly number[],
  mountpoint: string,
  sources: readonly string[],
): Stored {
  const fuses = descriptors.filter(isFuse);
  const memories = descriptors.filter((descriptor) => fstatSync(descriptor).isFile());
  const [fuse, memory] = [fuses[0], memories[0]];
  if (fuse === undefined || memory === undefined || descriptors.length !== 2)
    throw new FsError(
      'EPROTO',
      `systemd has kept ${fuses.length} of /dev/fuse and ${memories.length} seeds, not one of each`,
    );
  const seed = readSeed(memory);
  if (seed.mountpoint !== mountpoint)
    throw new FsError('EPROTO', `systemd has kept a mount on ${seed.mountpoint}, not on ${mountpoint}`);
  if (!sources.includes(seed.source))
    throw new FsError('EPROTO', `systemd has kept a mount of ${seed.source}, not of ${sources.join(' or ')}`);
  if (nativeBinding().fuseHasEnded(fuse))
    throw new FsError('ENOTCONN', 'the mount has ended with its client');
  if (mountAt(mountpoint)?.device !== seed.device)
    throw new FsError('ENOENT', `the mount is not at ${mountpoint} any more`);
  return { fuse, memory, source: seed.source };
}

/** Ends the mounts behind them, if nobody else has them. */
export async function dropStored(descriptors: readonly number[]): Promise<void> {
  await forgetStored();
  for (const descriptor of descriptors) closeSync(descriptor);
}

function isFuse(descriptor: number): boolean {
  const { rdev } = fstatSync(descriptor);
  const [major, minor] = FUSE_DEVICE;
  return fstatSync(descriptor).isCharacterDevice() && rdev === major * 256 + minor;
}
