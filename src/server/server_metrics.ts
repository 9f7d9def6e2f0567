/** What a server shows of itself to monitoring, beside what its parts count (docs/MONITORING.md). */

import type { ClientUuid } from '../base/ids.js';
import { SERVER_STATES } from '../wire/admin.js';
import { drainSeconds } from './lifecycle/drain.js';
import type { Admission } from './session/admission.js';
import type { ServerView } from './session/server_view.js';
import type { Throttle } from './session/throttle.js';

export function registerServerMetrics(
  server: ServerView,
  admission: Pick<Admission, 'held'>,
  throttle: Pick<Throttle, 'waiting' | 'waits'>,
): void {
  const { metrics } = server.runtime;
  const { softwareVersion: version } = server.settings;
  const gauge = metrics.gauge.bind(metrics);
  gauge('holdfast_build_info', 'What runs here; the value is 1', () => 1, { version, side: 'server' });
  for (const state of SERVER_STATES) {
    gauge(
      'holdfast_server_state',
      'The state of the server has the value 1',
      () => Number(server.state === state),
      {
        state,
      },
    );
  }
  gauge('holdfast_server_clients', 'Clients with an export', () => server.target?.exports.size ?? 0);
  gauge('holdfast_server_held_requests', 'Requests held until recovery ends', () => admission.held);
  gauge(
    'holdfast_server_throttled_connections',
    'Connections that wait because their key has used up its requests a second',
    () => throttle.waiting,
  );
  metrics.total(
    'holdfast_server_throttle_waits_total',
    'How often a connection has had to wait so',
    () => throttle.waits,
  );
  gauge(
    'holdfast_server_reading_bytes',
    'Bytes that the device is reading for clients',
    () => server.target?.reads.bytes ?? 0,
  );
  gauge(
    'holdfast_server_promised_bytes',
    'Space granted to clients',
    () => server.target?.grants.promisedBytes ?? 0,
  );
  gauge('holdfast_server_locks', 'Cache locks of all clients, granted and waiting', () =>
    sum(server, (uuid) => server.target?.locks.count(uuid)),
  );
  gauge('holdfast_server_opens', 'Open files of all clients', () => server.target?.opens.handles ?? 0);
  gauge('holdfast_server_uncommitted_operations', 'Operations executed and not yet committed', () => {
    const store = server.target?.store;
    return store === undefined ? 0 : store.lastTransno - store.lastCommitted;
  });
  for (const direction of ['read', 'write'] as const) {
    metrics.total(
      'holdfast_server_bytes_total',
      'Content that clients have read and written since the server has its target',
      () => server.target?.bytes[direction] ?? 0,
      { direction },
    );
  }
  registerRecovery(server);
  drainSeconds(metrics);
}

function registerRecovery(server: ServerView): void {
  const { metrics } = server.runtime;
  const of = (read: 'waitedFor' | 'away' | 'replayed'): number => server.recovery?.status()[read] ?? 0;
  metrics.gauge('holdfast_server_recovery_open', 'Recovery is under way', () =>
    Number(server.recovery?.isOpen ?? false),
  );
  metrics.gauge('holdfast_server_recovery_waited_for', 'Clients that recovery waits for', () =>
    of('waitedFor'),
  );
  metrics.gauge('holdfast_server_recovery_missing', 'Those of them that have not connected', () =>
    of('away'),
  );
  metrics.gauge('holdfast_server_recovery_replayed', 'Operations replayed in the last recovery', () =>
    of('replayed'),
  );
  metrics.gauge(
    'holdfast_server_recovery_seconds',
    'How long the last recovery took, or lasts already',
    () => (server.recovery?.status().tookMs ?? 0) / 1000,
  );
}

function sum(server: ServerView, of: (uuid: ClientUuid) => number | undefined): number {
  let all = 0;
  for (const { uuid } of server.target?.exports ?? []) all += of(uuid) ?? 0;
  return all;
}
