/**
 * The server process behind `holdfast serve`: devices and port, activation, signals, end.
 *
 * A standby tries the devices and the port every few milliseconds: there is no event for "another process has closed a
 * block device", and the pause of an upgrade is as long as this is late. What it may have cached of the devices is
 * dropped before it reads them: another host may have written them.
 */

import { createServer as createHttpServer, type Server as HttpServer } from 'node:http';
import { FsError } from '../base/errno.js';
import { logger } from '../base/log.js';
import { type NodeRuntime, nodeRuntime } from '../runtime/node_runtime.js';
import { type Address, sleep } from '../runtime/ports.js';
import { createServer, type Server } from '../server/server.js';
import { openTarget } from '../storage/target.js';
import { CliError, formatAddress } from './common.js';
import { installedVersion } from './installed.js';
import type { ServeOptions } from './serve.js';
import { announceReady } from './service_manager.js';
import {
  type OpenDevices,
  openTargetDevices,
  type ResolvedPair,
  resolveDevices,
  withNames,
} from './target_devices.js';

const log = logger('cli:serve');

const STANDBY_POLL_MS = 5;

/** @returns when the server has stopped in order. @throws CliError, FsError with a one-line message otherwise. */
export async function serve(options: ServeOptions): Promise<void> {
  const runtime = nodeRuntime();
  const version = installedVersion();
  const pair = await resolveDevices(options);
  let failed = false;
  const server = createServer(runtime, {
    listen: options.listen,
    softwareVersion: version,
    forceStart: options.forceStart,
    drainTimeoutMs: options.drainTimeout,
    pid: process.pid,
    // After a failure its message is the one line that the user gets.
    onState: (text) => failed || process.stderr.write(`holdfast: ${text}\n`),
  });
  const stopping = new AbortController();
  const stopped = stopOnSignals(server, stopping);
  let metrics: HttpServer | undefined;
  let devices: OpenDevices | undefined;
  try {
    metrics = await serveMetrics(runtime, options.metrics);
    devices =
      options.standby === true
        ? await standBy(runtime, server, pair, options, stopping.signal)
        : await openActive(server, pair);
    if (devices === undefined) {
      await server.stop();
      return;
    }
    await server.activate(await openTarget(runtime, devices));
    const { label, instance } = requireTarget(server).store.superblock;
    const serving = `serving ${label} on ${formatAddress(server.address)}, version ${version}, instance ${instance}`;
    process.stdout.write(`holdfast: ${serving}\n`);
    announceReady(serving);
    await server.closed;
    await stopped.failed();
    if (server.failure !== undefined) throw new CliError(`the target failed: ${server.failure.message}`);
  } catch (thrown) {
    failed = true;
    await server.stop();
    throw withNames(pair, thrown);
  } finally {
    metrics?.close();
    await devices?.close();
    await pair.release();
  }
}

function requireTarget(server: Server): NonNullable<Server['target']> {
  if (server.target === undefined) throw new CliError('the server stopped while it started');
  return server.target;
}

async function openActive(server: Server, pair: ResolvedPair): Promise<OpenDevices> {
  const devices = await openTargetDevices(pair);
  try {
    await server.listen();
  } catch (thrown) {
    await devices.close();
    throw thrown;
  }
  return devices;
}

/** @returns undefined when a signal ended the wait. */
async function standBy(
  runtime: NodeRuntime,
  server: Server,
  pair: ResolvedPair,
  options: ServeOptions,
  signal: AbortSignal,
): Promise<OpenDevices | undefined> {
  const standingBy = `standing by for ${options.meta}, version ${installedVersion()}`;
  process.stdout.write(`holdfast: ${standingBy}\n`);
  announceReady(standingBy);
  const listening = untilFree(runtime, signal, () => server.listen());
  // Awaited below; until then a failure of it must not go unheard as a rejection nobody handles.
  listening.catch(() => {});
  const devices = await untilFree(runtime, signal, () => openTargetDevices(pair));
  if (devices === undefined) return undefined;
  log('the devices are free');
  try {
    await devices.meta.dropCache();
    await devices.data.dropCache();
    await listening;
    return devices;
  } catch (thrown) {
    await devices.close();
    throw thrown;
  }
}

/** Tries again while it is EBUSY. @returns undefined when the signal aborted. */
async function untilFree<T>(
  runtime: NodeRuntime,
  signal: AbortSignal,
  attempt: () => Promise<T>,
): Promise<T | undefined> {
  while (!signal.aborted) {
    try {
      return await attempt();
    } catch (thrown) {
      if (!(thrown instanceof FsError) || thrown.code !== 'EBUSY') throw thrown;
    }
    await sleep(runtime.timers, STANDBY_POLL_MS);
  }
  return undefined;
}

/** SIGTERM and SIGINT: controlled shutdown, or the end of the wait of a standby. */
function stopOnSignals(server: Server, stopping: AbortController): { failed(): Promise<void> } {
  let ended: Promise<unknown> = Promise.resolve();
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    process.on(name, () => {
      if (stopping.signal.aborted) return;
      process.stderr.write(`holdfast: ${name}: controlled shutdown\n`);
      if (server.target === undefined) {
        stopping.abort();
        return;
      }
      ended = server.shutdown().then((how) => {
        log('shutdown: %s', how);
      });
      // Looked at by serve() when the server is closed.
      ended.catch(() => {});
    });
  }
  return {
    failed: async () => {
      await ended;
    },
  };
}

async function serveMetrics(
  runtime: NodeRuntime,
  address: Address | undefined,
): Promise<HttpServer | undefined> {
  if (address === undefined) return undefined;
  const server = createHttpServer((request, response) => {
    if (request.url !== '/metrics') {
      response.writeHead(404).end('see /metrics\n');
      return;
    }
    runtime.renderMetrics().then(
      (text) => response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4' }).end(text),
      (thrown: unknown) => response.writeHead(500).end(`${String(thrown)}\n`),
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(
        new CliError(`cannot serve metrics at ${formatAddress(address)}: ${cause.message}`, 1, { cause }),
      ),
    );
    server.listen(address.port, address.host, resolve);
  });
  return server;
}
