/** Opens a target's two devices exclusively, as mkfs and serve do. */

import { mkdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { openBlockDevice, resolveDevice } from '../runtime/node_block.js';
import type { BlockDevice } from '../runtime/ports.js';
import type { TargetDevices } from '../storage/api.js';
import { CliError } from './common.js';
import { runtimeDir } from './installed.js';

export interface DevicePaths {
  readonly meta: string;
  readonly data: string;
}

/** The two block devices behind what the user named: regular files are attached to loop devices. */
export async function resolveDevices(paths: DevicePaths): Promise<DevicePaths> {
  const meta = await resolveDevice(paths.meta);
  const data = await resolveDevice(paths.data);
  if (meta.path === data.path) throw new CliError('--meta and --data name the same device; give two');
  return { meta: meta.path, data: data.path };
}

export interface OpenDevices extends TargetDevices {
  readonly meta: BlockDevice;
  close(): Promise<void>;
}

/** @throws FsError EBUSY when one of them is in use. Nothing stays open then. */
export async function openTargetDevices(paths: DevicePaths): Promise<OpenDevices> {
  const meta = await openBlockDevice(paths.meta, { exclusive: true });
  try {
    const data = await openBlockDevice(paths.data, { exclusive: true });
    const folder = join(runtimeDir(), 'targets', basename(paths.meta));
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    return {
      meta,
      data,
      metaPath: paths.meta,
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
