/**
 * What `holdfast mount` and mount.holdfast do before there is a client: the checks that cost nothing, and the choice of the
 * process. In the background this process only waits for the one that mounts, so it does not load the client.
 */

import { resolve } from 'node:path';
import { isBackgroundProcess, startInBackground } from '../../mount/daemonize.js';
import { checkMountpoint } from '../../mount/mountpoint.js';
import { parseMountOptions } from '../../mount/options.js';
import { isMounted, unmountPath } from '../../mount/unmount.js';
import type { Level } from '../base/notices.js';
import { formatAddress } from '../runtime/ports.js';
import { clientProgram } from './client_program.js';
import { MOUNT_PATIENCE_MS, parseSource, type Source } from './common.js';
import { askControl, mountLogPath, mountpointPath } from './control.js';
import { dropStored, passedDescriptors, type Stored, storedMount } from './descriptor_store.js';
import { describeFailure } from './failure.js';
import { settledSource } from './label_source.js';
import { localAddress } from './local_servers.js';
import type { Launch } from './mount_serve.js';
import { requestTakeover } from './takeover_request.js';

/** @returns when the mount is usable (background), or when it has ended (foreground). */
export async function mount(
  source: Source,
  path: string,
  words: string,
  foreground: boolean,
  level: Level = 'info',
): Promise<void> {
  const optionText = withWholePaths(words);
  const options = parseMountOptions(optionText, process.getuid?.() === 0);
  if (options.takesOver) {
    await requestTakeover(path, { options: optionText });
    return;
  }
  const launch = { source: textOf(source), options: optionText, level };
  if (foreground && (await goOnWithStored(source, path, launch))) return;
  const mountpoint = await checkMountpoint(path);
  const settled = await settledSource(source, options.retry ? undefined : MOUNT_PATIENCE_MS, (line) => {
    process.stderr.write(`holdfast: ${line}\n`);
  });
  if (!foreground && !isBackgroundProcess()) {
    await startBackground(settled, mountpoint, optionText, level);
    return;
  }
  const { runMount } = await import('./mount_run.js');
  await runMount(settled, mountpoint, { ...launch, source: textOf(settled) }, { kind: 'begin', options });
}

/**
 * This process serves a mount that is there: it takes it over from the process that has started it (hand_over.ts), or was started
 * by the keeper of a client that has died (keeper.ts).
 */
export async function goOn(
  how: 'take over' | 'after death',
  source: Source,
  mountpoint: string,
  words: string,
  level: Level,
): Promise<void> {
  const launch = { source: textOf(source), options: words, level };
  const { runMount } = await import('./mount_run.js');
  await runMount(source, mountpoint, launch, { kind: how === 'take over' ? 'take over' : 'for the keeper' });
}

/**
 * systemd has started this process after the death of another one, whose mount it has kept.
 * @returns false: it has not, or nobody can go on with that mount, which is gone then.
 */
async function goOnWithStored(source: Source, path: string, launch: Launch): Promise<boolean> {
  const descriptors = passedDescriptors();
  if (descriptors.length === 0) return false;
  const mountpoint = mountpointPath(path);
  let stored: Stored;
  try {
    stored = storedMount(descriptors, mountpoint, meaningsOf(source));
  } catch (thrown) {
    process.stderr.write(
      `holdfast: cannot go on after the death of a client process, and mounts anew: ${describeFailure(thrown).line}\n`,
    );
    await dropStored(descriptors);
    // The one that was kept, if no process serves what is there.
    if (isMounted(mountpoint) && (await askControl(mountpoint, { command: 'status' })) === undefined)
      unmountPath(mountpoint, 'detach');
    return false;
  }
  const { runMount } = await import('./mount_run.js');
  const same = parseSource(stored.source);
  await runMount(same, mountpoint, { ...launch, source: stored.source }, { kind: 'from the store', stored });
  return true;
}

function meaningsOf(source: Source): string[] {
  const { word } = source;
  if (word === undefined) return [textOf(source)];
  return [textOf(source), textOf({ label: word, addresses: [localAddress(word)] })];
}

/** @throws BackgroundFailure */
async function startBackground(
  source: Source,
  mountpoint: string,
  optionText: string,
  level: Level,
): Promise<void> {
  const [, ...program] = clientProgram();
  const argv = [...program, 'mount', '--log-level', level, textOf(source), mountpoint];
  if (optionText !== '') argv.push('-o', optionText);
  await startInBackground({ argv, logPath: mountLogPath(mountpoint) });
}

function textOf({ label, addresses }: Source): string {
  const text = addresses.map(formatAddress).join(',');
  return label === undefined || text.startsWith('unix:') ? text : `${label}@${text}`;
}

/** The process in the background has another working folder. */
function withWholePaths(words: string): string {
  return words
    .split(',')
    .map((word) => word.replace(/^(key|cert|ca)=(?=.)(.*)$/, (_, name, path) => `${name}=${resolve(path)}`))
    .join(',');
}
