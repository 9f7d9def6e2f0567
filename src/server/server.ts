/**
 * The server of one target, as the program and its parts see it: the wiring of its parts, and what an administrator may ask for.
 *
 * It owns the listener, the connections and, from activate() on, the store. A standby listens already and answers CONNECT
 * with "wait"; activate() hands it the target. What happens to the target from then on is the business of lifecycle/server_life.ts.
 */

import type { Checked } from '../base/assert.js';
import { FsError } from '../base/errno.js';
import { logger } from '../base/log.js';
import type { NoticeKind } from '../base/notices.js';
import { Deferred } from '../base/wait.js';
import { ALL_LOCKS_MAX } from '../dlm/lock_limits.js';
import { Service } from '../rpc/service.js';
import { OperationTimes } from '../runtime/operation_times.js';
import type { Address, CertificateFiles, Listener, Runtime, TlsListen } from '../runtime/ports.js';
import type { TargetStore } from '../storage/api.js';
import type { ServerStateName, StatusReply, StatusRequest } from '../wire/admin.js';
import { operationName } from '../wire/operations.js';
import type { PlainAccess } from './access/peers.js';
import { type AdminCommands, sessionService } from './admin_handlers.js';
import { type EvictedClient, findClient } from './export/exports.js';
import { ALL_OPENS_MAX } from './export/open_table.js';
import type { RecoveryWindow } from './lifecycle/recovery_window.js';
import { type LifeHost, ServerLife } from './lifecycle/server_life.js';
import type { ShutdownEnd } from './lifecycle/state.js';
import { registerHandlers } from './operations/table.js';
import { registerServerMetrics } from './server_metrics.js';
import { Admission } from './session/admission.js';
import { ConnectWait } from './session/connect_wait.js';
import { Connections } from './session/connections.js';
import { RequestMemory } from './session/request_memory.js';
import type { ServerSettings, ServerView } from './session/server_view.js';
import type { Session } from './session/session.js';
import { Throttle } from './session/throttle.js';
import { statusOf } from './status.js';
import { evict, forgetPrevious } from './target/eviction.js';
import type { ServedCall } from './target/served_call.js';
import type { ServedTarget } from './target/served_target.js';
import { ServingTime } from './target/serving_time.js';
import { type WatchedServer, watchedClients } from './watched_clients.js';

const log = logger('server');

/** Unless the administrator says otherwise. */
const CLIENTS_MAX = 10_000;
/** Of the memory, for locks and for open files of all clients, and what one costs. */
const LOCKS_SHARE = 0.4;
const LOCK_BYTES = 700;
const OPENS_SHARE = 0.2;
const OPEN_BYTES = 160;
/** Event-loop stalls longer than this are told to people. */
const SAID_STALL_MS = 5000;

export interface ServerOptions {
  readonly listen: Address;
  readonly softwareVersion: string;
  /** X.Y.Z: clients below it are refused. Default: none is. */
  readonly lowestPeer?: string | undefined;
  readonly forceStart?: boolean | undefined;
  /** A client that is not drained after this is evicted. Default 30 s. */
  readonly drainTimeoutMs?: number | undefined;
  /** Default 20 s. */
  readonly lockTimeoutMs?: number | undefined;
  /** Default 30 s and 90 s: for clients that do not come back, and for those that do not finish. */
  readonly recoverySoftMs?: number | undefined;
  readonly recoveryHardMs?: number | undefined;
  /** Default 5 s. */
  readonly pingIntervalMs?: number | undefined;
  /** Default 60 s. */
  readonly disconnectedMs?: number | undefined;
  /** Default 10,000. */
  readonly clientsMax?: number | undefined;
  /** As the limit of file descriptors allows. Default: not limited. */
  readonly connectionsMax?: number | undefined;
  /** What the process may use for its objects: locks and open files of all clients take part of it at most. Default: see settingsOf(). */
  readonly memoryBytes?: number | undefined;
  /** Shown by STATUS. */
  readonly pid?: number | undefined;
  /** Connections without TLS to take. Default: none over the network. */
  readonly plain?: PlainAccess | undefined;
  /** For clients with certificates. Default: keys only. */
  readonly certificate?: CertificateFiles | undefined;
  /** Told in one line of what the server does, for people. */
  readonly onState?: ((text: string, kind?: NoticeKind) => void) | undefined;
  /** Shown by STATUS: how often each kind of notice was given. */
  readonly notices?: (() => readonly { readonly kind: string; readonly count: number }[]) | undefined;
  /** What this process counts, in Prometheus' text format: for METRICS. */
  readonly metricsText?: (() => Promise<string>) | undefined;
}

