/** Opens a target's two devices exclusively, and its multi-mount block beside them: for mkfs, serve, grow and fsck. */

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
} from '../storage/ownership/multi_mount.js';
import { DEFAULT_PERIOD_MS } from '../storage/ownership/multi_mount_watch.js';
import type { ExclusiveDevices } from '../storage/take_target.js';
import { CliError } from './common.js';
import { runtimeDir } from './installed.js';
import { isGone, thisProcess } from './process_owner.js';

const log = logger('cli:devices');

export interface DevicePaths {
  readonly meta: string;
  readonly data: string;
}

/** The block devices behind what the user named. Loop devices stay attached until release(). */
export interface ResolvedPair {
  readonly meta: ResolvedDevice;
  readonly data: ResolvedDevice;
  /** A message about the devices in the user's words: the file that was named, not the loop device it has. */
  named(text: string): string;
  /**
   * Before anything is written: regular files behind the devices get all of their space.
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
  // Whole paths only: /dev/loop1 is no part of /dev/loop10.
  return device.loop ? text.replaceAll(new RegExp(`${device.path}(?![\\w])`, 'g'), () => path) : text;
}

/** A failure that has to do with the devices, said in the user's words. */
export function withNames(pair: ResolvedPair, thrown: unknown): unknown {
  if (!(thrown instanceof FsError)) return thrown;
  return new FsError(thrown.code, pair.named(thrown.message), { cause: thrown });
}

export interface OpenDevices extends ExclusiveDevices {
  readonly meta: NodeBlockDevice;
  readonly data: NodeBlockDevice;
}

/** @throws FsError EBUSY when one of them is in use. Nothing stays open then. */
export async function openTargetDevices(pair: ResolvedPair): Promise<OpenDevices> {
  const meta = await openBlockDevice(pair.meta.path, { exclusive: true });
  try {
    const data = await openBlockDevice(pair.data.path, { exclusive: true });
    const folder = join(runtimeDir(), 'targets', basename(pair.meta.path));
    mkdirSync(folder, { recursive: true, mode: 0o700 });
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
  /** Gives the target back if this process has it. The store must be closed. */
  close(): Promise<void>;
}

/** The multi-mount block of a pair, through a descriptor of its own: a standby looks at it while another one serves. */
export async function openMultiMount(
  runtime: MultiMountRuntime,
  pair: ResolvedPair,
  options: Pick<MultiMountOptions, 'state' | 'periodMs'>,
): Promise<OpenMultiMount> {
  const device = await openBlockDevice(pair.data.path, { exclusive: false });
  const multiMount = new MultiMount(runtime, device, { ...options, owner: thisProcess(), isGone });
  return {
    multiMount,
    close: async () => {
      try {
        await multiMount.release();
      } catch (thrown) {
        // Not worth another failure: whoever comes next waits for the period.
        log('giving back %s: %O', pair.data.path, thrown);
      } finally {
        await device.close();
      }
    },
  };
}

/**
 * openTargetDevices, whose refusal says who has the devices, if that is known.
 * @throws FsError EBUSY
 */
export async function openUnlessHeld(pair: ResolvedPair, multiMount: MultiMount): Promise<OpenDevices> {
  try {
    return await openTargetDevices(pair);
  } catch (thrown) {
    if (!(thrown instanceof FsError) || thrown.code !== 'EBUSY') throw thrown;
    // A device too small to have the block is in use all the same.
    const sighting = await multiMount.look().catch(() => undefined);
    throw sighting?.free === false ? multiMount.refusal(sighting.record) : thrown;
  }
}

export interface HeldTarget {
  readonly devices: OpenDevices;
  readonly multiMount: MultiMount;
  /** Takes the target, so that no other host does. @throws FsError EBUSY */
  claim(): Promise<MultiMount>;
}

/**
 * Runs a command that has the devices for itself and ends. It gives everything back, whether it succeeds or fails.
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
      // What this host cached before may be what another host has overwritten.
      await devices.dropCaches();
      return multiMount;
    };
    return await run({ devices, multiMount, claim });
  } finally {
    // The target is given back while the devices are still ours.
    await block.close();
    await opened?.close();
  }
}
