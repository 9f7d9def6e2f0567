/**
 * Serves the metrics of this process over HTTP, for Prometheus: at an address, or at a Unix socket. There is no secret in them, but
 * names of operations and how much is done: a user who names no host gets loopback.
 *
 * It does not keep the process: a mount ends when it has ended.
 */

import { lstatSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { connect } from 'node:net';
import type { MetricTable } from '../runtime/metric_table.js';
import { type Address, formatAddress, type Runtime, sleep } from '../runtime/ports.js';
import { CliError } from './failure.js';

const CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8';
/** How often a process that goes on for another one looks whether that one has left the address. */
const AGAIN_MS = 50;
const PATIENCE_MS = 10_000;

export interface MetricsServer {
  close(): void;
}

/**
 * @param after the process before this one has the address until it ends: waits for that.
 * @throws CliError if the address cannot be had.
 */
export async function serveMetrics(
  { timers, clock }: Pick<Runtime, 'timers' | 'clock'>,
  table: MetricTable,
  address: Address,
  after = false,
): Promise<MetricsServer> {
  const untilMs = clock.nowMs() + (after ? PATIENCE_MS : 0);
  for (;;) {
    const server = makeServer(table);
    const error = await listen(server, address);
    if (error === undefined) {
      if (address.host.startsWith('/')) removeAtExit(address.host);
      return { close: () => server.close() };
    }
    if (error.code === 'EADDRINUSE' && (await isLeftBehind(address))) {
      rmSync(address.host, { force: true });
      continue;
    }
    if (error.code !== 'EADDRINUSE' || clock.nowMs() >= untilMs) {
      throw new CliError(`cannot serve metrics at ${formatAddress(address)}: ${error.message}`, 1, {
        cause: error,
      });
    }
    await sleep(timers, AGAIN_MS);
  }
}

/** Unless it is another process's by then. */
function removeAtExit(path: string): void {
  const { ino } = lstatSync(path);
  process.once('exit', () => {
    if (lstatSync(path, { throwIfNoEntry: false })?.ino === ino) rmSync(path, { force: true });
  });
}

function makeServer(table: MetricTable): Server {
  const server = createServer((request, response) => {
    if (request.url !== '/metrics') {
      response.writeHead(404).end('see /metrics\n');
      return;
    }
    render(table).then(
      (text) => response.writeHead(200, { 'content-type': CONTENT_TYPE }).end(text),
      (thrown: unknown) => response.writeHead(500).end(`${String(thrown)}\n`),
    );
  });
  server.on('connection', (socket) => socket.unref());
  server.unref();
  return server;
}

/** Loads prom-client when somebody asks, not before. */
export async function render(table: MetricTable): Promise<string> {
  const { renderMetrics } = await import('../runtime/node_metrics.js');
  return renderMetrics(table);
}

function listen(server: Server, { host, port }: Address): Promise<NodeJS.ErrnoException | undefined> {
  return new Promise((resolve) => {
    server.once('error', resolve);
    const listening = (): void => resolve(undefined);
    if (host.startsWith('/')) server.listen(host, listening);
    else server.listen(port, host, listening);
  });
}

/** Whether this is a Unix socket at which nobody listens: its process was killed. */
function isLeftBehind({ host }: Address): Promise<boolean> {
  if (!host.startsWith('/')) return Promise.resolve(false);
  return new Promise((resolve) => {
    const socket = connect(host);
    socket.once('connect', () => {
      socket.destroy();
      resolve(false);
    });
    socket.once('error', ({ code }: NodeJS.ErrnoException) => resolve(code === 'ECONNREFUSED'));
  });
}
