/** Opens a target's two devices exclusively, and its multi-mount block besides: for mkfs, serve, grow and fsck. */

import { mkdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { FsError } from '../base/errno.js';
import { logger } from '../base/log.js';
import {
  type NodeBlockDevice,
  openBlockDevice,
  type ResolvedDevice,
  resolveDevice,
} from '../runtime/node_block.js';
import {
  MultiMount,
  type MultiMountOptions,
  type MultiMountRuntime,
  type Successor,
} from '../storage/ownership/multi_mount.js';
import { DEFAULT_PERIOD_MS } from '../storage/ownership/multi_mount_watch.js';
import type { ExclusiveDevices } from '../storage/take_target.js';
import { CliError } from './failure.js';
import { runtimeDir } from './installed.js';
import { isGone, thisProcess } from './process_owner.js';

const log = logger('cli:devices');

export interface DevicePaths {
  readonly meta: string;
  readonly data: string;
}

/** The block devices of the two paths that the user named. Loop devices stay attached until release(). */
export interface ResolvedPair {
  readonly meta: ResolvedDevice;
  readonly data: ResolvedDevice;
  /** Puts the user's words into a message about the devices: the file that the user named, not its loop device. */
  named(text: string): string;
  /**
   * Gives regular files behind the devices all of their space, before the command writes to them.
   * @throws FsError ENOSPC, EOPNOTSUPP.
   */
  reserve(): Promise<void>;
  release(): Promise<void>;
}

export async function resolveDevices(paths: DevicePaths): Promise<ResolvedPair> {
  const meta = await resolveDevice(paths.meta);
  try {
    const data = await resolveDevice(paths.data);
    const pair: ResolvedPair = {
      meta,
      data,
      named: (text) => named(named(text, meta, paths.meta), data, paths.data),
      reserve: async () => {
        await meta.reserve();
        await data.reserve();
      },
      release: async () => {
        await data.release();
        await meta.release();
      },
    };
    if (meta.path !== data.path) return pair;
    await data.release();
    throw new CliError('--meta and --data name the same device; give two');
  } catch (thrown) {
    await meta.release();
    throw thrown;
  }
}

function named(text: string, device: ResolvedDevice, path: string): string {
  // Replaces whole paths only: /dev/loop1 is also the beginning of /dev/loop10.
  return device.loop ? text.replaceAll(new RegExp(`${device.path}(?![\\w])`, 'g'), () => path) : text;
}

/** A failure of the devices, in the user's words. */
export function withNames(pair: ResolvedPair, thrown: unknown): unknown {
  if (!(thrown instanceof FsError)) return thrown;
  return new FsError(thrown.code, pair.named(thrown.message), { cause: thrown });
}

export interface OpenDevices extends ExclusiveDevices {
  readonly meta: NodeBlockDevice;
  readonly data: NodeBlockDevice;
}

/** Where the processes of this host that serve a target, or stand by for it, have their files. */
export function targetFolder(pair: ResolvedPair): string {
  const folder = join(runtimeDir(), 'targets', basename(pair.meta.path));
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  return folder;
}

/** @throws FsError EBUSY if one of the devices is in use; then neither stays open. */
export async function openTargetDevices(pair: ResolvedPair): Promise<OpenDevices> {
  const meta = await openBlockDevice(pair.meta.path, { exclusive: true });
  try {
    const data = await openBlockDevice(pair.data.path, { exclusive: true });
    const folder = targetFolder(pair);
    return {
      meta,
      data,
      metaPath: pair.meta.path,
      metaSizeBytes: meta.sizeBytes,
      runtimeDir: folder,
      dropCaches: async () => {
        await meta.dropCache();
        await data.dropCache();
      },
      close: async () => {
        await data.close();
        await meta.close();
      },
    };
  } catch (thrown) {
    await meta.close();
    throw thrown;
  }
}

export interface OpenMultiMount {
  readonly multiMount: MultiMount;
  /**
   * Gives the target, if this process has it, to the successor, or back. The caller has closed the store.
   * @returns whether the successor has it.
   */
  close(successor?: Successor): Promise<boolean>;
}

/** Opens the multi-mount block of a pair by its own descriptor: a standby reads it while another server serves. */
export async function openMultiMount(
  runtime: MultiMountRuntime,
  pair: ResolvedPair,
  options: Pick<MultiMountOptions, 'state' | 'periodMs'>,
): Promise<OpenMultiMount> {
  const device = await openBlockDevice(pair.data.path, { exclusive: false });
  const multiMount = new MultiMount(runtime, device, { ...options, owner: thisProcess(), isGone });
  return {
    multiMount,
    close: async (successor) => {
      try {
        if (successor !== undefined) return await multiMount.handOver(successor);
        await multiMount.release();
        return false;
      } catch (thrown) {
        // Not worth another failure: the next one to take the target waits for the period.
        log('giving back %s: %O', pair.data.path, thrown);
        return false;
      } finally {
        await device.close();
      }
    },
  };
}

/**
 * Like openTargetDevices, but its error says which process has the devices, if that is known.
 * @throws FsError EBUSY
 */
export async function openUnlessHeld(pair: ResolvedPair, multiMount: MultiMount): Promise<OpenDevices> {
  try {
    return await openTargetDevices(pair);
  } catch (thrown) {
    if (!(thrown instanceof FsError) || thrown.code !== 'EBUSY') throw thrown;
    // A device that is too small for the block may be in use all the same.
    const sighting = await multiMount.look().catch(() => undefined);
    throw sighting?.free === false ? multiMount.refusal(sighting.record) : thrown;
  }
}

export interface HeldTarget {
  readonly devices: OpenDevices;
  readonly multiMount: MultiMount;
  /** Takes the target, so that no other host can. @throws FsError EBUSY */
  claim(): Promise<MultiMount>;
}

/**
 * Runs a command that needs the devices for itself. Afterwards gives everything back, whether the command succeeds or fails.
 * @throws FsError EBUSY
 */
export async function withTarget<T>(
  runtime: MultiMountRuntime,
  pair: ResolvedPair,
  state: MultiMountOptions['state'],
  run: (target: HeldTarget) => Promise<T>,
): Promise<T> {
  const block = await openMultiMount(runtime, pair, { state, periodMs: DEFAULT_PERIOD_MS });
  const { multiMount } = block;
  let opened: OpenDevices | undefined;
  try {
    const devices = await openUnlessHeld(pair, multiMount);
    opened = devices;
    const claim = async (): Promise<MultiMount> => {
      await multiMount.take();
      // This host may have cached data that another host has overwritten since.
      await devices.dropCaches();
      return multiMount;
    };
    return await run({ devices, multiMount, claim });
  } finally {
    // Gives the target back while the devices are still ours.
    await block.close();
    await opened?.close();
  }
}
