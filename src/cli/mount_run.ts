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
import type { ChannelState, FuseMount, Negotiated } from '../../mount/fuse_mount.js';
import { groupsOf } from '../../mount/groups.js';
import { mountAt } from '../../mount/mount_table.js';
import { startNativeMount, takeNativeMount } from '../../mount/native/driver.js';
import { packNegotiated, unpackNegotiated } from '../../mount/negotiated.js';
import { type MountOptions, parseMountOptions } from '../../mount/options.js';
import { keepsSetId } from '../../mount/set_id.js';
import { tellUmount } from '../../mount/umount_helper.js';
import { MS_RDONLY, nativeBinding } from '../../native/binding.js';
import { logger } from '../base/log.js';
import type { Notices } from '../base/notices.js';
import { printable } from '../base/printable.js';
import type { ClientOptions, FsClient } from '../client/api.js';
import { startClient } from '../client/client.js';
import { MetricTable } from '../runtime/metric_table.js';
import { nodeRuntime } from '../runtime/node_runtime.js';
import { type Address, formatAddress, NO_FAULTS, type Runtime } from '../runtime/ports.js';
import { createVfs, type Vfs } from '../vfs/vfs.js';
import { STATE_VERSIONS } from '../wire/mount_state.js';
import { clientProgram } from './client_program.js';
import type { Source } from './common.js';
import { mountLogPath } from './control.js';
import { proverOf } from './credentials.js';
import { dieBy, EndedBySignal, EndSignals } from './end_signals.js';
import { describeFailure } from './failure.js';
import { installedVersion, requiresOf } from './installed.js';
import { KEEPER_FD, Keeper, ORPHAN_FUSE_FD } from './keeper.js';
import { serveMetrics } from './metrics_http.js';
import {
  GivenUp,
  type Launch,
  leaveAfter,
  type Mounted,
  type RunningMount,
  serveMount,
} from './mount_serve.js';
import { startNotices } from './notices.js';
import { hostNumber } from './process_owner.js';
import { announceReady } from './service_manager.js';
import { slowLog } from './slow_log.js';
import { CHANNEL_FD, FUSE_FD, KEPT_FD, TakeoverChannel } from './takeover_channel.js';
import { goOnArguments } from './takeover_request.js';

const log = logger('cli:mount');

const CONNECT_TIMEOUT_MS = 10_000;
/** How often a process that waits for a server looks whether its mount is still there. */
const LOOK_MS = 1000;

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
    const says = (text: string): void => {
      const line = printable(text);
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
  const parts = await prepare(source, mountpoint, options, { says, launch });
  const { runtime, vfs, signals } = parts;
  if (options.metrics !== undefined) await serveMetrics(runtime, parts.table, options.metrics);
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
  const keeper = logPath === undefined ? undefined : startKeeper(kernel, mountpoint, options);
  if (kernel.handover !== undefined)
    tellKeeper(keeper, client, kernel.handover.negotiated(), launch, mountpoint, parts);
  return serveMount({ ...parts, client, kernel, mountpoint, logPath, launch, keeper });
}

/** What a client process has before it is connected. */
interface Prepared {
  readonly runtime: Runtime;
  readonly table: MetricTable;
  readonly notices: Notices;
  readonly vfs: Vfs;
  readonly signals: EndSignals;
  readonly clientOptions: ClientOptions;
  /** Hears of each connection that can be used. */
  readonly usable: { listener: () => void };
}

