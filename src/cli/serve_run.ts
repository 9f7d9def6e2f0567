/**
 * The server process behind `holdfast serve`: devices and port, activation, signals, end.
 *
 * A standby looks at the multi-mount block and tries the port every few milliseconds: no event comes when another host
 * writes, and each millisecond that the standby is late makes the pause of an upgrade longer.
 *
 * A standby that the version gate refuses exits with the gate's message, as a server without --standby does. So Pacemaker or
 * systemd learns at once that this node cannot have the target, and lets the node with the right version try.
 */

import { getHeapStatistics } from 'node:v8';
import type { AddressRange } from '../base/address_range.js';
import { FsError } from '../base/errno.js';
import { logger } from '../base/log.js';
import type { Level } from '../base/notices.js';
import { MetricTable } from '../runtime/metric_table.js';
import { nodeRuntime } from '../runtime/node_runtime.js';
import {
  type Address,
  type CertificateFiles,
  type FaultPoint,
  type Faults,
  formatAddress,
  NO_FAULTS,
  type Runtime,
} from '../runtime/ports.js';
import type { PlainAccess } from '../server/access/peers.js';
import { createServer, type Server } from '../server/server.js';
import { decideStart } from '../server/target/version_gate.js';
import type { Superblock } from '../storage/api.js';
import { describeHolder, type Owner } from '../storage/ownership/multi_mount_block.js';
import { type TakenTarget, takeTarget } from '../storage/take_target.js';
import { connectionsMax } from './descriptors.js';
import { CliError } from './failure.js';
import { formatBytes } from './format.js';
import { StandbyPort, standInLine } from './handover.js';
import { installedVersion, requiresOf } from './installed.js';
import { checkPrivateKey } from './key_file.js';
import { localAddress } from './local_servers.js';
import { render } from './metrics_http.js';
import { startNotices } from './notices.js';
import { isElsewhere } from './process_owner.js';
import { ServeHttp } from './serve_http.js';
import { announceReady } from './service_manager.js';
import { slowLog } from './slow_log.js';
import { StandbyListen } from './standby_listen.js';
import {
  type OpenDevices,
  type OpenMultiMount,
  openMultiMount,
  openTargetDevices,
  openUnlessHeld,
  type ResolvedPair,
  resolveDevices,
  targetFolder,
  withNames,
} from './target_devices.js';

const log = logger('cli:serve');

export interface ServeOptions {
  readonly meta: string;
  readonly data: string;
  readonly listen: Address;
  readonly standby?: boolean;
  readonly forceStart?: boolean;
  readonly redoLog: boolean;
  readonly drainTimeout: number;
  /** Milliseconds. */
  readonly heartbeatPeriod: number;
  readonly metrics?: Address;
  /** Of the live page. */
  readonly http?: Address;
  /** File with its key. */
  readonly httpKey?: string;
  /** Milliseconds. */
  readonly slow?: number;
  readonly tls: 'on' | 'off';
  /** With --tls=off. */
  readonly from?: readonly AddressRange[];
  /** All three or none. */
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly tlsCa?: string;
  readonly maxClients: number;
  readonly logLevel: Level;
}

