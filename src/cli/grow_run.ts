/** Grows the target of `holdfast grow`. */

import { nodeRuntime } from '../runtime/node_runtime.js';
import { type Grown, growTarget } from '../storage/grow.js';
import { type DevicePaths, resolveDevices, withNames, withTarget } from './target_devices.js';

/** @throws CliError, FsError with a one-line message. */
export async function grow(options: DevicePaths & { readonly force?: boolean }): Promise<Grown> {
  const runtime = nodeRuntime();
  const pair = await resolveDevices(options);
  try {
    return await withTarget(runtime, pair, 'grow', ({ devices, claim }) =>
      growTarget(runtime, devices, {
        force: options.force === true,
        claim: async () => {
          await pair.reserve();
          return claim();
        },
      }),
    );
  } catch (thrown) {
    throw withNames(pair, thrown);
  } finally {
    await pair.release();
  }
}