async function prepare(
  source: Source,
  mountpoint: string,
  options: MountOptions,
  { says, launch }: Pick<Surroundings, 'says' | 'launch'>,
): Promise<Prepared> {
  const table = new MetricTable();
  const runtime = nodeRuntime(NO_FAULTS, table, await slowLog(options.slowMs));
  const notices = startNotices(runtime, launch.level);
  const prover = proverOf(options.proofs, source.label);
  const vfs = createVfs({ keepsSetId, syncWrites: options.sync });
  const signals = new EndSignals();
  const usable: Prepared['usable'] = { listener: () => undefined };
  const clientOptions: ClientOptions = {
    addresses: source.addresses,
    label: source.label,
    credentials: () => prover.credentials(),
    access: prover.claim,
    name: options.name ?? `${hostname()}:${mountpoint}`,
    softwareVersion: installedVersion(),
    lowestPeer: requiresOf().lowestPeer,
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
    onWait: (text) => says(`waits for the server, which says: ${text}`),
    kernel: vfs.kernelCache,
    onUsable: () => usable.listener(),
    onState: (text, kind) => {
      if (kind === undefined) log('%s', text);
      else notices.say(kind, text);
    },
  };
  return { runtime, table, notices, vfs, signals, clientOptions, usable };
}

/**
 * This process takes a mount over from the one that has started it (hand_over.ts).
 * @returns when the mount has ended, or another process has taken it over.
 * @throws what has gone wrong. Until this process is in charge, the one before hears it, and stays in charge.
 */
export async function takeMountOver(source: Source, mountpoint: string, launch: Launch): Promise<void> {
  const { closeOnExec } = nativeBinding();
  for (const descriptor of [CHANNEL_FD, FUSE_FD]) closeOnExec(descriptor);
  const channel = new TakeoverChannel(new Socket({ fd: CHANNEL_FD, readable: true, writable: true }));
  let mounted: Mounted;
  let metrics: () => void;
  try {
    const options = parseMountOptions(launch.options, process.getuid?.() === 0);
    const parts = await prepare(source, mountpoint, options, { says: (line) => log('%s', line), launch });
    const { runtime, vfs } = parts;
    channel.say({
      word: 'hello',
      pid: process.pid,
      version: installedVersion(),
      stateVersions: STATE_VERSIONS,
    });
    const heard = await channel.hear('state');
    const { logPath } = heard;
    const state = await channel.hearState();
    const keeper = heard.hasKeeper === true ? Keeper.at(KEPT_FD) : undefined;
    vfs.takeOver(state.kernel);
    const client = await startClient(runtime, parts.clientOptions, {
      kind: 'handed over',
      state: state.client,
    });
    vfs.attach(client);
    channel.say({ word: 'ready' });
    await channel.hear('go');
    const { requests } = state.kernel;
    const negotiated = unpackNegotiated(state.kernel);
    tellKeeper(keeper, client, negotiated, launch, mountpoint, parts);
    const kernel = goOnServing(parts, mountpoint, options, FUSE_FD, { negotiated, requests });
    channel.say({ word: 'inCharge' });
    mounted = { ...parts, client, kernel, mountpoint, logPath, launch, keeper };
    metrics = () => serveMetricsAfter(parts, options);
  } catch (thrown) {
    channel.say({ word: 'failed', why: describeFailure(thrown).line });
    throw thrown;
  } finally {
    channel.close();
  }
  const running = await serveMount(mounted);
  learnRoot(mounted.client);
  metrics();
  await untilEnded(running, mounted.logPath);
}

/**
 * The keeper of a mount has started this process because the one before has died (keeper.ts). What was open is lost; everything else
 * goes on as soon as a server takes this client.
 */
export async function goOnAfterDeath(source: Source, mountpoint: string, launch: Launch): Promise<void> {
  const { closeOnExec } = nativeBinding();
  for (const descriptor of [KEEPER_FD, ORPHAN_FUSE_FD]) closeOnExec(descriptor);
  const keeper = Keeper.at(KEEPER_FD);
  const seed = await keeper.seed();
  const options = parseMountOptions(launch.options, process.getuid?.() === 0);
  const says = (line: string): void => void process.stderr.write(`holdfast: ${line}\n`);
  const parts = await prepare(source, mountpoint, { ...options, retry: true }, { says, launch });
  const { runtime, vfs, notices } = parts;
  const watch = endWithMount(runtime, mountpoint);
  vfs.takeOver({ nodes: Buffer.alloc(0), lockOwners: [] });
  const client = await startClient(runtime, parts.clientOptions, { kind: 'dead', client: seed.client });
  vfs.attach(client);
  watch.cancel();
  const negotiated = unpackNegotiated(seed.negotiated);
  // Before the first request: if this process dies too, the next one must use none of its numbers for handles.
  tellKeeper(keeper, client, negotiated, launch, mountpoint, parts);
  const kernel = goOnServing(parts, mountpoint, options, ORPHAN_FUSE_FD, { negotiated, requests: [] });
  // Nothing keeps names true that the dead client has handed out.
  await vfs.kernelCache.dropNames();
  // What it had read and not answered.
  kernel.handover?.stay(true);
  notices.say('client-died', `the client process of ${mountpoint} has died; files that were open answer EIO`);
  const logPath = mountLogPath(mountpoint);
  const running = await serveMount({ ...parts, client, kernel, mountpoint, logPath, launch, keeper });
  learnRoot(client);
  serveMetricsAfter(parts, options);
  await untilEnded(running, logPath);
}

