/** CONNECT, and what an administrator may ask for: STATUS, SHUTDOWN, EVICT. Served in every state. */

import { logger } from '../base/log.js';
import { Service } from '../rpc/service.js';
import { Evict, Shutdown, Status, type StatusReply, type StatusRequest } from '../wire/admin.js';
import { Connect } from '../wire/session.js';
import { shortUuid } from './export/export.js';
import { NOT_RECOVERED } from './lifecycle/state.js';
import { connect } from './session/connect.js';
import { isLocalRoot, shownUuid } from './session/peer.js';
import type { ServerView } from './session/server_view.js';
import type { Session } from './session/session.js';

const log = logger('server:admin');

/** What an administrator may have the server do: see Server. */
export interface AdminCommands {
  status(page?: StatusRequest): StatusReply;
  evict(idOrName: string, reason: string): { readonly uuid: string; readonly name: string };
  readonly isShuttingDown: boolean;
  shutdown(options: { readonly drainTimeoutMs?: number | undefined }): Promise<unknown>;
  cancelShutdown(): boolean;
}

interface ShutdownAnswer {
  readonly accepted: boolean;
  readonly text: string;
}

export function sessionService(server: ServerView & AdminCommands): Service<Session> {
  const service = new Service<Session>();
  service.on(Connect, (session, request) => ({ reply: connect(server, session, request) }));
  service.on(Status, (session, page) => ({ reply: forEyesOf(session, server.status(page)) }));
  service.on(Evict, (session, { client, reason }) => {
    const { uuid, name } = server.evict(client, reason ?? 'the administrator said so');
    return { reply: { uuid: shownUuid(session.link.origin, uuid), name } };
  });
  service.on(Shutdown, (session, { drainTimeoutMs, cancel }) => {
    if (cancel !== true) session.asksForShutdown();
    return { reply: cancel === true ? cancelShutdown(server) : shutdown(server, drainTimeoutMs) };
  });
  return service;
}

/** Only root of this host is told whole UUIDs. The beginning of one still names its client to EVICT. */
function forEyesOf(session: Session, status: StatusReply): StatusReply {
  if (isLocalRoot(session.link.origin)) return status;
  const shortened = <C extends { readonly uuid: string }>(client: C): C => ({
    ...client,
    uuid: shortUuid(client.uuid),
  });
  return {
    ...status,
    clients: status.clients.map(shortened),
    evicted: status.evicted.map(shortened),
    evictedBefore: status.evictedBefore?.map(shortened),
    // Behind all that begin so: of two clients that do, a stranger may miss one.
    more: status.more === undefined ? undefined : `${shortUuid(status.more)}~`,
  };
}

function cancelShutdown(server: AdminCommands): ShutdownAnswer {
  const underWay = server.isShuttingDown;
  if (server.cancelShutdown()) return { accepted: true, text: 'the shutdown is taken back' };
  const text = underWay ? 'it is too late to take the shutdown back' : 'no shutdown is under way';
  return { accepted: false, text };
}

/** Answered at once: whether it succeeds is seen by the end of the connection and by the exit status of the server. */
function shutdown(server: ServerView & AdminCommands, drainTimeoutMs: number | undefined): ShutdownAnswer {
  const joins = server.isShuttingDown;
  const unmarked = server.recovery?.mayReplay === true;
  server.shutdown({ drainTimeoutMs }).catch((error: unknown) => log('shutdown: %O', error));
  if (joins) return { accepted: true, text: 'joins the shutdown that is under way already' };
  if (unmarked) return { accepted: true, text: `stops without the clean mark: ${NOT_RECOVERED}` };
  return { accepted: true, text: 'shutting down' };
}