function settingsOf(options: ServerOptions): ServerSettings {
  const { memoryBytes = Number.POSITIVE_INFINITY } = options;
  return {
    softwareVersion: options.softwareVersion,
    lowestPeer: options.lowestPeer,
    forceStart: options.forceStart ?? false,
    drainTimeoutMs: options.drainTimeoutMs ?? 30_000,
    lockTimeoutMs: options.lockTimeoutMs ?? 20_000,
    recoverySoftMs: options.recoverySoftMs ?? 30_000,
    recoveryHardMs: options.recoveryHardMs ?? 90_000,
    pingIntervalMs: options.pingIntervalMs ?? 5000,
    disconnectedMs: options.disconnectedMs ?? 60_000,
    clientsMax: options.clientsMax ?? CLIENTS_MAX,
    connectionsMax: options.connectionsMax ?? Number.POSITIVE_INFINITY,
    locksMax: Math.min(ALL_LOCKS_MAX, Math.floor((memoryBytes * LOCKS_SHARE) / LOCK_BYTES)),
    opensMax: Math.min(ALL_OPENS_MAX, Math.floor((memoryBytes * OPENS_SHARE) / OPEN_BYTES)),
    pid: options.pid,
    plain: options.plain,
  };
}

export class Server implements ServerView, AdminCommands, LifeHost {
  readonly runtime: Runtime;
  readonly settings: ServerSettings;
  readonly time: ServingTime;
  readonly connectWait: ConnectWait;
  readonly #life = new ServerLife(this);
  /** Resolves when the server has stopped, however it did. */
  readonly closed = this.#life.closed;
  readonly #options: ServerOptions;
  readonly #startedMs: number;
  readonly #admission: Admission;
  readonly #memory: RequestMemory;
  readonly #throttle: Throttle;
  readonly #connections: Connections;
  #listener: Listener | undefined;
  /** The Unix socket of this host. */
  #local: Listener | undefined;
  readonly #targetIsThere = new Deferred<void>();
  #portIsClosed = false;

