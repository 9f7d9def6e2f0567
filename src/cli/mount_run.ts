/**
 * The client process behind `holdfast mount` (mount_start.ts).
 *
 * Order of start: vfs, client (connected and recovered), mount, control socket, ready. Order
 * of end, whichever process unmounts: the kernel sends no more requests, the client flushes everything to the server and says
 * goodbye, the process exits.
 */

import { hostname } from 'node:os';
import { backgroundReporter, removeEmptyLog } from '../../mount/daemonize.js';
import type { FuseMount } from '../../mount/fuse_mount.js';
import { groupsOf } from '../../mount/groups.js';
import { startNativeMount } from '../../mount/native/driver.js';
import type { MountOptions } from '../../mount/options.js';
import { keepsSetId } from '../../mount/set_id.js';
import { tellUmount } from '../../mount/umount_helper.js';
import { MS_RDONLY } from '../../native/binding.js';
import { logger } from '../base/log.js';
import type { Level, Notices } from '../base/notices.js';
import type { FsClient } from '../client/api.js';
import { startClient } from '../client/client.js';
import { nodeRuntime } from '../runtime/node_runtime.js';
import { type Address, formatAddress, type Runtime } from '../runtime/ports.js';
import { createVfs, type Vfs } from '../vfs/vfs.js';
import type { Source } from './common.js';
import { mountLogPath, serveControl } from './control.js';
import { proverOf } from './credentials.js';
import { dieBy, EndedBySignal, EndSignals } from './end_signals.js';
import { CliError, describeFailure } from './failure.js';
import { formatBytes } from './format.js';
import { installedVersion } from './installed.js';
import { startNotices } from './notices.js';
import { hostNumber } from './process_owner.js';
import { announceReady } from './service_manager.js';
import { unmountWhenFree } from './unmount_when_free.js';

const log = logger('cli:mount');

const CONNECT_TIMEOUT_MS = 10_000;
/** How long an unmount by force, and a mount that failed, wait for a server that may still answer. */
const FORCED_FLUSH_MS = 2000;
/** An unmount that takes longer than this says what it waits for. */
const SAID_AFTER_MS = 2000;
/** How often `holdfast umount` learns how many bytes are left. */
const PROGRESS_MS = 200;

/**
 * @param mountpoint as checkMountpoint() returns it.
 * @returns when the mount has ended.
 */