/** How long the process before this one may keep the address of its metrics. */
const PATIENCE_MS = 10_000;

/** The process before this one may still have the address. The mount is served whether this one gets it or not. */
function serveMetricsAfter({ runtime, table }: Prepared, { metrics }: MountOptions): void {
  if (metrics === undefined) return;
  serveMetrics(runtime, table, metrics, { is: 'waited for', limitMs: PATIENCE_MS }).catch(
    (thrown: unknown) => {
      process.stderr.write(`holdfast: ${describeFailure(thrown).line}\n`);
    },
  );
}

/** Without a server this process reads nothing from the kernel, and would not hear that the mount is gone. */
function endWithMount({ timers }: Runtime, mountpoint: string): { cancel(): void } {
  const device = mountAt(mountpoint)?.device;
  let timer: { cancel(): void };
  const look = (): void => {
    if (mountAt(mountpoint)?.device !== device) process.exit(0);
    timer = timers.after(LOOK_MS, look);
  };
  look();
  return { cancel: () => timer.cancel() };
}

function goOnServing(
  { runtime, vfs }: Pick<Prepared, 'runtime' | 'vfs'>,
  mountpoint: string,
  { intr, intrGraceMs }: MountOptions,
  descriptor: number,
  from: ChannelState,
): FuseMount {
  const { timers, clock } = runtime;
  const options = { intr, intrGraceMs, timers, clock, metrics: runtime.metrics, waits: runtime.waits };
  return takeNativeMount(vfs.handlers, mountpoint, descriptor, options, from, (notifier) =>
    vfs.bind(notifier),
  );
}

/** For calls that must not wait for a server (statfs). The mount may be handed over, or end, before the answer comes. */
function learnRoot(client: FsClient): void {
  client
    .learnRoot({ uid: 0, gid: 0, signal: new AbortController().signal })
    .catch((thrown: unknown) => log('the root: %O', thrown));
}

/** Tells the keeper now, and at each connection, what to start if this process dies. */
function tellKeeper(
  keeper: Keeper | undefined,
  client: FsClient,
  negotiated: Negotiated,
  launch: Launch,
  mountpoint: string,
  parts: Prepared,
): void {
  if (keeper === undefined) return;
  const program = [...clientProgram(), ...goOnArguments('--after-death', launch, mountpoint)];
  const packed = packNegotiated(negotiated);
  const tell = (): void => keeper.tell(program, { client: client.handover.orphan(), negotiated: packed });
  parts.usable.listener = tell;
  tell();
}

/** Only with NOTIFY_RESEND the calls that a dead process has read can go on. Without it they would wait for ever. */
function startKeeper(kernel: FuseMount, mountpoint: string, { deathsMax }: MountOptions): Keeper | undefined {
  const { handover } = kernel;
  if (handover?.canAskAgain() !== true) return undefined;
  return Keeper.start(mountpoint, deathsMax, handover.descriptor);
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
  return startNativeMount(vfs.handlers, {
    ...common,
    intr,
    intrGraceMs,
    clock: runtime.clock,
    metrics: runtime.metrics,
    waits: runtime.waits,
  });
}
