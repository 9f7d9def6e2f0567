/**
 * What the live page shows of clients (cli/live/server_page.ts). A page asks once a second while somebody looks, so this takes time for
 * the clients that it describes, and of all others only the time to count them.
 */

import type { ClientStatusMessage, StatusReply } from '../wire/admin.js';
import { ClientExport } from './export/export.js';
import type { ServerView } from './session/server_view.js';
import { clientStatus, missing, type Present, present, stateOf } from './status.js';
import type { ServedTarget } from './target/served_target.js';

export interface WatchedClient extends ClientStatusMessage {
  /** The end of the drain, or of the recovery, waits for it. */
  readonly isWaitedFor: boolean;
  /** It has a connection. */
  readonly isHere: boolean;
  /** Requests of it that wait for locks. */
  readonly lockWaits: number;
  /** Locks that the server has asked it to give back. */
  readonly calledBack: number;
  /** Requests of it that the server executes. */
  readonly requests: number;
}

export interface WatchedClients {
  /** Those that are waited for come first, then those that are not here, then the others in the order in which they came. */
  readonly clients: readonly WatchedClient[];
  /** Of all clients, described or not. */
  readonly count: number;
  readonly waitedFor: number;
  /** In a drain: those that have drained. */
  readonly drained: number;
}

export interface WatchedServer extends WatchedClients {
  /** Without clients. */
  readonly status: StatusReply;
}

export function watchedClients(server: ServerView, startedMs: number, max: number): WatchedClients {
  const { target, recovery } = server;
  if (target === undefined) return { clients: [], count: 0, waitedFor: 0, drained: 0 };
  const all = present(server, target);
  const first: Present[] = [];
  const away: Present[] = [];
  const rest: Present[] = [];
  let waitedFor = 0;
  let drained = 0;
  for (const one of all) {
    const isWaited = isWaitedFor(server, target, one);
    if (isWaited) waitedFor += 1;
    else if (server.state === 'draining') drained += 1;
    const list = isWaited ? first : isHere(one) ? rest : away;
    if (list.length < max) list.push(one);
  }
  const nowMs = server.runtime.clock.nowMs();
  const clients = [...first, ...away, ...rest].slice(0, max).map(
    (one): WatchedClient =>
      one instanceof ClientExport
        ? {
            ...clientStatus(server, target, one, nowMs),
            isWaitedFor: isWaitedFor(server, target, one),
            isHere: isHere(one),
            lockWaits: one.waits.size,
            calledBack: one.calledBack.size,
            requests: one.calls.size,
          }
        : {
            ...missing(one, nowMs - startedMs),
            isWaitedFor: recovery?.isOpen === true,
            isHere: false,
            lockWaits: 0,
            calledBack: 0,
            requests: 0,
          },
  );
  return { clients, count: all.length, waitedFor, drained };
}

function isHere(one: Present): boolean {
  return one instanceof ClientExport && one.link !== undefined;
}

function isWaitedFor(server: ServerView, target: ServedTarget, one: Present): boolean {
  if (server.recovery?.isOpen === true) return server.recovery.isWaitedFor(one.uuid);
  return one instanceof ClientExport && stateOf(server, target, one) === 'draining';
}
