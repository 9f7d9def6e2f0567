/** What the page of a server shows, in words. Pure functions. Texts that peers have chosen are made printable here. */

import { printable } from '../../base/printable.js';
import type { WatchedClient, WatchedServer } from '../../server/watched_clients.js';
import type { RecoveryStatusMessage, ServerStateName, StatusReply } from '../../wire/admin.js';
import { formatBytes } from '../format.js';
import { SERVER_STATES } from './server_states.js';
import type { ClientRow, Point, Progress, ServerPageView, Tone } from './shapes.js';
import { timeText } from './words.js';

export interface RateRow {
  readonly operation: string;
  readonly perSecond: number;
  readonly p50Seconds: number;
  readonly p99Seconds: number;
}

export interface ServerSeen {
  readonly watched: WatchedServer;
  readonly points: readonly Point[];
  readonly rates: readonly RateRow[];
  /** How long the state of now lasts. */
  readonly stateMs: number;
  /** What a standby waits for. */
  readonly devices: string;
}

const NAMED_MAX = 3;
const OPERATIONS_MAX = 10;
const EVICTIONS_MAX = 16;

export function serverView(seen: ServerSeen): ServerPageView {
  const { watched, points, rates } = seen;
  const { status } = watched;
  const { text, tone } = SERVER_STATES[status.state];
  const [headline, announcement] = sentences(seen);
  return {
    title: printable(status.label === '' ? 'standby' : status.label),
    state: text,
    tone,
    headline,
    announcement,
    progress: progressOf(watched),
    facts: factsOf(status),
    space: spaceOf(status),
    clients: watched.clients.map((client) => clientRow(client, status.state)),
    clientsText: clientsText(watched),
    operations: rates.slice(0, OPERATIONS_MAX).map(({ operation, perSecond, p50Seconds, p99Seconds }) => ({
      key: operation,
      cells: [operation, perSecond.toFixed(1), timeText(p50Seconds * 1000), timeText(p99Seconds * 1000)],
    })),
    evictions: evictionsOf(status),
    points,
  };
}

/** The sentence as it is now, and without the times in it. */
function sentences(seen: ServerSeen): readonly [string, string] {
  const { watched, stateMs, devices } = seen;
  const { status, count, waitedFor } = watched;
  const since = ` since ${timeText(stateMs)}`;
  switch (status.state) {
    case 'standby': {
      const text = `Standing by: takes ${printable(devices)} when the server that has it leaves`;
      return [`${text}.`, text];
    }
    case 'starting':
      return [`Starting${since}.`, 'Starting'];
    case 'recovering': {
      const { clients = 0, waitedFor: left = 0, leftMs = 0 } = status.recovery ?? {};
      const text = `Recovering: ${clients - left} of ${count1(clients, 'client')} back`;
      if (left === 0) return [`${text}.`, text];
      const who = `${text}, waiting for ${names(watched.clients, left)}`;
      return [`${who}${since}; gives up on them in ${timeText(leftMs)}.`, who];
    }
    case 'active': {
      const text = `Serving ${count1(count, 'client')}`;
      return [`${text}, for ${timeText(status.uptimeMs)}.`, 'Active'];
    }
    case 'draining': {
      if (waitedFor === 0) return [`Shutting down${since}.`, 'Shutting down'];
      const text = `Shutting down: waiting for ${names(watched.clients, waitedFor)}`;
      const left = status.drainLeftMs === undefined ? '' : `; evicts in ${timeText(status.drainLeftMs)}`;
      return [`${text}${since}${left}.`, text];
    }
    case 'committing': {
      const text = 'Shutting down: everything is being written to the devices';
      return [`${text}${since}.`, text];
    }
    case 'stopped':
      return ['Shut down. The next server goes on.', 'Shut down'];
  }
}

