/** What STATUS tells: the server, each of its clients, and how far each has drained. */

import type { ClientStatusMessage, StatusReply } from '../wire/admin.js';
import type { Export } from './export.js';
import type { Host } from './host.js';
import type { Target } from './target.js';

export function statusOf(host: Host, startedMs: number): StatusReply {
  const now = host.runtime.clock.nowMs();
  const { target, settings, state } = host;
  const space = target?.stopped === false ? target.store.statfs() : undefined;
  return {
    state,
    label: target?.store.superblock.label ?? '',
    targetUuid: target?.store.superblock.targetUuid ?? '',
    softwareVersion: settings.softwareVersion,
    instance: target?.store.superblock.instance ?? 0,
    uptimeMs: Math.round(now - startedMs),
    clients: target === undefined ? [] : clients(host, target, now, startedMs),
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
  };
}

function clients(host: Host, target: Target, now: number, startedMs: number): ClientStatusMessage[] {
  const connected = [...target.exports].map((owner) => clientStatus(host, target, owner, now));
  const missing = host.recovery?.isOpen === true ? host.recovery.missing() : [];
  return connected.concat(
    missing.map(({ uuid, name, softwareVersion }) => {
      const nothing = { opens: 0, locks: 0, dirtyBytes: 0, rpcsInFlight: 0 };
      return {
        uuid,
        name,
        softwareVersion,
        state: 'recovering',
        ...nothing,
        idleMs: Math.round(now - startedMs),
      };
    }),
  );
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
