/**
 * A client process that makes its mount: `holdfast mount`, in the background or in the foreground.
 *
 * Order of start: vfs, client (connected and recovered), mount, control socket, ready. Order
 * of end, whichever process unmounts: the kernel sends no more requests, the client flushes everything to the server and says
 * goodbye, the process exits.
 */

import { backgroundReporter } from '../../mount/daemonize.js';
import type { FuseMount } from '../../mount/fuse_mount.js';
import { startNativeMount } from '../../mount/native/driver.js';
import type { MountOptions } from '../../mount/options.js';
import { tellUmount } from '../../mount/umount_helper.js';
import { MS_RDONLY } from '../../native/binding.js';
import { printable } from '../base/printable.js';
import { startClient } from '../client/client.js';
import { type Address, formatAddress, type Runtime } from '../runtime/ports.js';
import type { Vfs } from '../vfs/vfs.js';
import type { Source } from './common.js';
import { mountLogPath } from './control.js';
import { DescriptorStore } from './descriptor_store.js';
import { dieBy, EndedBySignal } from './end_signals.js';
import { describeFailure } from './failure.js';
import { giveToKeeper } from './fuse_descriptors.js';
import { type Keeper, KeeperProcess } from './keeper.js';
import { serveMetrics } from './metrics_http.js';
import { prepare, type Surroundings, tellKeeper, untilEnded } from './mount_client.js';
import { GivenUp, type Launch, leaveAfter, type RunningMount, serveMount } from './mount_serve.js';
import { announceReady } from './service_manager.js';

/**
 * @param mountpoint as checkMountpoint() returns it.
 * @returns when the mount has ended.
 */
export async function beginMount(
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
      void announceReady(mounted);
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
  const keeper = startKeeper(kernel, mountpoint, options, launch, logPath !== undefined);
  if (keeper !== undefined && kernel.handover !== undefined) {
    tellKeeper(keeper, client, kernel.handover.negotiated(), launch, mountpoint, parts);
    await keeper.keep();
  }
  return serveMount({ ...parts, client, kernel, mountpoint, logPath, launch, keeper });
}

function startKeeper(
  kernel: FuseMount,
  mountpoint: string,
  { deathsMax }: MountOptions,
  { source }: Launch,
  inBackground: boolean,
): Keeper | undefined {
  const { handover } = kernel;
  if (handover === undefined) return undefined;
  const { descriptor } = handover;
  const negotiated = handover.negotiated();
  if (!inBackground) return DescriptorStore.start(mountpoint, source, descriptor, negotiated);
  return giveToKeeper(descriptor, negotiated, (given) => KeeperProcess.start(mountpoint, deathsMax, given));
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
