/**
 * The client process behind `holdfast mount` (mount_start.ts).
 *
 * Order of start: vfs, client (connected and recovered), mount, control socket, ready. Order
 * of end, whichever process unmounts: the kernel sends no more requests, the client flushes everything to the server and says
 * goodbye, the process exits.
 */

import { Socket } from 'node:net';
import { hostname } from 'node:os';
import { backgroundReporter, removeEmptyLog } from '../../mount/daemonize.js';
import type { ChannelState, FuseMount } from '../../mount/fuse_mount.js';
import { groupsOf } from '../../mount/groups.js';
import { startNativeMount, takeNativeMount } from '../../mount/native/driver.js';
import { type MountOptions, parseMountOptions } from '../../mount/options.js';
import { keepsSetId } from '../../mount/set_id.js';
import { tellUmount } from '../../mount/umount_helper.js';
import { MS_RDONLY, nativeBinding } from '../../native/binding.js';
import { logger } from '../base/log.js';
import type { ClientOptions } from '../client/api.js';
import { startClient } from '../client/client.js';
import { nodeRuntime } from '../runtime/node_runtime.js';
import { type Address, formatAddress, type Runtime } from '../runtime/ports.js';
import { createVfs, type Vfs } from '../vfs/vfs.js';
import { type KernelStateMessage, STATE_VERSIONS } from '../wire/mount_state.js';
import type { Source } from './common.js';
import { mountLogPath } from './control.js';
import { proverOf } from './credentials.js';
import { dieBy, EndedBySignal, EndSignals } from './end_signals.js';
import { describeFailure } from './failure.js';
import { installedVersion } from './installed.js';
import { GivenUp, type Launch, leaveAfter, type RunningMount, serveMount } from './mount_serve.js';
import { startNotices } from './notices.js';
import { hostNumber } from './process_owner.js';
import { announceReady } from './service_manager.js';
import { CHANNEL_FD, FUSE_FD, TakeoverChannel } from './takeover_channel.js';

const log = logger('cli:mount');

const CONNECT_TIMEOUT_MS = 10_000;

/**
 * @param mountpoint as checkMountpoint() returns it.
 * @returns when the mount has ended.
 */
export async function runMount(
  source: Source,
  mountpoint: string,
  options: MountOptions,
  launch: Launch,
): Promise<void> {
  const reporter = backgroundReporter();
  try {
    const logPath = reporter === undefined ? undefined : mountLogPath(mountpoint);
    const says = (line: string): void => {
      if (reporter === undefined) process.stderr.write(`holdfast: ${line}\n`);
      else reporter.says(line);
    };
    // If the starting command is gone, this process ends as by any SIGTERM: before there is a mount, or by unmounting it.
    reporter?.onStarterGone(() => process.kill(process.pid, 'SIGTERM'));
    const running = await startMount(source, mountpoint, options, { says, logPath, launch });
    if (reporter !== undefined) reporter.ready();
    else {
      const mounted = `mounted ${source.addresses.map(formatAddress).join(',')} on ${mountpoint}`;
      process.stdout.write(`holdfast: ${mounted}\n`);
      announceReady(mounted);
    }
    await untilEnded(running, logPath);
  } catch (thrown) {
    const { line, exitCode } = describeFailure(thrown);
    reporter?.failed(line, exitCode);
    if (thrown instanceof GivenUp) {
      // Exits here: otherwise the client goes on trying to reach its server.
      process.stderr.write(`holdfast: ${line}\n`);
      process.exit(exitCode);
    }
    if (thrown instanceof EndedBySignal) {
      process.stderr.write(`holdfast: ${line}\n`);
      dieBy(thrown);
    }
    throw thrown;
  }
}

async function untilEnded({ ended }: RunningMount, logPath: string | undefined): Promise<void> {
  const how = await ended;
  // The timers of the client would keep the process, and what it still has is another process's now.
  if (how === 'handed over') process.exit(0);
  if (logPath !== undefined) removeEmptyLog(logPath);
}

interface Surroundings {
  /** Tells the user who waits for the mount. */
  readonly says: (line: string) => void;
  /** Only a process in the background has one. */
  readonly logPath: string | undefined;
  readonly launch: Launch;
}

async function startMount(
  source: Source,
  mountpoint: string,
  options: MountOptions,
  { says, logPath, launch }: Surroundings,
): Promise<RunningMount> {
  const parts = prepare(source, mountpoint, options, { says, launch });
  const { runtime, vfs, notices, signals } = parts;
  const client = await startClient(runtime, parts.clientOptions);
  vfs.attach(client);
  let kernel: FuseMount;
  try {
    await client.learnRoot({ uid: 0, gid: 0, signal: signals.beforeMount });
    signals.beforeMount.throwIfAborted();
    const mountFlags = client.isReadOnly() ? options.mountFlags | MS_RDONLY : options.mountFlags;
    kernel = await startKernelMount(runtime, vfs, source.addresses, mountpoint, { ...options, mountFlags });
  } catch (thrown) {
    await leaveAfter(runtime, thrown, client.unmount());
    throw thrown;
  }
  vfs.bind(kernel.notifier);
  await tellUmount(source.addresses.map(formatAddress).join(','), mountpoint);
  return serveMount({ runtime, client, kernel, vfs, mountpoint, logPath, launch, notices, signals });
}

