/**
 * CONNECT, and what an administrator may ask for: STATUS, SHUTDOWN, EVICT, and the access table. Served in every state, the table
 * while there is a target.
 *
 * Only an administrator (root of this host, or a key that says so) gets all of it. To others STATUS tells how the server is, and
 * nothing of its clients.
 */

import { FsError } from '../base/errno.js';
import { logger } from '../base/log.js';
import { Service } from '../rpc/service.js';
import type { AccessRecord } from '../storage/api.js';
import {
  AccessAdd,
  type AccessEntryMessage,
  AccessList,
  AccessRemove,
  AccessRotate,
  Evict,
  Holdings,
  Metrics,
  type NewKeyMessage,
  Shutdown,
  Status,
  type StatusReply,
  type StatusRequest,
} from '../wire/admin.js';
import { Connect } from '../wire/session.js';
import type { MadeKey } from './access/access_table.js';
import { principalOf } from './access/rights.js';
import { holdingsOf } from './holdings.js';
import { NOT_RECOVERED } from './lifecycle/state.js';
import { connect } from './session/connect.js';
import type { ServerView } from './session/server_view.js';
import type { Session } from './session/session.js';
import { briefly } from './status.js';
import type { ServedTarget } from './target/served_target.js';

const log = logger('server:admin');

/** On a page: the longest entries fit into one frame. */
const ENTRIES_PAGE = 250;

/** What an administrator may have the server do: see Server. */
export interface AdminCommands {
  status(page?: StatusRequest): StatusReply;
  metricsText(): Promise<string>;
  evict(idOrName: string, reason: string): { readonly uuid: string; readonly name: string };
  /** How long the sessions of this entry have waited because of its limit of requests a second. */
  throttledMs(principal: string): number;
  /**
   * Ends everything that goes on under this entry of the access table. @param asks stays: it gets the answer.
   * @returns how many clients that were.
   */
  revoke(principal: string, reason: string, asks?: Session): number;
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
  service.on(Status, (session, page) => {
    const isAdmin = session.rights?.admin === true;
    return { reply: isAdmin ? server.status(page) : briefly(server.status({ limit: 0 })) };
  });
  service.on(Holdings, (session, { what, limit }) => ({
    reply: holdingsOf(targetFor(session, server), what, limit),
  }));
  service.on(Metrics, async (session) => {
    needsAdmin(session);
    return { reply: {}, bulk: [Buffer.from(await server.metricsText())] };
  });
  service.on(Evict, (session, { client, reason }) => {
    needsAdmin(session);
    return { reply: server.evict(client, reason ?? 'the administrator said so') };
  });
  service.on(Shutdown, (session, { drainTimeoutMs, cancel }) => {
    needsAdmin(session);
    if (cancel !== true) session.asksForShutdown();
    return { reply: cancel === true ? cancelShutdown(server) : shutdown(server, drainTimeoutMs) };
  });
  registerAccess(service, server);
  return service;
}

function registerAccess(service: Service<Session>, server: ServerView & AdminCommands): void {
  service.on(AccessList, (session, { after = '' }) => {
    const target = targetFor(session, server);
    const left = target.access.list().filter(({ name }) => name > after);
    const entries = left.slice(0, ENTRIES_PAGE).map((entry) => shown(entry, target, server));
    return { reply: { entries, more: entries.length < left.length ? true : undefined } };
  });
  service.on(AccessAdd, async (session, wish, incoming) => {
    const target = targetFor(session, server);
    const { entry, key } = target.access.add(wish);
    log('%s may connect', principalOf(entry));
    await target.access.sync();
    incoming.answer({ reply: { key: key && newKey(target, { entry, key }) } });
    return undefined;
  });
  service.on(AccessRotate, async (session, { name, graceMs }, incoming) => {
    const target = targetFor(session, server);
    const made = target.access.rotate(name, graceMs);
    log('%s has a new key', name);
    await target.access.sync();
    incoming.answer({ reply: { key: newKey(target, made) } });
    return undefined;
  });
  service.on(AccessRemove, async (session, { name }, incoming) => {
    const target = targetFor(session, server);
    const principal = principalOf(target.access.remove(name));
    const evicted = server.revoke(principal, `${name} was removed from the access table`, session);
    await target.access.sync();
    incoming.answer({ reply: { evicted } });
    // An administrator may remove himself.
    if (session.rights?.principal === principal) session.link.end();
    return undefined;
  });
}

/** @throws FsError EACCES */
function needsAdmin(session: Session): void {
  if (session.rights?.admin === true) return;
  throw new FsError(
    'EACCES',
    'this needs an administrator: root on the host of the server, or a key that was made with --admin',
  );
}

/** @throws FsError EACCES; EAGAIN without a target: the table lies on it. */
function targetFor(session: Session, server: ServerView): ServedTarget {
  needsAdmin(session);
  const { target } = server;
  if (target === undefined || target.life.isOver) {
    throw new FsError('EAGAIN', `the server is ${server.state}: ask the one that serves the filesystem`);
  }
  return target;
}

function shown(entry: AccessRecord, target: ServedTarget, server: AdminCommands): AccessEntryMessage {
  const principal = principalOf(entry);
  const clients = [...target.exports].filter(({ rights }) => rights.principal === principal).length;
  const keys = entry.keys.map(({ id, createdMs, untilMs }) => ({ id, createdMs, untilMs }));
  const throttledMs = Math.round(server.throttledMs(principal)) || undefined;
  return { ...entry, keys, clients, throttledMs };
}

function newKey({ store }: ServedTarget, { key }: MadeKey): NewKeyMessage {
  const { label, targetUuid } = store.superblock;
  return { id: key.id, secret: key.secret, label, targetUuid };
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