function count1(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

function names(clients: readonly WatchedClient[], count: number): string {
  const waited = clients.filter(({ isWaitedFor }) => isWaitedFor);
  const named = waited.slice(0, NAMED_MAX).map(({ name }) => printable(name));
  const more = count - named.length;
  return more > 0 ? `${named.join(', ')} and ${more} more` : named.join(', ');
}

function progressOf({ status, count, drained }: WatchedServer): Progress | undefined {
  if (status.state === 'draining') {
    return { text: `${drained} of ${count1(count, 'client')} drained`, done: drained, of: count };
  }
  const { recovery } = status;
  if (recovery?.open !== true) return undefined;
  const done = recovery.clients - recovery.waitedFor;
  const { away, replayed, queued } = recovery;
  const text = `${done} of ${count1(recovery.clients, 'client')} back, ${away} not connected, ${replayed} operations replayed, ${queued} queued`;
  return { text, done, of: recovery.clients };
}

function factsOf(status: StatusReply): (readonly [string, string])[] {
  const facts: (readonly [string, string])[] = [
    ['Version', status.softwareVersion],
    ['Up', timeText(status.uptimeMs)],
  ];
  if (status.targetUuid === '') return facts;
  facts.push(
    ['Instance', String(status.instance)],
    ['Not yet committed', count1(Math.max(0, status.lastTransno - status.lastCommitted), 'operation')],
    ['Inodes', String(status.inodes)],
    ['Orphans', String(status.orphans)],
  );
  const recovery = recoveryFact(status.recovery);
  if (recovery !== undefined) facts.push(['Last recovery', recovery]);
  const notices = (status.notices ?? []).filter(({ count }) => count > 0);
  if (notices.length > 0)
    facts.push(['Notices', notices.map(({ kind, count }) => `${kind} ${count}`).join(', ')]);
  return facts;
}

function recoveryFact(recovery: RecoveryStatusMessage | undefined): string | undefined {
  if (recovery === undefined || recovery.open) return undefined;
  return `${timeText(recovery.tookMs)}, ${count1(recovery.clients, 'client')}`;
}

function spaceOf({ blocks, blocksFree, blockBytes }: StatusReply): ServerPageView['space'] {
  if (blocks === 0) return undefined;
  const used = (blocks - blocksFree) * blockBytes;
  const share = (blocks - blocksFree) / blocks;
  const text = `${formatBytes(used)} of ${formatBytes(blocks * blockBytes)} used (${Math.round(share * 100)} %)`;
  return { text, share };
}

function clientsText({ clients, count }: WatchedServer): string {
  if (count === 0) return 'No clients.';
  return clients.length < count ? `The first ${clients.length} of ${count}.` : '';
}

function clientRow(client: WatchedClient, state: ServerStateName): ClientRow {
  const { uuid, name, softwareVersion, opens, locks, dirtyBytes } = client;
  return {
    key: uuid,
    name: printable(name),
    version: printable(softwareVersion),
    state: client.isWaitedFor && state === 'recovering' && !client.isHere ? 'not back' : client.state,
    tone: toneOf(client),
    // Clients say it while they drain only.
    dirty: state === 'draining' && client.isHere ? formatBytes(dirtyBytes) : '-',
    opens,
    locks,
    waits: waitsOf(client, state),
  };
}

function toneOf({ state, isWaitedFor, isHere }: WatchedClient): Tone {
  if (!isHere) return 'bad';
  if (isWaitedFor) return 'busy';
  return state === 'drained' ? 'idle' : 'good';
}

function waitsOf(client: WatchedClient, state: ServerStateName): string {
  const { isWaitedFor, isHere, lockWaits, calledBack, requests, throttledMs, idleMs, dirtyBytes } = client;
  if (!isHere) return isWaitedFor ? 'has to come back' : `away for ${timeText(idleMs)}`;
  if (isWaitedFor && state === 'draining') {
    const calls = client.rpcsInFlight;
    if (dirtyBytes + calls === 0) return 'has to give its lock back';
    return `has to write ${formatBytes(dirtyBytes)}, ${count1(calls, 'request')} under way`;
  }
  if (isWaitedFor) return 'has to replay';
  if (client.state === 'drained') return 'waits for the next server';
  const parts: string[] = [];
  if (lockWaits > 0) parts.push(`waits for ${count1(lockWaits, 'lock')}`);
  if (calledBack > 0) parts.push(`has to give back ${count1(calledBack, 'lock')}`);
  if (throttledMs !== undefined) parts.push("waits for its key's limit of requests");
  if (parts.length === 0 && requests > 0) parts.push(`${count1(requests, 'request')} under way`);
  return parts.join(', ');
}

function evictionsOf({ evicted, evictedBefore = [], instance }: StatusReply): ServerPageView['evictions'] {
  const before = evictedBefore.filter((one) => one.instance !== instance);
  const times = new Map(
    evictedBefore.filter((one) => one.instance === instance).map(({ uuid, atMs }) => [uuid, atMs]),
  );
  const all = [
    ...before.map(({ uuid, name, reason, atMs, instance: by }) => ({ uuid, name, reason, atMs, by })),
    ...evicted.map(({ uuid, name, reason }) => ({
      uuid,
      name,
      reason,
      atMs: times.get(uuid),
      by: instance,
    })),
  ];
  return all
    .slice(-EVICTIONS_MAX)
    .toReversed()
    .map(({ uuid, name, reason, atMs, by }) => ({
      key: `${uuid} ${by}`,
      cells: [
        printable(name),
        printable(reason),
        atMs === undefined ? 'since its start' : new Date(atMs).toISOString().replace(/\.\d+/, ''),
        String(by),
      ],
    }));
}
