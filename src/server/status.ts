/** What STATUS tells: the server, each of its clients, and how far each has drained. */

import type { ClientRecord } from '../storage/api.js';
import { lastingFeatures } from '../storage/format/superblock.js';
import type { ClientStatusMessage, StatusReply, StatusRequest } from '../wire/admin.js';
import { BODY_MAX } from '../wire/header.js';
import { ClientExport } from './export/export.js';
import type { ServerView } from './session/server_view.js';
import type { ServedTarget } from './target/served_target.js';

/** Of the clients in one reply: what else is in it takes far less than the rest of a body. */
const PAGE_BYTES = BODY_MAX - (128 << 10);
/** Numbers and lengths of one client. */
const CLIENT_BYTES = 64;
/** With the longest texts in the longest encoding. */
const CLIENT_MAX_BYTES = 2048;

const THROTTLED_SHOWN_MS = 10_000;

/** @param page absent: all clients that fit. */
export function statusOf(server: ServerView, startedMs: number, page?: StatusRequest): StatusReply {
  const now = server.runtime.clock.nowMs();
  const { target, settings, state } = server;
  const space = target?.life.isOver === false ? target.store.statfs() : undefined;
  const all = target === undefined ? [] : present(server, target);
  const shown = target === undefined ? NO_PAGE : pageOf(server, target, all, now, startedMs, page ?? {});
  return {
    state,
    label: target?.store.superblock.label ?? '',
    targetUuid: target?.store.superblock.targetUuid ?? '',
    softwareVersion: settings.softwareVersion,
    instance: target?.store.superblock.instance ?? 0,
    uptimeMs: Math.round(now - startedMs),
    clients: shown.clients,
    blocks: space?.blocks ?? 0,
    blocksFree: space?.blocksFree ?? 0,
    blockBytes: space?.blockBytes ?? 0,
    inodes: space === undefined ? 0 : space.inodes - space.inodesFree,
    lastTransno: target?.store.lastTransno ?? 0,
    lastCommitted: target?.store.lastCommitted ?? 0,
    evicted: target?.exports.evicted() ?? [],
    orphans: target?.life.isOver === false ? target.store.orphans().length : 0,
    pid: settings.pid,
    recovery: server.recovery?.status(),
    metaUnusedBytes: target?.store.unusedBytes.meta || undefined,
    dataUnusedBytes: target?.store.unusedBytes.data || undefined,
    more: shown.more,
    // Of the first page: what is said once is enough.
    evictedBefore: page?.after === undefined ? target?.evictedBefore : undefined,
    clientCount: all.length === shown.clients.length ? undefined : all.length,
    diskFeatures: target === undefined ? undefined : lastingFeatures(target.store.superblock),
    plainFrom: settings.plain?.from.map(({ text }) => text),
  };
}

/** What somebody who is no administrator learns: how the server is. Nothing of its clients, its disk or its process. */
export function briefly(status: StatusReply): StatusReply {
  const { state, label, targetUuid, softwareVersion, instance, uptimeMs } = status;
  const nothing = {
    clients: [],
    evicted: [],
    blocks: 0,
    blocksFree: 0,
    blockBytes: 0,
    inodes: 0,
    orphans: 0,
  };
  const own = { state, label, targetUuid, softwareVersion, instance, uptimeMs };
  return { ...own, ...nothing, lastTransno: 0, lastCommitted: 0, brief: true };
}

export type Present = ClientExport | ClientRecord;

interface Page {
  readonly clients: readonly ClientStatusMessage[];
  readonly more: string | undefined;
}

const NO_PAGE: Page = { clients: [], more: undefined };

/** Clients that are here, and those that recovery waits for. */
export function present(server: ServerView, target: ServedTarget): Present[] {
  return [...target.exports, ...(server.recovery?.isOpen === true ? server.recovery.missing() : [])];
}

/** In the order of their UUIDs, which stays while clients come and go between two pages. */
function pageOf(
  server: ServerView,
  target: ServedTarget,
  all: readonly Present[],
  now: number,
  startedMs: number,
  { after, limit = Number.POSITIVE_INFINITY }: StatusRequest,
): Page {
  if (limit === 0) return NO_PAGE;
  const isPaged = after !== undefined || limit !== Number.POSITIVE_INFINITY;
  const left = after === undefined ? [...all] : all.filter(({ uuid }) => uuid > after);
  // What is sure to fit one page keeps the order in which clients came.
  const isLong = after !== undefined || left.length > limit || left.length * CLIENT_MAX_BYTES > PAGE_BYTES;
  if (isPaged && isLong) left.sort((a, b) => (a.uuid < b.uuid ? -1 : 1));
  const clients: ClientStatusMessage[] = [];
  let bytes = 0;
  for (const one of left) {
    const client =
      one instanceof ClientExport ? clientStatus(server, target, one, now) : missing(one, now - startedMs);
    bytes += CLIENT_BYTES + textBytes(client);
    if (clients.length >= limit || bytes > PAGE_BYTES) {
      // A client that did not ask for a page does not know how to go on.
      return { clients, more: isPaged ? clients.at(-1)?.uuid : undefined };
    }
    clients.push(client);
  }
  return { clients, more: undefined };
}

function textBytes(client: ClientStatusMessage): number {
  const { uuid, name, state, softwareVersion, address = '', access = '' } = client;
  return Buffer.byteLength(`${uuid}${name}${state}${softwareVersion}${address}${access}`);
}

export function missing(
  { uuid, name, softwareVersion, principal }: ClientRecord,
  idleMs: number,
): ClientStatusMessage {
  const nothing = { opens: 0, locks: 0, dirtyBytes: 0, rpcsInFlight: 0 };
  return {
    uuid,
    name,
    softwareVersion,
    state: 'recovering',
    ...nothing,
    idleMs: Math.round(idleMs),
    access: principal,
  };
}

export function clientStatus(
  server: ServerView,
  target: ServedTarget,
  client: ClientExport,
  now: number,
): ClientStatusMessage {
  return {
    uuid: client.uuid,
    name: client.name,
    state: stateOf(server, target, client),
    softwareVersion: client.softwareVersion,
    address: client.link?.peer,
    opens: client.opens.size,
    locks: target.locks.count(client.uuid),
    dirtyBytes: client.progress?.dirtyBytes ?? 0,
    rpcsInFlight: client.progress?.rpcsInFlight ?? client.calls.size,
    idleMs: Math.round(Math.max(0, now - client.lastHeardMs)),
    access: client.rights.principal,
    throttledMs: throttledMs(client, now),
  };
}

/** @returns undefined if it has not been throttled within the last seconds. */
function throttledMs(
  { throttledSinceMs, throttledAtMs, throttledMs: ms }: ClientExport,
  now: number,
): number | undefined {
  if (throttledSinceMs !== undefined) return Math.round(ms + now - throttledSinceMs);
  return throttledAtMs !== undefined && now - throttledAtMs <= THROTTLED_SHOWN_MS
    ? Math.round(ms)
    : undefined;
}

export function stateOf(
  server: ServerView,
  target: ServedTarget,
  client: ClientExport,
): ClientStatusMessage['state'] {
  if (server.state === 'draining') {
    const isLate = client.activeLocks.size > 0 || target.undrained.has(client);
    return isLate ? 'draining' : 'drained';
  }
  if (server.state === 'committing') return 'drained';
  if (client.link === undefined) return 'disconnected';
  return client.recovering ? 'recovering' : 'connected';
}