/** @returns when the server has stopped in order. @throws CliError, FsError with a one-line message otherwise. */
export async function serve(options: ServeOptions): Promise<void> {
  const table = new MetricTable();
  const runtime = nodeRuntime(faultsOfTests(), table, await slowLog(options.slow));
  const version = installedVersion();
  const pair = await resolveDevices(options);
  let failed = false;
  const notices = startNotices(runtime, options.logLevel);
  let http: ServeHttp | undefined;
  const server = createServer(runtime, {
    listen: options.listen,
    softwareVersion: version,
    lowestPeer: requiresOf().lowestPeer,
    forceStart: options.forceStart,
    drainTimeoutMs: options.drainTimeout,
    clientsMax: options.maxClients,
    connectionsMax: connectionsMax(),
    memoryBytes: getHeapStatistics().heap_size_limit,
    pid: process.pid,
    plain: plainAccess(options),
    certificate: certificateFiles(options),
    // After a failure the user gets one line: the message of the failure.
    onState: (text, kind) => {
      http?.changed();
      if (failed) return;
      if (kind === undefined) notices.state(text);
      else notices.say(kind, text);
    },
    notices: () => notices.counts(),
    metricsText: () => render(table),
  });
  const stopping = new AbortController();
  const stopped = stopOnSignals(server, stopping);
  // A standby that an administrator shuts down through its port need not watch the devices any more.
  const closed = new AbortController();
  void server.closed.then(() => closed.abort());
  let block: OpenMultiMount | undefined;
  let taken: TakenTarget<OpenDevices> | undefined;
  let standbys: StandbyPort | undefined;
  try {
    await pair.reserve();
    http = new ServeHttp(runtime, server, table, options);
    await http.open();
    block = await openMultiMount(runtime, pair, { state: 'active', periodMs: options.heartbeatPeriod });
    const { multiMount } = block;
    void multiMount.lost.then(() => {
      failed = true;
    });
    const signal = AbortSignal.any([stopping.signal, closed.signal]);
    const node = { runtime, server, pair, block, options, version, signal };
    taken = await (options.standby === true ? standBy(node) : take(node));
    if (taken === undefined) {
      await server.stop();
      return;
    }
    await listenLocally(server, taken.store.superblock.label);
    await server.activate(taken.store);
    standbys = await StandbyPort.open(targetFolder(pair), pair.data.path);
    const { superblock, unusedBytes } = requireTarget(server).store;
    const { label, instance } = superblock;
    for (const [path, bytes] of [
      [options.meta, unusedBytes.meta],
      [options.data, unusedBytes.data],
    ] as const) {
      if (bytes === 0) continue;
      const text = `${path} is larger than formatted: ${formatBytes(bytes)} are not used; holdfast grow makes use of them`;
      process.stderr.write(`holdfast: ${text}\n`);
    }
    const serving = `serving ${label} on ${formatAddress(server.address)}, version ${version}, instance ${instance}`;
    process.stdout.write(`holdfast: ${serving}\n`);
    void announceReady(serving);
    stopped.serving();
    await server.closed;
    if (multiMount.failure !== undefined) throw multiMount.failure;
    await stopped.failed();
    if (server.failure !== undefined) throw new CliError(`the target failed: ${server.failure.message}`);
  } catch (thrown) {
    failed = true;
    await server.stop();
    throw withNames(pair, thrown);
  } finally {
    http?.close();
    // Whoever stands by finds the devices free when it is told that the target is its own.
    await taken?.devices.close();
    const successor = standbys?.successor;
    const gave = await block?.close(successor);
    await standbys?.close(gave === true ? successor : undefined);
    await pair.release();
  }
}

/** What --tls=off allows. Says it to whoever started the server. */
function plainAccess({ tls, from = [], listen }: ServeOptions): PlainAccess | undefined {
  if (tls === 'on') return undefined;
  const networks = from.map(({ text }) => text).join(', ');
  process.stderr.write(
    `holdfast: --tls=off: root of every host in ${networks} that reaches ${formatAddress(listen)} is root on the files\n`,
  );
  return { from };
}

/** @throws FsError EACCES for a private key that others may read. */
function certificateFiles({ tlsCert, tlsKey, tlsCa }: ServeOptions): CertificateFiles | undefined {
  if (tlsCert === undefined || tlsKey === undefined || tlsCa === undefined) return undefined;
  checkPrivateKey(tlsKey);
  return { certificate: tlsCert, key: tlsKey, ca: tlsCa };
}

/** Without the socket the server is reached by its address alone: no reason not to serve. */
async function listenLocally(server: Server, label: string): Promise<void> {
  const address = localAddress(label);
  try {
    await server.listenLocally(address);
  } catch (thrown) {
    if (!(thrown instanceof FsError)) throw thrown;
    const why = thrown.code === 'EBUSY' ? `another server of a filesystem ${label} has it` : thrown.message;
    process.stderr.write(
      `holdfast: ${formatAddress(address)} is not to be had (${why}): name HOST:PORT in mounts and commands\n`,
    );
  }
}

function requireTarget(server: Server): NonNullable<Server['target']> {
  if (server.target === undefined) throw new CliError('the server stopped while it started');
  return server.target;
}

/** Everything that a start and a standby need. */
interface Node {
  readonly runtime: Runtime;
  readonly server: Server;
  readonly pair: ResolvedPair;
  readonly block: OpenMultiMount;
  readonly options: ServeOptions;
  readonly version: string;
  readonly signal: AbortSignal;
}

