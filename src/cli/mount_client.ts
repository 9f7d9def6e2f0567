/** What a client process has, however it has got its mount (mount_begin.ts, mount_take_over.ts, mount_after_death.ts). */

import { hostname } from 'node:os';
import { removeEmptyLog } from '../../mount/daemonize.js';
import type { ChannelState, FuseMount, Negotiated } from '../../mount/fuse_mount.js';
import { groupsOf } from '../../mount/groups.js';
import { takeNativeMount } from '../../mount/native/driver.js';
import { packNegotiated } from '../../mount/negotiated.js';
import type { MountOptions } from '../../mount/options.js';
import { keepsSetId } from '../../mount/set_id.js';
import { logger } from '../base/log.js';
import type { Notices } from '../base/notices.js';
import type { ClientOptions, FsClient } from '../client/api.js';
import { MetricTable } from '../runtime/metric_table.js';
import { nodeRuntime } from '../runtime/node_runtime.js';
import { NO_FAULTS, type Runtime } from '../runtime/ports.js';
import { createVfs, type Vfs } from '../vfs/vfs.js';
import { clientProgram } from './client_program.js';
import { MOUNT_PATIENCE_MS, type Source } from './common.js';
import { proverOf } from './credentials.js';
import { EndSignals } from './end_signals.js';
import { describeFailure } from './failure.js';
import { installedVersion, requiresOf } from './installed.js';
import type { Keeper } from './keeper.js';
import { serveMetrics } from './metrics_http.js';
import type { Launch, RunningMount } from './mount_serve.js';
import { startNotices } from './notices.js';
import { hostNumber } from './process_owner.js';
import { slowLog } from './slow_log.js';
import { goOnArguments } from './takeover_request.js';

const log = logger('cli:mount');

export interface Surroundings {
  /** Tells the user who waits for the mount. */
  readonly says: (line: string) => void;
  /** Only a process in the background has one. */
  readonly logPath: string | undefined;
  readonly launch: Launch;
}

/** What a client process has before it is connected. */
export interface Prepared {
  readonly runtime: Runtime;
  readonly table: MetricTable;
  readonly notices: Notices;
  readonly vfs: Vfs;
  readonly signals: EndSignals;
  readonly clientOptions: ClientOptions;
  /** Hears of each connection that can be used. */
  readonly usable: { listener: () => void };
}

export async function prepare(
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
    connectTimeoutMs: options.retry ? undefined : MOUNT_PATIENCE_MS,
    signal: signals.beforeMount,
    leavePatienceMs: options.umountTimeoutMs,
    syncMetadata: options.syncMetadata,
    groupsOf,
    onTrouble: (text) => {
      const until = options.retry ? 'until a server takes the mount' : `for ${MOUNT_PATIENCE_MS / 1000} s`;
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

/** Serves a mount that another process has had. */
export function goOnServing(
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

/** Tells the keeper now, and at each connection, what to start if this process dies. */
export function tellKeeper(
  keeper: Keeper,
  client: FsClient,
  negotiated: Negotiated,
  launch: Launch,
  mountpoint: string,
  parts: Prepared,
): void {
  const program = [...clientProgram(), ...goOnArguments('--after-death', launch, mountpoint)];
  const packed = packNegotiated(negotiated);
  const tell = (): void => keeper.tell(program, { client: client.handover.orphan(), negotiated: packed });
  parts.usable.listener = tell;
  tell();
}

/** For calls that must not wait for a server (statfs). The mount may be handed over, or end, before the answer comes. */
export function learnRoot(client: FsClient): void {
  client
    .learnRoot({ uid: 0, gid: 0, signal: new AbortController().signal })
    .catch((thrown: unknown) => log('the root: %O', thrown));
}

/** How long the process before this one may keep the address of its metrics. */
const METRICS_PATIENCE_MS = 10_000;

/** The process before this one may still have the address. The mount is served whether this one gets it or not. */
export function serveMetricsAfter({ runtime, table }: Prepared, { metrics }: MountOptions): void {
  if (metrics === undefined) return;
  serveMetrics(runtime, table, metrics, { is: 'waited for', limitMs: METRICS_PATIENCE_MS }).catch(
    (thrown: unknown) => {
      process.stderr.write(`holdfast: ${describeFailure(thrown).line}\n`);
    },
  );
}

/** @returns when the mount has ended. If another process has it, this one ends here. */
export async function untilEnded({ ended }: RunningMount, logPath: string | undefined): Promise<void> {
  const how = await ended;
  // The timers of the client would keep the process, and what it still has is another process's now.
  if (how === 'handed over') process.exit(0);
  if (logPath !== undefined) removeEmptyLog(logPath);
}
