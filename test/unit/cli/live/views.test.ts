/** What the live pages say, and that nothing of it can lead a browser or a terminal astray. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Facts, HostFacts } from '../../../../src/cli/fleet/facts.js';
import { parseFleet } from '../../../../src/cli/fleet/file.js';
import { beginState, type FleetState } from '../../../../src/cli/fleet/state.js';
import { CHART, chartOf, niceTop, SPAN_MS } from '../../../../src/cli/live/chart.js';
import { type FleetSeen, fleetView } from '../../../../src/cli/live/fleet_view.js';
import { OperationRates, quantile } from '../../../../src/cli/live/operation_rates.js';
import { type ServerSeen, serverView } from '../../../../src/cli/live/server_view.js';
import type { ServerPageView } from '../../../../src/cli/live/shapes.js';
import { shortNumber, timeText } from '../../../../src/cli/live/words.js';
import { BUCKETS_SECONDS, MetricTable } from '../../../../src/runtime/metric_table.js';
import type { WatchedClient } from '../../../../src/server/watched_clients.js';
import type { StatusReply } from '../../../../src/wire/admin.js';

const STATUS: StatusReply = {
  state: 'active',
  label: 'home',
  targetUuid: 'uuid',
  softwareVersion: '1.0.0+abc',
  instance: 4,
  uptimeMs: 65_000,
  clients: [],
  blocks: 1000,
  blocksFree: 250,
  blockBytes: 4096,
  inodes: 7,
  lastTransno: 12,
  lastCommitted: 10,
  evicted: [],
  orphans: 0,
};

function client(uuid: string, more: Partial<WatchedClient> = {}): WatchedClient {
  const none = { opens: 0, locks: 0, dirtyBytes: 0, rpcsInFlight: 0, idleMs: 0, lockWaits: 0, calledBack: 0 };
  return {
    uuid,
    name: `${uuid}:/mnt`,
    state: 'connected',
    softwareVersion: '1.0.0',
    ...none,
    requests: 0,
    isWaitedFor: false,
    isHere: true,
    ...more,
  };
}

function view(
  status: Partial<StatusReply>,
  clients: readonly WatchedClient[] = [],
  more: Partial<ServerSeen> = {},
): ServerPageView {
  const waitedFor = clients.filter(({ isWaitedFor }) => isWaitedFor).length;
  const watched = {
    status: { ...STATUS, ...status },
    clients,
    count: clients.length,
    waitedFor,
    drained: clients.length - waitedFor,
  };
  return serverView({ watched, points: [], rates: [], stateMs: 3000, devices: '/dev/meta', ...more });
}

test('the page of a server says what it waits for, and since when', () => {
  const waited = [
    client('a', { isWaitedFor: true, state: 'draining', dirtyBytes: 2048, rpcsInFlight: 1 }),
    client('b', { state: 'drained' }),
  ];
  const recovery = {
    clients: 3,
    waitedFor: 1,
    away: 1,
    replayed: 5,
    queued: 0,
    leftMs: 20_000,
    tookMs: 3000,
  };
  const away = [client('c', { isWaitedFor: true, isHere: false, state: 'recovering' })];
  assert.deepEqual(
    [
      view({ state: 'standby', label: '' }).headline,
      view({}).headline,
      view({ state: 'draining', drainLeftMs: 12_000 }, waited).headline,
      view({ state: 'draining', drainLeftMs: 12_000 }, waited).announcement,
      view({ state: 'committing' }).headline,
      view({ state: 'recovering', recovery: { ...recovery, open: true } }, away).headline,
      view({ state: 'stopped' }).headline,
    ],
    [
      'Standing by: takes /dev/meta when the server that has it leaves.',
      'Serving 0 clients, for 1 min 5 s.',
      'Shutting down: waiting for a:/mnt since 3.0 s; evicts in 12 s.',
      'Shutting down: waiting for a:/mnt',
      'Shutting down: everything is being written to the devices since 3.0 s.',
      'Recovering: 2 of 3 clients back, waiting for c:/mnt since 3.0 s; gives up on them in 20 s.',
      'Shut down. The next server goes on.',
    ],
  );
  const draining = view({ state: 'draining' }, waited);
  assert.deepEqual(draining.progress, { text: '1 of 2 clients drained', done: 1, of: 2 });
  assert.deepEqual(
    draining.clients.map(({ waits, dirty, tone }) => [waits, dirty, tone]),
    [
      ['has to write 2.0 KiB, 1 request under way', '2.0 KiB', 'busy'],
      ['waits for the next server', '0 B', 'idle'],
    ],
  );
});

test('a client in service shows what it waits for', () => {
  const rows = view({}, [
    client('a', { lockWaits: 2, calledBack: 1, requests: 3 }),
    client('b', { requests: 1 }),
    client('c', { throttledMs: 5 }),
    client('d', { isHere: false, state: 'disconnected', idleMs: 4000 }),
  ]).clients.map(({ waits }) => waits);
  assert.deepEqual(rows, [
    'waits for 2 locks, has to give back 1 lock',
    '1 request under way',
    "waits for its key's limit of requests",
    'away for 4.0 s',
  ]);
});

test('names of peers cannot break out of their line', () => {
  const name = 'web\u001b[2J\u202e<script>alert(1)</script>\n&amp;';
  const evil = client('a', {
    name,
    softwareVersion: `1\u001b]0;x\u0007`,
    isWaitedFor: true,
    state: 'draining',
  });
  const gone = { uuid: 'b', name, reason: `${name} again` };
  const page = view({ state: 'draining', label: name, evicted: [gone] }, [evil]);
  const texts = JSON.stringify(page);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: none of these may be there.
  assert.doesNotMatch(texts, /\\u00[01]|\\u202e|[\u0000-\u001f\u202e]|\\n/);
  assert.equal(page.clients[0]?.name, 'web\ufffd[2J\ufffd<script>alert(1)</script> &amp;');
});

test('evictions come newest first, those of earlier instances too', () => {
  const before = { uuid: 'x', name: 'old', reason: 'silent', instance: 3, atMs: 0 };
  const page = view({ evicted: [{ uuid: 'y', name: 'new', reason: 'late' }], evictedBefore: [before] });
  assert.deepEqual(
    page.evictions.map(({ cells }) => cells),
    [
      ['new', 'late', 'since its start', '4'],
      ['old', 'silent', '1970-01-01T00:00:00Z', '3'],
    ],
  );
  assert.deepEqual(page.space, { text: '2.9 MiB of 3.9 MiB used (75 %)', share: 0.75 });
});

test('rates are differences between two readings, with the quantiles of what came between them', () => {
  const table = new MetricTable();
  const rates = new OperationRates();
  const seconds = table.histogram('h', 'help', { operation: 'READ' });
  const read = (at: number, bytes: number): void =>
    rates.read({ operations: table.family('h'), readBytes: bytes, writeBytes: 0 }, at * 1000, at);
  seconds.observe(0.5, 1000);
  read(1, 0);
  assert.deepEqual([rates.points, rates.rows()], [[], []]);
  seconds.observe(0.002, 10);
  read(3, 4096);
  const [point] = rates.points;
  assert.deepEqual([point?.atMs, point?.perSecond, point?.readBytes], [3, 5, 2048]);
  assert.ok((point?.p99Ms ?? 0) > 1 && (point?.p99Ms ?? 0) <= 3, 'the old ones do not count');
  assert.deepEqual(
    rates.rows().map(({ operation, perSecond }) => [operation, perSecond]),
    [['READ', 5]],
  );
  for (let at = 4; at < 400; at++) read(at, 4096);
  assert.deepEqual([rates.points.length, rates.rows()], [180, []]);
});

test('a quantile lies in its bucket', () => {
  const counts = new Array<number>(BUCKETS_SECONDS.length + 1).fill(0);
  assert.equal(quantile(0.5, counts), 0);
  counts[4] = 10;
  assert.deepEqual([quantile(0.5, counts) > 0.0003, quantile(1, counts)], [true, 0.001]);
  counts[BUCKETS_SECONDS.length] = 1000;
  assert.equal(quantile(0.99, counts), 100);
});

test('a chart shows its time, and where nobody answered', () => {
  const at = (seconds: number, value: number) => ({ atMs: SPAN_MS + seconds * 1000, values: [value] });
  const chart = chartOf([at(-500, 1), at(-60, 30), at(-59, 10), at(-20, 5), at(0, 0)], SPAN_MS, 1);
  assert.equal(chart.top, 50);
  assert.equal(chart.gaps.length, 2);
  assert.match(chart.lines[0]?.line ?? '', /^M[\d.]+ [\d.]+L[\d.]+ [\d.]+M[\d.]+ [\d.]+M316 92$/);
  const silent = chartOf([at(-10, 1)], SPAN_MS, 1);
  assert.equal(silent.gaps[0]?.[1], CHART.width - CHART.right);
  assert.deepEqual(chartOf([], SPAN_MS, 2).gaps, []);
  assert.equal(chartOf([at(-10, 0.1)], SPAN_MS, 1, 10).top, 10);
  assert.deepEqual([0, 1, 1.2, 7, 99, 5000].map(niceTop), [1, 1, 2, 10, 100, 5000]);
});

test('times and numbers are short', () => {
  assert.deepEqual([0, 0.02, 3.14, 250, 59_600, 61_000, 3_600_000, 90_000_000].map(timeText), [
    '0 s',
    '20 us',
    '3.1 ms',
    '0.3 s',
    '1 min',
    '1 min 1 s',
    '1 h',
    '1 d 1 h',
  ]);
  assert.deepEqual([0, 0.25, 7, 1234, 56_789, 2.5e6].map(shortNumber), [
    '0',
    '0.25',
    '7',
    '1234',
    '57 k',
    '2.5 M',
  ]);
});

const FLEET = parseFleet(
  `
[[host]]
name = "a"
[[host]]
name = "c"
[[group]]
name = "first"
[[group]]
name = "rest"
after = ["first"]
[[target]]
label = "home"
hosts = ["a"]
group = "first"
[[client]]
host = "c"
mountpoint = "/mnt"
group = "rest"
`,
  'fleet.toml',
);

function host(more: Partial<Extract<HostFacts, { readonly is: 'there' }>>): HostFacts {
  const rest = { version: '1.0.0', nowMs: 0, freeBytes: 0, keyProblems: [], skewMs: 0 };
  return { is: 'there', ...rest, servers: {}, mounts: {}, ...more };
}

const FACTS: Facts = new Map([
  [
    'a',
    host({
      servers: {
        'a:7988': {
          is: 'up',
          state: 'active',
          version: '2.0.0+x',
          label: 'home',
          instance: 2,
          isRecovering: false,
          evicted: [],
        },
      },
    }),
  ],
  ['c', { is: 'away', why: 'no route \u001b[31mto host' }],
]);

function fleetSeen(state: FleetState | undefined, more: Partial<FleetSeen> = {}): FleetSeen {
  const base = { fleet: FLEET, name: 'fleet.toml', facts: FACTS, seenMs: 500, isRunning: true };
  return { ...base, state, nowMs: Date.parse('2026-01-01T00:00:10Z'), ...more };
}

const AT = (seconds: number): string =>
  new Date(Date.parse('2026-01-01T00:00:00Z') + seconds * 1000).toISOString();

const RUNNING: FleetState = {
  ...beginState('upgrade', '2.0.0', {}, AT(0)),
  plan: {
    at: AT(0),
    steps: [
      { group: 'first', text: 'a: shut down' },
      { group: 'first', text: 'a: start' },
      { group: 'rest', text: 'c: takeover' },
    ],
  },
  done: [{ at: AT(4), text: 'a: shut down', ms: 3000 }],
  underWay: ['k'],
  begun: [{ key: 'k', at: AT(5), text: 'a: start' }],
};

test('the page of a fleet shows nodes by group and version, and the plan in the time of the upgrade', () => {
  const page = fleetView(fleetSeen(RUNNING));
  assert.equal(page.headline, 'Upgrade to 2.0.0: a: start, since 5.0 s.');
  assert.equal(page.announcement, 'Upgrade to 2.0.0: a: start');
  assert.deepEqual(page.progress, { text: '1 of 3 steps done', done: 1, of: 3 });
  assert.deepEqual(
    page.steps.map(({ text, is, group, took, bar }) => [text, is, group, took, bar]),
    [
      ['a: shut down', 'done', 'first', '3.0 s', { from: 0, to: 3 / 9 }],
      ['a: start', 'running', 'first', '5.0 s', { from: 4 / 9, to: 1 }],
      ['c: takeover', 'to come', 'rest', '', undefined],
    ],
  );
  assert.deepEqual(
    page.groups.map(({ name, text, nodes }) => [
      name,
      text,
      nodes.map(({ state, version }) => [state, version]),
    ]),
    [
      ['first', '', [['active', '2.0.0']]],
      ['rest', 'after first', [['no route \ufffd[31mto host', undefined]]],
    ],
  );
  assert.deepEqual(
    page.versions.map(({ version, count, isNew }) => [version, count, isNew]),
    [
      ['2.0.0', 1, true],
      ['not known', 1, false],
    ],
  );
});

test('the page of a fleet says how an upgrade stands, or has ended', () => {
  const says = (more: Partial<FleetState>, isRunning = false): readonly string[] => {
    const { state, headline } = fleetView(fleetSeen({ ...RUNNING, ...more }, { isRunning }));
    return [state, headline];
  };
  const pauses = [{ client: 'client c:/mnt', ms: 212, why: 'takeover' }];
  assert.deepEqual(
    [
      says({}),
      says({ progress: 'paused' }, true),
      says({ progress: 'failed', failure: 'no \u001bstart' }),
      says({ progress: 'aborted' }),
      says({ progress: 'done', pauses }),
      says({ doing: 'rollback', begun: [] }, true),
    ],
    [
      ['stopped', 'Upgrade to 2.0.0: its command was killed; run it again to go on.'],
      ['paused', 'Upgrade to 2.0.0: paused; "resume" goes on, "abort" ends it.'],
      ['failed', 'Upgrade to 2.0.0: stopped: no \ufffdstart.'],
      ['aborted', 'Upgrade to 2.0.0: aborted; "upgrade --to 2.0.0" goes on, "rollback" goes back.'],
      ['done', 'Upgrade to 2.0.0: done; the longest pause of a program was 0.2 s.'],
      ['running', 'Rollback from 2.0.0: looking at the hosts.'],
    ],
  );
  assert.equal(fleetView(fleetSeen(undefined)).headline, 'No upgrade of this fleet is known.');
  assert.equal(fleetView(fleetSeen(RUNNING, { problem: 'it is no state' })).headline, 'it is no state.');
  const done = fleetView(fleetSeen({ ...RUNNING, progress: 'done', pauses, begun: [] }));
  assert.deepEqual(done.steps.at(-1)?.is, 'not needed');
  assert.deepEqual(done.pauses, [
    { key: '0 client c:/mnt', client: 'c:/mnt', why: 'takeover of the client', took: '0.2 s', share: 1 },
  ]);
});
