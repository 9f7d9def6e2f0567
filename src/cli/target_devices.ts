/** Opens a target's two devices exclusively, as mkfs and serve do. */

import { mkdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { FsError } from '../base/errno.js';
import {
  type NodeBlockDevice,
  openBlockDevice,
  type ResolvedDevice,
  resolveDevice,
} from '../runtime/node_block.js';
import type { TargetDevices } from '../storage/api.js';
import { CliError } from './common.js';
import { runtimeDir } from './installed.js';

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

export interface OpenDevices extends TargetDevices {
  readonly meta: NodeBlockDevice;
  readonly data: NodeBlockDevice;
  close(): Promise<void>;
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
