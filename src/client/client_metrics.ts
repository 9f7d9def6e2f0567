/** What a client shows of itself to monitoring, beside what its parts count (docs/MONITORING.md). */

import type { Metrics } from '../runtime/ports.js';
import type { ClientOptions, Predecessor } from './api.js';
import type { ClientContext } from './cache/context.js';
import { drainSeconds } from './lifecycle/drain.js';
import type { TargetSession } from './session/target_session.js';

export function registerClientMetrics(
  metrics: Metrics,
  context: ClientContext,
  target: TargetSession,
  { softwareVersion }: ClientOptions,
  from: Predecessor | undefined,
): void {
  const gauge = metrics.gauge.bind(metrics);
  const total = metrics.total.bind(metrics);
  const version = softwareVersion;
  gauge('holdfast_build_info', 'What runs here; the value is 1', () => 1, { version, side: 'client' });
  total('holdfast_client_takeovers_total', 'Processes that this one has taken the mount over from', () =>
    from?.kind === 'handed over' ? 1 : 0,
  );
  total('holdfast_client_deaths_total', 'Client processes that died before this one', () =>
    from?.kind === 'dead' ? 1 : 0,
  );
  registerGate(metrics, target);
  gauge('holdfast_client_dirty_bytes', 'Bytes that programs wrote and that are not on the server', () =>
    context.dirtyBytes(target),
  );
  gauge(
    'holdfast_client_dirty_limit_bytes',
    'With more dirty bytes, writers wait',
    () => context.dirtyLimitBytes,
  );
  gauge('holdfast_client_locks', 'Cache locks that the client holds', () => target.locks.size);
  gauge('holdfast_client_app_locks', 'Application locks, granted and waiting', () => target.appLocks.size);
  gauge(
    'holdfast_client_opens',
    'Open files and directories',
    () => context.handles.ofTarget(target.index).length,
  );
  gauge('holdfast_client_rpcs_in_flight', 'Calls without an answer', () => target.requester.inFlight);
  gauge(
    'holdfast_client_unsent_changes',
    'Changes made here that the server has not answered',
    () => target.changes.size,
  );
  gauge(
    'holdfast_client_replay_operations',
    'Operations that the server would have to execute again after a crash',
    () => target.replays.size,
  );
  gauge('holdfast_client_replay_bytes', 'Content of those operations', () => target.replays.bulkBytes);
  total(
    'holdfast_client_evictions_total',
    'How often the server has evicted this client',
    () => target.evictionCount,
  );
  total(
    'holdfast_client_lost_app_locks_total',
    'Application locks lost with a crash of the server',
    () => target.lostAppLocks,
  );
  registerCaches(metrics, context);
  drainSeconds(metrics);
}

function registerGate(metrics: Metrics, target: TargetSession): void {
  const { gate } = target;
  metrics.gauge(
    'holdfast_client_paused_seconds',
    'How long the gate is shut already; 0: it is open',
    () => gate.awayMs / 1000,
  );
  metrics.gauge(
    'holdfast_client_longest_pause_seconds',
    'The longest pause since the process began',
    () => target.longestPauseSeconds,
  );
  metrics.gauge('holdfast_client_parked_operations', 'Operations that wait at the gate', () => gate.parked);
}

function registerCaches(metrics: Metrics, { pages, attrs, names, uses }: ClientContext): void {
  metrics.gauge('holdfast_client_cache_limit_bytes', 'Limit of the page cache', () => pages.limitBytes);
  metrics.gauge('holdfast_client_cache_bytes', 'Content of files in the cache', () => pages.bytes);
  metrics.gauge(
    'holdfast_client_cached_attributes',
    'Inodes whose attributes are in the cache',
    () => attrs.size,
  );
  metrics.gauge('holdfast_client_cached_names', 'Names in the cache', () => names.size);
  for (const cache of ['pages', 'attributes', 'names'] as const) {
    for (const result of ['hit', 'miss'] as const) {
      metrics.total(
        'holdfast_client_cache_requests_total',
        'Requests of the kernel by whether the cache had the answer',
        () => uses[cache][result],
        { cache, result },
      );
    }
  }
  for (const direction of ['read', 'write'] as const) {
    metrics.total(
      'holdfast_client_bytes_total',
      'Bytes that the kernel read and wrote',
      () => uses.bytes[direction],
      {
        direction,
      },
    );
  }
}