  constructor(runtime: Runtime, options: ServerOptions) {
    this.runtime = runtime;
    this.settings = settingsOf(options);
    this.#options = options;
    this.#startedMs = runtime.clock.nowMs();
    this.time = new ServingTime(runtime, {
      isServing: () => this.#knowsItsTarget(),
      stalled: (ms) =>
        ms >= SAID_STALL_MS &&
        this.say(`stood still for ${Math.round(ms / 1000)} s: no client is late for it`),
    });
    this.connectWait = new ConnectWait(runtime.timers);
    this.#admission = new Admission(this);
    this.#memory = new RequestMemory(this);
    this.#throttle = new Throttle({
      clock: runtime.clock,
      timers: runtime.timers,
      pingIntervalMs: this.settings.pingIntervalMs,
      say: (text, kind) => this.say(text, kind),
    });
    this.#connections = this.#makeConnections(this.#memory);
    registerServerMetrics(this, this.#admission, this.#throttle);
  }

  #makeConnections(memory: RequestMemory): Connections {
    const times = new OperationTimes(this.runtime, {
      prefix: 'server_rpc',
      of: 'requests of clients, from when the server handles them to their answers',
      nameOf: operationName,
    });
    const clients = new Service<ServedCall>(memory, times, {
      waits: this.runtime.waits,
      whose: ({ client }) => `client ${client.label}`,
    });
    const services = {
      sessions: sessionService(this),
      clients,
      modifying: registerHandlers(clients, this),
      admission: this.#admission,
      throttle: this.#throttle,
    };
    return new Connections(this, services, memory, (text, kind) => this.say(text, kind));
  }

  get state(): ServerStateName {
    return this.#life.shown;
  }
  get isLeaving(): boolean {
    return this.#life.isLeaving;
  }
  get isShuttingDown(): boolean {
    return this.#life.isShuttingDown;
  }
  get target(): ServedTarget | undefined {
    return this.#life.target;
  }
  get recovery(): RecoveryWindow | undefined {
    return this.#life.recovery;
  }
  /** Why it stopped by itself, when it did. */
  get failure(): Error | undefined {
    return this.#life.failure;
  }
  /** Where it listens, with the port that was really bound. */
  get address(): Address {
    return this.#listener?.address ?? this.#options.listen;
  }

  /** @throws FsError EBUSY when the port is in use, EINVAL for an address that is none, ESHUTDOWN when the server stops meanwhile. */
  async listen(): Promise<void> {
    const { transport } = this.runtime;
    const accept = this.#connections.accept.bind(this.#connections);
    const listener = await transport.listen(this.#options.listen, accept, this.#tls());
    if (this.#portIsClosed) {
      await listener.close();
      throw new FsError('ESHUTDOWN', 'the server was stopped while it began to listen');
    }
    this.#listener = listener;
  }

  /**
   * Listens at a Unix socket too, whose name says which filesystem this is: so only a server that has the target does.
   * @throws FsError EBUSY when another process listens there, EINVAL.
   */
  async listenLocally(address: Address): Promise<void> {
    const listener = await this.runtime.transport.listen(
      address,
      this.#connections.accept.bind(this.#connections),
    );
    if (this.#portIsClosed) await listener.close();
    else this.#local = listener;
  }

  /** Of a standby: gives its port up, because the server that has the target now needs it. It may listen again. */
  async vacate(): Promise<void> {
    const listener = this.#listener;
    this.#listener = undefined;
    this.connectWait.over();
    this.#connections.hangUp();
    await listener?.close();
  }

  /**
   * Serves this target from now on. Owns the store: when this fails, it is closed.
   * @param store opened, not begun.
   * @throws FsError EPERM with the one-line message of the version gate, ESHUTDOWN from a server that is no standby; nothing
   *   was changed then.
   */
  activate(store: TargetStore): Promise<void> {
    return this.#life.activate(store);
  }

  /**
   * Controlled shutdown; joins the one under way. One that is asked for while the server starts follows the start.
   * @throws FsError EIO when the target fails, ECANCELED when the server is stopped: there is no mark then.
   */
  shutdown(options: { readonly drainTimeoutMs?: number | undefined } = {}): Promise<ShutdownEnd> {
    return this.#life.shutdown(options.drainTimeoutMs);
  }

  /** @returns false when no shutdown is under way, or its last client is drained already. */
  cancelShutdown(): boolean {
    return this.#life.cancelShutdown();
  }

  /** Stops without draining and without the clean mark, as a crash would, but in order. */
  stop(): Promise<void> {
    return this.#life.stop();
  }

  /**
   * A client that is waited for in the recovery window too, which may end it.
   * @throws FsError ENOENT, or EINVAL when more than one fits.
   */
  evict(idOrName: string, reason: string): { readonly uuid: string; readonly name: string } {
    const { target, recovery } = this;
    if (target === undefined || target.life.isOver) throw new FsError('ENOENT', 'the server is not active');
    const away = recovery?.isOpen === true ? recovery.missing() : [];
    const found = findClient([...target.exports, ...away], idOrName);
    const client = target.exports.get(found.uuid);
    if (client !== undefined) {
      evict(target, client, reason, 'administrator');
    } else {
      forgetPrevious(target, [found], reason, 'administrator');
    }
    return { uuid: found.uuid, name: found.name };
  }

  revoke(principal: string, reason: string, asks?: Session): number {
    const { target, recovery } = this;
    if (target === undefined || target.life.isOver) return 0;
    const here = [...target.exports].filter(({ rights }) => rights.principal === principal);
    const away = recovery?.isOpen === true ? recovery.missing() : [];
    const gone = away.filter((record) => record.principal === principal);
    for (const client of here) evict(target, client, reason, 'access');
    if (gone.length > 0) forgetPrevious(target, gone, reason, 'access');
    this.#connections.endOf(principal, asks);
    return here.length + gone.length;
  }

  /** What is in memory of the target that is served (which asks all its tables), to be judged between two events: for tests. */
  checked(): readonly Checked[] {
    const { target } = this;
    if (target === undefined || target.life.isOver) return [];
    return [target, this.#memory.slabs];
  }

  status(page?: StatusRequest): StatusReply {
    return {
      ...statusOf(this, this.#startedMs, page),
      notices: [...(this.#options.notices?.() ?? [])],
      drainLeftMs: this.state === 'draining' ? this.#life.drainLeftMs : undefined,
    };
  }

  /** For the live page. @param max so many clients at most are described; all are counted. */
  watch(max: number): WatchedServer {
    return { status: this.status({ limit: 0 }), ...watchedClients(this, this.#startedMs, max) };
  }

  /** @throws FsError EOPNOTSUPP if nobody renders them here. */
  metricsText(): Promise<string> {
    const { metricsText } = this.#options;
    if (metricsText === undefined) throw new FsError('EOPNOTSUPP', 'this server shows no metrics');
    return metricsText();
  }

  throttledMs(principal: string): number {
    return this.#throttle.waitedMs(principal);
  }

  refused(peer: string, why: string): void {
    this.say(`refuses ${peer}: ${why}`, 'refused');
  }

  admitsWatcher(principal: string): string | undefined {
    return this.#connections.admitsWatcher(principal);
  }

  admitsClient(clients: number): string | undefined {
    return this.#connections.admitsClient(clients);
  }

  // LifeHost.

  async closePort(): Promise<void> {
    this.#portIsClosed = true;
    await Promise.all([this.#listener?.close(), this.#local?.close()]);
  }

  serveHeld(): void {
    this.#admission.release();
  }

  hasTarget(): void {
    this.#targetIsThere.resolve();
    this.connectWait.over();
  }

  tellShutdownEnds(evicted: readonly EvictedClient[], count: number): void {
    this.#connections.tellShutdownEnds(evicted, count);
  }

  endConnections(): void {
    this.time.stop();
    this.connectWait.over();
    this.#throttle.end();
    this.#connections.end();
  }

  say(text: string, kind?: NoticeKind): void {
    log('%s', text);
    this.#options.onState?.(text, kind);
  }

  /** Frames wait while it does not (session.ts). */
  #knowsItsTarget(): boolean {
    const wait = this.target?.store.guard?.check();
    // A target that is lost says so by itself.
    wait?.catch(() => undefined);
    return wait === undefined;
  }

  /** A server without a target does not know the keys: who comes waits, before the handshake. */
  #tls(): TlsListen {
    return {
      ready: () => (this.target === undefined ? this.#targetIsThere.promise : undefined),
      keyOf: (identity) => this.target?.access.withKey(identity)?.key.secret,
      certificate: this.#options.certificate,
      refused: (peer, why) => this.refused(peer, why),
    };
  }
}

/** A server in standby: listen() and activate(store) in whatever order. */
export function createServer(runtime: Runtime, options: ServerOptions): Server {
  return new Server(runtime, options);
}

/** Listens, then serves. When one of the two fails, the store is closed and the port is free. */
export async function startServer(
  runtime: Runtime,
  options: ServerOptions & { readonly store: TargetStore },
): Promise<Server> {
  const server = new Server(runtime, options);
  try {
    await server.listen();
  } catch (error) {
    await options.store.close();
    await server.stop();
    throw error;
  }
  try {
    await server.activate(options.store);
  } catch (error) {
    await server.stop();
    throw error;
  }
  return server;
}
