/**
 * What `holdfast mount` and mount.holdfast do before there is a client: the checks that cost nothing, and the choice of the
 * process. In the background this process only waits for the one that mounts, so it does not load the client.
 */

import { fileURLToPath } from 'node:url';
import { isBackgroundProcess, startInBackground } from '../../mount/daemonize.js';
import { checkMountpoint } from '../../mount/mountpoint.js';
import { parseMountOptions } from '../../mount/options.js';
import type { Level } from '../base/notices.js';
import type { Address } from '../runtime/ports.js';
import { mountLogPath } from './control.js';
import { formatAddress } from './format.js';

/**
 * V8's youngest generation takes up to three times this many MiB (16 unless told otherwise), and the memory of short-lived buffers
 * is given back when it is collected. Under a mixed load a client needs 30 to 60 MiB less this way, and no more processor time.
 */
export const SMALL_YOUNG_GENERATION = '--max-semi-space-size=4';

/** @returns when the mount is usable (background), or when it has ended (foreground). */
export async function mount(
  servers: readonly Address[],
  path: string,
  optionText: string,
  foreground: boolean,
  level: Level = 'info',
): Promise<void> {
  const options = parseMountOptions(optionText, process.getuid?.() === 0);
  const mountpoint = await checkMountpoint(path);
  if (!foreground && !isBackgroundProcess()) {
    await startBackground(servers, mountpoint, optionText, level);
    return;
  }
  const { runMount } = await import('./mount_run.js');
  await runMount(servers, mountpoint, options, level);
}

/** @throws BackgroundFailure */
async function startBackground(
  servers: readonly Address[],
  mountpoint: string,
  optionText: string,
  level: Level,
): Promise<void> {
  const main = fileURLToPath(new URL('./main.js', import.meta.url));
  const addresses = servers.map(formatAddress).join(',');
  const argv = [SMALL_YOUNG_GENERATION, main, 'mount', '--log-level', level, addresses, mountpoint];
  if (optionText !== '') argv.push('-o', optionText);
  await startInBackground({ argv, logPath: mountLogPath(mountpoint) });
}
