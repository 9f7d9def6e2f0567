/** What STATUS tells: the server, each of its clients, and how far each has drained. */

import type { ClientRecord } from '../storage/api.js';
import type { ClientStatusMessage, StatusReply, StatusRequest } from '../wire/admin.js';
import { BODY_MAX } from '../wire/header.js';
import { Export } from './export/export.js';
import type { Host } from './session/host.js';
import type { Target } from './target/target.js';

/** Of the clients in one reply: what else is in it takes far less than the rest of a body. */
const PAGE_BYTES = BODY_MAX - (128 << 10);
/** Numbers and lengths of one client. */
const CLIENT_BYTES = 64;
/** With the longest texts in the longest encoding. */
const CLIENT_MAX_BYTES = 2048;

/** @param page absent: all clients that fit. */
export function statusOf(host: Host, startedMs: number, page?: StatusRequest): StatusReply {
  const now = host.runtime.clock.nowMs();
  const { target, settings, state } = host;
  const space = target?.stopped === false ? target.store.statfs() : undefined;
  const all = target === undefined ? [] : present(host, target);
  const shown = target === undefined ? NO_PAGE : pageOf(host, target, all, now, startedMs, page ?? {});
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
    orphans: target?.stopped === false ? target.store.orphans().length : 0,
    pid: settings.pid,
    recovery: host.recovery?.status(),
    metaUnusedBytes: target?.store.unusedBytes.meta || undefined,
    dataUnusedBytes: target?.store.unusedBytes.data || undefined,
    more: shown.more,
    // Of the first page: what is said once is enough.
    evictedBefore: page?.after === undefined ? target?.evictedBefore : undefined,
    clientCount: all.length === shown.clients.length ? undefined : all.length,
  };
}

type Present = Export | ClientRecord;

interface Page {
  readonly clients: readonly ClientStatusMessage[];
  readonly more: string | undefined;
}

const NO_PAGE: Page = { clients: [], more: undefined };

/** Clients that are here, and those that recovery waits for. */
function present(host: Host, target: Target): Present[] {
  return [...target.exports, ...(host.recovery?.isOpen === true ? host.recovery.missing() : [])];
}

/** In the order of their UUIDs, which stays while clients come and go between two pages. */
function pageOf(
  host: Host,
  target: Target,
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
      one instanceof Export ? clientStatus(host, target, one, now) : missing(one, now - startedMs);
    bytes += CLIENT_BYTES + textBytes(client);
    if (clients.length >= limit || bytes > PAGE_BYTES) {
      // A client that did not ask for a page does not know how to go on.
      return { clients, more: isPaged ? clients.at(-1)?.uuid : undefined };
    }
    clients.push(client);
  }
  return { clients, more: undefined };
}

function textBytes({ uuid, name, state, softwareVersion, address = '' }: ClientStatusMessage): number {
  return Buffer.byteLength(`${uuid}${name}${state}${softwareVersion}${address}`);
}

function missing({ uuid, name, softwareVersion }: ClientRecord, idleMs: number): ClientStatusMessage {
  const nothing = { opens: 0, locks: 0, dirtyBytes: 0, rpcsInFlight: 0 };
  return { uuid, name, softwareVersion, state: 'recovering', ...nothing, idleMs: Math.round(idleMs) };
}

function clientStatus(host: Host, target: Target, owner: Export, now: number): ClientStatusMessage {
  return {
    uuid: owner.uuid,
    name: owner.name,
    state: stateOf(host, target, owner),
    softwareVersion: owner.softwareVersion,
    address: owner.link?.peer,
    opens: owner.opens.size,
    locks: target.locks.count(owner.uuid),
    dirtyBytes: owner.progress?.dirtyBytes ?? 0,
    rpcsInFlight: owner.progress?.rpcsInFlight ?? owner.calls.size,
    idleMs: Math.round(Math.max(0, now - owner.lastHeardMs)),
  };
}

function stateOf(host: Host, target: Target, owner: Export): ClientStatusMessage['state'] {
  if (host.state === 'draining') {
    const isLate = owner.activeLocks.size > 0 || target.returning.has(owner);
    return isLate ? 'draining' : 'drained';
  }
  if (host.state === 'committing') return 'drained';
  if (owner.link === undefined) return 'disconnected';
  return owner.recovering ? 'recovering' : 'connected';
}