/** What a client process has before it is connected. */
function prepare(
  source: Source,
  mountpoint: string,
  options: MountOptions,
  { says, launch }: Pick<Surroundings, 'says' | 'launch'>,
) {
  const runtime = nodeRuntime();
  const notices = startNotices(runtime, launch.level);
  const prover = proverOf(options.proofs, source.label);
  const vfs = createVfs({ keepsSetId, syncWrites: options.sync });
  const signals = new EndSignals();
  const clientOptions: ClientOptions = {
    addresses: source.addresses,
    label: source.label,
    credentials: () => prover.credentials(),
    access: prover.claim,
    name: options.name ?? `${hostname()}:${mountpoint}`,
    softwareVersion: installedVersion(),
    host: hostNumber(),
    cacheBytes: options.cacheBytes,
    connectTimeoutMs: options.retry ? undefined : CONNECT_TIMEOUT_MS,
    signal: signals.beforeMount,
    leavePatienceMs: options.umountTimeoutMs,
    syncMetadata: options.syncMetadata,
    groupsOf,
    onTrouble: (text) => {
      const until = options.retry ? 'until a server takes the mount' : `for ${CONNECT_TIMEOUT_MS / 1000} s`;
      says(`${text}; tries again ${until}`);
    },
    kernel: vfs.kernelCache,
    onState: (text, kind) => {
      if (kind === undefined) log('%s', text);
      else notices.say(kind, text);
    },
  };
  return { runtime, notices, vfs, signals, clientOptions };
}

/**
 * This process takes a mount over from the one that has started it (hand_over.ts).
 * @returns when the mount has ended, or another process has taken it over.
 * @throws never before it is in charge: then it says why, and ends with status 1.
 */
export async function takeMountOver(source: Source, mountpoint: string, launch: Launch): Promise<void> {
  const channel = new TakeoverChannel(new Socket({ fd: CHANNEL_FD, readable: true, writable: true }));
  let running: RunningMount;
  let logPath: string | undefined;
  try {
    const options = parseMountOptions(launch.options, process.getuid?.() === 0);
    const says = (line: string): void => log('%s', line);
    const parts = prepare(source, mountpoint, options, { says, launch });
    const { runtime, notices, vfs, signals } = parts;
    nativeBinding();
    const version = installedVersion();
    channel.say({ word: 'hello', pid: process.pid, version, stateVersions: STATE_VERSIONS });
    ({ logPath } = await channel.hear('state'));
    const state = await channel.hearState();
    vfs.takeOver(state.kernel);
    const client = await startClient(runtime, parts.clientOptions, state.client);
    vfs.attach(client);
    channel.say({ word: 'ready' });
    await channel.hear('go');
    const { intr, intrGraceMs } = options;
    const { timers, clock } = runtime;
    const serveOptions = { intr, intrGraceMs, timers, clock };
    const kernel = takeNativeMount(
      vfs.handlers,
      mountpoint,
      FUSE_FD,
      serveOptions,
      channelStateOf(state.kernel),
      (notifier) => vfs.bind(notifier),
    );
    channel.say({ word: 'inCharge' });
    channel.close();
    running = await serveMount({
      runtime,
      client,
      kernel,
      vfs,
      mountpoint,
      logPath,
      launch,
      notices,
      signals,
    });
    // For calls that must not wait for a server (statfs). The mount may be handed over, or end, before the answer comes.
    client
      .learnRoot({ uid: 0, gid: 0, signal: new AbortController().signal })
      .catch((thrown: unknown) => log('the root: %O', thrown));
  } catch (thrown) {
    channel.say({ word: 'failed', why: describeFailure(thrown).line });
    channel.close();
    throw thrown;
  }
  await untilEnded(running, logPath);
}

function channelStateOf({ flagsLow, flagsHigh, requests, ...numbers }: KernelStateMessage): ChannelState {
  const { minor, maxWriteBytes, maxReadaheadBytes, maxBackground, congestionThreshold } = numbers;
  const flags = (BigInt(flagsHigh) << 32n) | BigInt(flagsLow);
  const negotiated = { minor, flags, maxWriteBytes, maxReadaheadBytes, maxBackground, congestionThreshold };
  return { negotiated, requests };
}

async function startKernelMount(
  runtime: Runtime,
  vfs: Vfs,
  servers: readonly Address[],
  mountpoint: string,
  options: MountOptions,
): Promise<FuseMount> {
  const { intr, intrGraceMs, allowOther, mountFlags } = options;
  const common = {
    mountpoint,
    source: servers.map(formatAddress).join(','),
    allowOther,
    mountFlags,
    timers: runtime.timers,
  };
  if (options.driver === 'fuse-native') {
    const { FUSE_NATIVE_LIMITS, startFuseNativeMount } = await import('../../mount/fuse_native/driver.js');
    for (const limit of FUSE_NATIVE_LIMITS) process.stderr.write(`holdfast: driver fuse-native: ${limit}\n`);
    return startFuseNativeMount(vfs.handlers, common);
  }
  return startNativeMount(vfs.handlers, { ...common, intr, intrGraceMs, clock: runtime.clock });
}