/** @param holderChanged of a standby. @returns undefined if a signal, or a shutdown of the standby, ended the wait. */
function take(
  node: Node,
  holderChanged?: (owner: Owner) => void,
): Promise<TakenTarget<OpenDevices> | undefined> {
  const { runtime, server, pair, options, version, signal } = node;
  const { multiMount } = node.block;
  const standBy = holderChanged !== undefined;
  return takeTarget(runtime, {
    multiMount,
    standBy,
    holderChanged,
    signal,
    open: standBy ? () => openTargetDevices(pair) : () => openWithPort(server, node),
    judge: (superblock) => judge(superblock, version, options.forceStart === true),
    redoLog: options.redoLog,
    taking: ({ why, record }) => {
      if (record === undefined || why === 'clean') return;
      if (why === 'handed over') {
        process.stderr.write('holdfast: takes over: the server that had the target has handed it over\n');
        return;
      }
      const how = why === 'gone' ? 'that process is gone' : `silent for ${record.periodMs / 1000} s`;
      process.stderr.write(`holdfast: takes over: ${describeHolder(record)}, ${how}\n`);
    },
  });
}

/** Applies the version gate before this process claims the multi-mount block. The server applies it again. */
function judge(superblock: Superblock, version: string, forced: boolean): void {
  const decision = decideStart(superblock, version, forced);
  if (!decision.start) throw new FsError('EPERM', decision.message);
}

async function openWithPort(server: Server, node: Node): Promise<OpenDevices> {
  const devices = await openUnlessHeld(node.pair, node.block.multiMount);
  try {
    await server.listen();
  } catch (thrown) {
    await devices.close();
    throw thrown;
  }
  return devices;
}

/** @returns undefined if a signal, or a shutdown of the standby, ended the wait. */
async function standBy(node: Node): Promise<TakenTarget<OpenDevices> | undefined> {
  const { runtime, server, pair, options, signal } = node;
  const standingBy = `standing by for ${options.meta}, version ${node.version}`;
  process.stdout.write(`holdfast: ${standingBy}\n`);
  void announceReady(standingBy);
  const port = new StandbyListen(server, runtime.timers, signal);
  const { multiMount } = node.block;
  let line = new AbortController();
  // Each holder in turn has a socket in the same place. So a connection that is older than the look may be to the one before.
  const holderChanged = (owner: Owner): void => {
    line.abort();
    line = new AbortController();
    port.holderChanged(isElsewhere(owner));
    standInLine(targetFolder(pair), pair.data.path, multiMount, {
      accepted: () => port.holderServes(),
      signal: AbortSignal.any([signal, line.signal]),
    });
  };
  const taken = await take(node, holderChanged).finally(() => line.abort());
  try {
    if (taken !== undefined) await port.listening();
  } catch (thrown) {
    await taken?.store.close();
    await taken?.devices.close();
    throw thrown;
  }
  return taken;
}

/** For tests of recovery with real processes: with HOLDFAST_FAULTS=1, the server commits nothing from SIGUSR2 on. */
function faultsOfTests(): Faults {
  if (process.env.HOLDFAST_FAULTS !== '1') return NO_FAULTS;
  const armed = new Set<FaultPoint>();
  process.on('SIGUSR2', () => {
    armed.add('commit.hold');
    process.stderr.write('holdfast: SIGUSR2: nothing is committed from now on\n');
  });
  return { strikes: (point) => armed.has(point) };
}

/** SIGTERM and SIGINT begin a controlled shutdown, or end the wait of a standby. */
function stopOnSignals(
  server: Server,
  stopping: AbortController,
): { serving(): void; failed(): Promise<void> } {
  let ended: Promise<unknown> = Promise.resolve();
  const shutdown = (): void => {
    ended = server.shutdown().then((how) => {
      log('shutdown: %s', how);
    });
    // serve() awaits it when the server is closed.
    ended.catch(() => {});
  };
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    process.on(name, () => {
      if (stopping.signal.aborted) return;
      process.stderr.write(`holdfast: ${name}: controlled shutdown\n`);
      if (server.target === undefined) {
        stopping.abort();
        return;
      }
      shutdown();
    });
  }
  return {
    // Obeys a signal that came during the start.
    serving: () => {
      if (stopping.signal.aborted) shutdown();
    },
    failed: async () => {
      await ended;
    },
  };
}