export async function runMount(
  source: Source,
  mountpoint: string,
  options: MountOptions,
  level: Level,
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
    const running = await startMount(source, mountpoint, options, { says, logPath, level });
    if (reporter !== undefined) reporter.ready();
    else {
      const mounted = `mounted ${source.addresses.map(formatAddress).join(',')} on ${mountpoint}`;
      process.stdout.write(`holdfast: ${mounted}\n`);
      announceReady(mounted);
    }
    await running.ended;
    if (logPath !== undefined) removeEmptyLog(logPath);
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

/** The process ends before its client: the user unmounted by force, or there was no mount, and the server is away. */
class GivenUp extends CliError {
  override name = 'GivenUp';
}

interface RunningMount {
  /** Resolves when the mount is gone and everything is on the server; rejects if that fails. */
  readonly ended: Promise<void>;
}

interface Surroundings {
  /** Tells the user who waits for the mount. */
  readonly says: (line: string) => void;
  /** Only a process in the background has one. */
  readonly logPath: string | undefined;
  readonly level: Level;
}

async function startMount(
  source: Source,
  mountpoint: string,
  options: MountOptions,
  { says, logPath, level }: Surroundings,
): Promise<RunningMount> {
  const runtime = nodeRuntime();
  const notices = startNotices(runtime, level);
  const servers = source.addresses;
  const prover = proverOf(options.proofs, source.label);
  const vfs = createVfs({ keepsSetId, syncWrites: options.sync });
  const signals = new EndSignals();
  const client = await startClient(runtime, {
    addresses: servers,
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
  });
  vfs.attach(client);
  let kernel: FuseMount;
  try {
    await client.learnRoot({ uid: 0, gid: 0, signal: signals.beforeMount });
    signals.beforeMount.throwIfAborted();
    const mountFlags = client.isReadOnly() ? options.mountFlags | MS_RDONLY : options.mountFlags;
    kernel = await startKernelMount(runtime, vfs, servers, mountpoint, { ...options, mountFlags });
  } catch (thrown) {
    await leaveAfter(runtime, thrown, client.unmount());
    throw thrown;
  }
  vfs.bind(kernel.notifier);
  await tellUmount(servers.map(formatAddress).join(','), mountpoint);
  return serveMount(runtime, client, kernel, { mountpoint, logPath, notices }, signals);
}

/** Without a mount the client has nothing to write: a server that is away must not keep its process. */
async function leaveAfter(runtime: Runtime, thrown: unknown, left: Promise<void>): Promise<void> {
  const settled = left.catch((late: unknown) => log('leaving: %O', late));
  if (await settledWithin(runtime, settled, FORCED_FLUSH_MS)) return;
  if (thrown instanceof EndedBySignal) throw new GivenUp(thrown.message);
  const { line, exitCode } = describeFailure(thrown);
  throw new GivenUp(line, exitCode);
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

async function serveMount(
  runtime: Runtime,
  client: FsClient,
  kernel: FuseMount,
  {
    mountpoint,
    logPath,
    notices,
  }: { readonly mountpoint: string; readonly logPath: string | undefined; readonly notices: Notices },
  signals: EndSignals,
): Promise<RunningMount> {
  const flushed = kernel.closed.then(() => client.unmount());
  // The code below and the control socket await it. Until then a failure must not become an unhandled rejection.
  flushed.catch((thrown: unknown) => log('unmount: %O', thrown));
  let giveUp: (why: GivenUp) => void = () => undefined;
  const givenUp = new Promise<never>((_, reject) => {
    giveUp = reject;
  });
  givenUp.catch(() => undefined);
  const forced = async (): Promise<number | undefined> => {
    if (await settledWithin(runtime, flushed, FORCED_FLUSH_MS)) return undefined;
    const lostBytes = dirtyBytes(client);
    const text = `unmounted by force; ${formatBytes(lostBytes)} were not written to the server`;
    // Lets the answer leave first.
    setImmediate(() => giveUp(new GivenUp(text)));
    return lostBytes;
  };
  signals.mounted(
    unmountWhenFree({
      kernel,
      timers: runtime.timers,
      writeBack: () => client.writeBack(),
      says: (line) => process.stderr.write(`holdfast: ${line}\n`),
    }),
  );
  const control = await serveControl(mountpoint, async (request, progress) => {
    if (request.command === 'status')
      return { ...client.status(), mountpoint, log: logPath, notices: notices.counts() };
    await kernel.unmount(request.force ? 'force' : 'plain');
    const stop = reportEvery(runtime, () => progress({ dirtyBytes: dirtyBytes(client) }));
    try {
      if (request.force) return { lostBytes: await forced() };
      await flushed;
      return {};
    } finally {
      stop();
    }
  }).catch(async (thrown: unknown) => {
    // Without a control socket nobody could end the mount: takes it away, so that the process ends.
    await kernel.unmount('force');
    await leaveAfter(runtime, thrown, flushed);
    throw thrown;
  });
  void kernel.closed.then(() => sayWhatIsWaitedFor(runtime, client, flushed));
  const ended = Promise.race([flushed, givenUp]).finally(() => control.close());
  return { ended };
}

/** If the process stays after its mount is gone, it says why. */
async function sayWhatIsWaitedFor(runtime: Runtime, client: FsClient, flushed: Promise<void>): Promise<void> {
  // mount() reports a failure.
  const settled = flushed.catch(() => undefined);
  if (await settledWithin(runtime, settled, SAID_AFTER_MS)) return;
  const bytes = dirtyBytes(client);
  const what = bytes > 0 ? `, ${formatBytes(bytes)} are not written yet` : '';
  process.stderr.write(`holdfast: unmounted; waits for the server${what}\n`);
}

/** @returns whether the work ended in time. @throws if the work fails in time. */
function settledWithin(runtime: Runtime, work: Promise<void>, ms: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const timer = runtime.timers.after(ms, () => resolve(false));
    work.then(() => resolve(true), reject).finally(() => timer.cancel());
  });
}

function dirtyBytes(client: FsClient): number {
  return client.status().targets.reduce((sum, target) => sum + target.dirtyBytes, 0);
}

function reportEvery(runtime: Runtime, report: () => void): () => void {
  let timer = runtime.timers.after(PROGRESS_MS, tick, true);
  function tick(): void {
    report();
    timer = runtime.timers.after(PROGRESS_MS, tick, true);
  }
  return () => timer.cancel();
}
