/**
 * What `holdfast top` shows: the difference between two readings of the metrics of a mount or a server. Pure, so that a test needs
 * no mount. It knows metrics by their names alone: a process of another version may lack some, and then shows 0.
 */

import { bucketQuantile } from '../base/bucket_quantile.js';
import { formatBytes } from './format.js';

interface Distribution {
  /** By their upper limits, in rising order: how many took at most this long. */
  readonly buckets: Map<number, number>;
  count: number;
}

/** One reading of metrics in Prometheus' text format. */
export class Reading {
  readonly #values = new Map<string, number>();
  readonly #distributions = new Map<string, Map<string, Distribution>>();
  version = '';

  constructor(text: string) {
    for (const line of text.split('\n')) {
      const [, name, labels = '', value] = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
      if (name !== undefined && value !== undefined) this.#line(name, labels, Number(value));
    }
  }

  #line(name: string, labels: string, value: number): void {
    const [, of, part] = /^(.+)_(bucket|count)$/.exec(name) ?? [];
    const operation = label(labels, 'operation');
    if (name === 'holdfast_build_info') this.version = label(labels, 'version') ?? '';
    if (of === undefined || operation === undefined) {
      this.#values.set(name, (this.#values.get(name) ?? 0) + value);
      this.#values.set(`${name}{${labels}}`, value);
      if (name.endsWith('_errors_total') && operation !== undefined) {
        const key = `${name}/${operation}`;
        this.#values.set(key, (this.#values.get(key) ?? 0) + value);
      }
      return;
    }
    const distribution = this.#distribution(of, operation);
    if (part === 'count') distribution.count = value;
    else distribution.buckets.set(Number(label(labels, 'le')?.replace('+Inf', 'Infinity')), value);
  }

  #distribution(name: string, operation: string): Distribution {
    let family = this.#distributions.get(name);
    if (family === undefined) {
      family = new Map();
      this.#distributions.set(name, family);
    }
    let found = family.get(operation);
    if (found === undefined) {
      found = { buckets: new Map(), count: 0 };
      family.set(operation, found);
    }
    return found;
  }

  /** Of the line with these labels, or the sum of all lines of this name. 0: there is none. */
  value(name: string): number {
    return this.#values.get(name) ?? 0;
  }

  of(name: string): ReadonlyMap<string, Distribution> {
    return this.#distributions.get(name) ?? new Map();
  }
}

function label(labels: string, name: string): string | undefined {
  return new RegExp(`(?:^|,)${name}="((?:[^"\\\\]|\\\\.)*)"`).exec(labels)?.[1];
}

export interface OperationRate {
  readonly operation: string;
  readonly perSecond: number;
  readonly errorsPerSecond: number;
  readonly p50Seconds: number;
  readonly p99Seconds: number;
}

export interface TopView {
  readonly side: 'client' | 'server';
  readonly version: string;
  /** Between the two readings. */
  readonly seconds: number;
  /** The most frequent first; without those that did not occur. */
  readonly operations: readonly OperationRate[];
  readonly readBytesPerSecond: number;
  readonly writeBytesPerSecond: number;
  /** As they are now. */
  readonly now: Readonly<Record<string, number>>;
}

const NOW: Readonly<Record<'client' | 'server', Readonly<Record<string, string>>>> = {
  client: {
    dirtyBytes: 'holdfast_client_dirty_bytes',
    cacheBytes: 'holdfast_client_cache_bytes',
    locks: 'holdfast_client_locks',
    opens: 'holdfast_client_opens',
    parked: 'holdfast_client_parked_operations',
    rpcsInFlight: 'holdfast_client_rpcs_in_flight',
    pausedSeconds: 'holdfast_client_paused_seconds',
    longestPauseSeconds: 'holdfast_client_longest_pause_seconds',
  },
  server: {
    clients: 'holdfast_server_clients',
    locks: 'holdfast_server_locks',
    opens: 'holdfast_server_opens',
    heldRequests: 'holdfast_server_held_requests',
    uncommitted: 'holdfast_server_uncommitted_operations',
    freeBytes: 'holdfast_storage_free_bytes',
  },
};

export function topView(
  side: 'client' | 'server',
  before: Reading,
  after: Reading,
  seconds: number,
): TopView {
  const prefix = side === 'client' ? 'holdfast_fuse' : 'holdfast_server_rpc';
  const rate = (name: string): number => Math.max(0, after.value(name) - before.value(name)) / seconds;
  const operations = [...after.of(`${prefix}_seconds`)].flatMap(([operation, now]) => {
    const then = before.of(`${prefix}_seconds`).get(operation);
    const count = now.count - (then?.count ?? 0);
    // A process that has begun anew counts from 0.
    if (count <= 0) return [];
    return {
      operation,
      perSecond: count / seconds,
      errorsPerSecond: rate(`${prefix}_errors_total/${operation}`),
      p50Seconds: quantile(0.5, now, then),
      p99Seconds: quantile(0.99, now, then),
    };
  });
  return {
    side,
    version: after.version,
    seconds,
    operations: operations.sort((a, b) => b.perSecond - a.perSecond),
    readBytesPerSecond: rate(`holdfast_${side}_bytes_total{direction="read"}`),
    writeBytesPerSecond: rate(`holdfast_${side}_bytes_total{direction="write"}`),
    now: Object.fromEntries(Object.entries(NOW[side]).map(([key, name]) => [key, after.value(name)])),
  };
}

function quantile(q: number, now: Distribution, then: Distribution | undefined): number {
  let below = 0;
  const alone = [...now.buckets].map(([upper, count]): readonly [number, number] => {
    // Prometheus counts in each bucket what lies in those before it too.
    const within = count - (then?.buckets.get(upper) ?? 0);
    const own = within - below;
    below = within;
    return [upper, own];
  });
  return bucketQuantile(q, alone);
}

export function topText(what: string, view: TopView, rowsMax = 20): string {
  const perSecond = (bytes: number): string => `${formatBytes(Math.round(bytes))}/s`;
  const total = view.operations.reduce((sum, one) => sum + one.perSecond, 0);
  const rows = [
    ['OPERATION', 'PER SECOND', 'ERRORS', 'P50', 'P99'],
    ...view.operations
      .slice(0, rowsMax)
      .map(({ operation, perSecond: rate, errorsPerSecond, p50Seconds, p99Seconds }) => [
        operation,
        rate.toFixed(1),
        errorsPerSecond.toFixed(1),
        duration(p50Seconds),
        duration(p99Seconds),
      ]),
  ];
  const widths = rows[0]?.map((_, at) => Math.max(...rows.map((cells) => cells[at]?.length ?? 0))) ?? [];
  const lines = rows.map((cells) =>
    cells
      .map((cell, at) => (at === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[at] ?? 0)))
      .join('  '),
  );
  const now = Object.entries(view.now).map(
    ([key, value]) => `${key.replace(/Bytes$|Seconds$/, '')} ${shown(key, value)}`,
  );
  return [
    `${view.side} ${what}, version ${view.version}: ${total.toFixed(1)} operations/s, read ${perSecond(view.readBytesPerSecond)}, written ${perSecond(view.writeBytesPerSecond)}`,
    now.join('  '),
    '',
    ...lines,
  ].join('\n');
}

function shown(key: string, value: number): string {
  if (key.endsWith('Bytes')) return formatBytes(value);
  return key.endsWith('Seconds') ? duration(value) : String(value);
}

function duration(seconds: number): string {
  if (seconds === 0) return '0';
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} us`;
  return seconds < 1 ? `${(seconds * 1000).toFixed(1)} ms` : `${seconds.toFixed(2)} s`;
}
