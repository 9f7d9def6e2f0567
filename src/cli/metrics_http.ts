/**
 * Serves the metrics of this process over HTTP, for Prometheus: at an address, or at a Unix socket. There is no secret in them, but
 * names of operations and how much is done: a user who names no host gets loopback.
 */

import { createServer, type Server } from 'node:http';
import type { MetricTable } from '../runtime/metric_table.js';
import type { Address, Runtime } from '../runtime/ports.js';
import { type BusyAddress, listenHttp } from './http_listener.js';

const CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

/**
 * @param busy what to do while another process has the address.
 * @throws CliError if the address cannot be had.
 */
export async function serveMetrics(
  runtime: Pick<Runtime, 'timers' | 'clock'>,
  table: MetricTable,
  address: Address,
  busy: BusyAddress = { is: 'failure' },
): Promise<void> {
  await listenHttp(runtime, makeServer(table), { what: 'metrics', address, busy });
}

function makeServer(table: MetricTable): Server {
  return createServer((request, response) => {
    if (request.url !== '/metrics') {
      response.writeHead(404).end('see /metrics\n');
      return;
    }
    render(table).then(
      (text) => response.writeHead(200, { 'content-type': CONTENT_TYPE }).end(text),
      (thrown: unknown) => response.writeHead(500).end(`${String(thrown)}\n`),
    );
  });
}

/** Loads prom-client when somebody asks, not before. */
export async function render(table: MetricTable): Promise<string> {
  const { renderMetrics } = await import('../runtime/node_metrics.js');
  return renderMetrics(table);
}
