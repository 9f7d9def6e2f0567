/**
 * The server of one target: standby -> starting -> recovering -> active -> draining -> committing -> stopped.
 *
 * It owns the listener, the sessions and, from activate() on, the store. A standby listens already and answers CONNECT
 * with "wait"; activate() hands it the target. Nothing on the devices changes before the version gate said yes.
 */

import type { Checked } from '../base/assert.js';
import { ByteBudget } from '../base/budget.js';
import { FsError } from '../base/errno.js';
import type { ClientUuid } from '../base/ids.js';
import { logger } from '../base/log.js';
import type { NoticeKind } from '../base/notices.js';
import { SlabPool } from '../base/slab_pool.js';
import { Deferred } from '../base/wait.js';
import { FrameLink } from '../rpc/link.js';
import { ReceiveRoom } from '../rpc/receive_room.js';
import { Service } from '../rpc/service.js';
import { WaitingRequests } from '../rpc/waiting_requests.js';
import {
  type Address,
  type Connection,
  type ConnectionEvents,
  type Listener,
  type Runtime,
  wallMs,
} from '../runtime/ports.js';
import type { ClientRecord, Superblock, TargetStore, Tx } from '../storage/api.js';
import type { ServerStateName, StatusReply, StatusRequest } from '../wire/admin.js';
import { type AdminCommands, sessionService } from './admin_handlers.js';
import { findClient } from './export/exports.js';
import { RecoveryWindow } from './lifecycle/recovery_window.js';
import { ControlledShutdown, type ShutdownEnd } from './lifecycle/shutdown.js';
import { startFailed } from './lifecycle/start_failed.js';
import { keepUnanswered } from './lifecycle/unanswered_creates.js';
import { registerHandlers } from './operations/table.js';
import { Admission } from './session/admission.js';
import { ConnectWait } from './session/connect_wait.js';
import { Liveness } from './session/liveness.js';
import type { ServerSettings, ServerView } from './session/server_view.js';
import { Session, type SessionServices } from './session/session.js';
import { statusOf } from './status.js';
import { endRequests, evict, forgetPrevious, forgotPrevious, removePrevious } from './target/eviction.js';
import { lockServerOf } from './target/lock_server.js';
import { sweepOrphans } from './target/orphans.js';
import type { ServedCall } from './target/served_call.js';
import { ServedTarget, type TargetEvents } from './target/served_target.js';
import { ServingTime } from './target/serving_time.js';
import { decideStart, type GateDecision } from './target/version_gate.js';

const log = logger('server');

/** Of all bulks that are being written at one time. */
const BULK_BYTES_MAX = 256 << 20;
/** Of all frames that are on their way in, or wait for those that are being written. */
const ARRIVING_BYTES_MAX = 128 << 20;
const WRITE_SLABS = 32;
/** A client that does not take its replies is not read from: what it asks for would only pile up here. */
const OUTPUT_PAUSE_BYTES = 16 << 20;
/** Unless the administrator says otherwise. */
const CLIENTS_MAX = 10_000;
/** Connections beyond one for each client that have not said CONNECT, or were not answered: the oldest of more is closed. */
const STRANGERS_MORE = 1024;
/** Of the connections, for administrators. */
const ADMIN_CONNECTIONS = 16;
const SAID_FULL_MS = 60_000;
/** Standing still for so long is told. */
const SAID_STALL_MS = 5000;

export interface ServerOptions {
  readonly listen: Address;
  readonly softwareVersion: string;
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
  /** Shown by STATUS. */
  readonly pid?: number | undefined;
  /** Take connections from any source port; else only from those below 1024. */
  readonly anyPort?: boolean | undefined;
  /** Told in one line of what the server does, for people. */
  readonly onState?: ((text: string, kind?: NoticeKind) => void) | undefined;
  /** Shown by STATUS: how often each kind of notice was given. */
  readonly notices?: (() => readonly { readonly kind: string; readonly count: number }[]) | undefined;
}

function settingsOf(options: ServerOptions): ServerSettings {
  return {
    softwareVersion: options.softwareVersion,
    forceStart: options.forceStart ?? false,
    drainTimeoutMs: options.drainTimeoutMs ?? 30_000,
    lockTimeoutMs: options.lockTimeoutMs ?? 20_000,
    recoverySoftMs: options.recoverySoftMs ?? 30_000,
    recoveryHardMs: options.recoveryHardMs ?? 90_000,
    pingIntervalMs: options.pingIntervalMs ?? 5000,
    disconnectedMs: options.disconnectedMs ?? 60_000,
    clientsMax: options.clientsMax ?? CLIENTS_MAX,
    connectionsMax: options.connectionsMax ?? Number.POSITIVE_INFINITY,
    pid: options.pid,
    anyPort: options.anyPort ?? false,
  };
}

/** What a start finds on the target. */
interface Found {
  readonly known: readonly ClientRecord[];
  readonly recovers: boolean;
  readonly previous: Superblock;
}

export class Server implements ServerView, AdminCommands, TargetEvents {
  readonly runtime: Runtime;
  readonly settings: ServerSettings;
  readonly time: ServingTime;
  readonly #closed = new Deferred<void>();
  /** Resolves when the server has stopped, however it did. */
  readonly closed = this.#closed.promise;
  readonly connectWait: ConnectWait;
  readonly #options: ServerOptions;
  readonly #startedMs: number;
  readonly #sessions = new Set<Session>();
  readonly #services: SessionServices;
  readonly #liveness: Liveness;
  #state: ServerStateName = 'standby';
  /** Memory that the bulks of WRITEs are received in. */
  readonly #slabs = new SlabPool(
    WRITE_SLABS,
    // So that the device takes their content from where it arrived.
    (lengthBytes) => this.#target?.store.data.memory(lengthBytes) ?? Buffer.allocUnsafeSlow(lengthBytes),
  );
  /** For what is on its way in, of all connections. */
  readonly #room: ReceiveRoom;
  readonly #waiting = new WaitingRequests();
  /** Why connections or clients were refused, and when that was said. */
  readonly #saidFullMs = new Map<string, number>();
  #target: ServedTarget | undefined;
  #recovery: RecoveryWindow | undefined;
  #shutdown: ControlledShutdown | undefined;
  #listener: Listener | undefined;
  #failure: Error | undefined;

  constructor(runtime: Runtime, options: ServerOptions) {
    this.runtime = runtime;
    this.settings = settingsOf(options);
    this.#options = options;
    this.#startedMs = runtime.clock.nowMs();
    this.time = new ServingTime(runtime, {
      isServing: () => this.#knowsItsTarget(),
      stalled: (ms) =>
        ms >= SAID_STALL_MS &&
        this.#say(`stood still for ${Math.round(ms / 1000)} s: no client is late for it`),
    });
    this.connectWait = new ConnectWait(runtime.timers);
    this.#room = new ReceiveRoom(this.time, ARRIVING_BYTES_MAX);
    const bulkBudget = new ByteBudget('server bulk', BULK_BYTES_MAX);
    const clients = new Service<ServedCall>({ bulkBudget, waiting: this.#waiting, slabs: this.#slabs });
    this.#services = {
      sessions: sessionService(this),
      clients,
      modifying: registerHandlers(clients, this),
      admission: new Admission(this),
    };
    this.#liveness = new Liveness(this, this.#sessions);
    this.#registerMetrics(bulkBudget);
  }

  get state(): ServerStateName {
    return this.#state;
  }
  get target(): ServedTarget | undefined {
    return this.#target;
  }
  get recovery(): RecoveryWindow | undefined {
    return this.#recovery;
  }
  /** Why it stopped by itself, when it did. */
  get failure(): Error | undefined {
    return this.#failure;
  }
  /** Where it listens, with the port that was really bound. */
  get address(): Address {
    return this.#listener?.address ?? this.#options.listen;
  }

  /** @throws FsError EBUSY when the port is in use, EINVAL for an address that is none. */
  async listen(): Promise<void> {
    const { transport } = this.runtime;
    this.#listener = await transport.listen(this.#options.listen, (connection) => this.#accept(connection));
  }

  get isShuttingDown(): boolean {
    return this.#shutdown !== undefined;
  }

  /**
   * Serves this target from now on. Owns the store: when this fails, it is closed.
   * @param store opened, not begun.
   * @throws FsError EPERM with the one-line message of the version gate; nothing was changed then.
   */
  async activate(store: TargetStore): Promise<void> {
    const { softwareVersion, forceStart } = this.settings;
    const decision = decideStart(store.superblock, softwareVersion, forceStart);
    if (!decision.start) {
      await store.close();
      throw new FsError('EPERM', decision.message);
    }
    this.#setState('starting');
    const previous = store.superblock;
    try {
      const known = store.clients();
      const recovers = known.length > 0 && decision.previousClients === 'recover';
      // In the transaction that begins the instance: no crash leaves clients behind that would recover after all.
      const within =
        decision.previousClients === 'recover'
          ? undefined
          : (tx: Tx): void =>
              removePrevious(tx, known, {
                reason: decision.reason,
                instance: previous.instance + 1,
                atMs: wallMs(this.runtime.clock),
              });
      await store.begin(softwareVersion, { recovering: recovers, within });
      this.#serve(store, decision, { known, recovers, previous });
    } catch (error) {
      const failure = await startFailed(store, previous, softwareVersion, error);
      this.#recovery?.abandon();
      this.#target?.stop();
      this.#target = undefined;
      this.#setState('standby');
      await store.close();
      throw failure;
    }
    this.connectWait.over();
  }

  #serve(
    store: TargetStore,
    decision: GateDecision & { readonly start: true },
    { known, recovers, previous }: Found,
  ): void {
    const target = new ServedTarget(this.runtime, this.time, store, this.settings, this, lockServerOf);
    this.#target = target;
    // Also tells the target how far FIDs were handed out before.
    target.allocateFids();
    void store.failed.then((cause) => this.#fail(cause));
    if (recovers) {
      this.#recover(target, known, previous);
    } else {
      if (decision.previousClients === 'evict') forgotPrevious(target, known, decision.reason);
      this.#active();
    }
  }

  // TargetEvents.

  clientLeaves(uuid: ClientUuid): void {
    this.#recovery?.leaves(uuid);
  }

  clientGone(uuid: ClientUuid): void {
    this.#recovery?.gone(uuid);
  }

  clientEvicted(text: string): void {
    this.#say(text, 'evicted');
  }

  says(kind: NoticeKind, text: string): void {
    this.#say(text, kind);
  }

  /** What is in memory of the target that is served (which asks all its tables), to be judged between two events: for tests. */
  checked(): readonly Checked[] {
    const target = this.#target;
    if (target === undefined || target.life.isOver) return [];
    return [target, this.#slabs];
  }

  status(page?: StatusRequest): StatusReply {
    return {
      ...statusOf(this, this.#startedMs, page),
      notices: [...(this.#options.notices?.() ?? [])],
      drainLeftMs: this.#state === 'draining' ? this.#shutdown?.drainLeftMs : undefined,
    };
  }

  /** Controlled shutdown; joins the one under way. @throws FsError EIO when the target fails: there is no mark then. */
  shutdown(options: { readonly drainTimeoutMs?: number | undefined } = {}): Promise<ShutdownEnd> {
    if (this.#shutdown !== undefined) return this.#shutdown.join(options.drainTimeoutMs);
    const target = this.#target;
    if (target === undefined || target.life.isOver) return this.stop().then(() => 'clean');
    this.#setState('draining');
    const timeoutMs = options.drainTimeoutMs ?? this.settings.drainTimeoutMs;
    const shutdown = new ControlledShutdown(target, this.#recovery, timeoutMs, {
      committing: async () => {
        await this.#listener?.close();
        this.#setState('committing');
      },
      release: () => {
        this.#tellHowItEnded();
        return this.#release(target);
      },
      said: (text) => this.#say(text),
    });
    this.#shutdown = shutdown;
    void shutdown.result.then(
      (how) => this.#shutdownEnded(how),
      (error) => this.#fail(error instanceof Error ? error : new Error(String(error))),
    );
    return shutdown.result;
  }

  /** @returns false when no shutdown is under way, or its last client is drained already. */
  cancelShutdown(): boolean {
    return this.#shutdown?.cancel() ?? false;
  }

  /**
   * A client that is waited for in the recovery window too, which may end it.
   * @throws FsError ENOENT, or EINVAL when more than one fits.
   */
  evict(idOrName: string, reason: string): { readonly uuid: string; readonly name: string } {
    const target = this.#target;
    if (target === undefined || target.life.isOver) throw new FsError('ENOENT', 'the server is not active');
    const away = this.#recovery?.isOpen === true ? this.#recovery.missing() : [];
    const found = findClient([...target.exports, ...away], idOrName);
    const client = target.exports.get(found.uuid);
    if (client !== undefined) {
      evict(target, client, reason);
    } else {
      forgetPrevious(target, [found], reason);
    }
    return { uuid: found.uuid, name: found.name };
  }

  /** Stops without draining and without the clean mark, as a crash would, but in order. */
  async stop(): Promise<void> {
    if (this.#state === 'stopped') return this.closed;
    await this.#listener?.close();
    this.#recovery?.abandon();
    this.#shutdown?.abort(this.#failure ?? new FsError('ECANCELED', 'the server was stopped'));
    await this.#release(this.#target);
  }

  #accept(connection: Connection): ConnectionEvents {
    const outputPauseBytes = OUTPUT_PAUSE_BYTES;
    const options = { outputPauseBytes, slabs: this.#slabs, room: this.#room, stranger: true };
    return new FrameLink(connection, options, (link) => {
      const session = new Session(this, this.#services, link, (ended) => {
        this.#sessions.delete(ended);
        this.#services.admission.forget(ended);
      });
      this.#sessions.add(session);
      this.#limitConnections(session);
      return session;
    });
  }

  /** Sessions are in the order in which they came. */
  #limitConnections(latest: Session): void {
    const { clientsMax, connectionsMax } = this.settings;
    // Before the target is there all clients may be strangers.
    const strangersMax = clientsMax + STRANGERS_MORE;
    const isFull = this.#sessions.size > connectionsMax;
    if (!isFull && this.#sessions.size <= strangersMax) return;
    const strangers = [...this.#sessions].filter(({ role }) => role === 'none');
    if (!isFull && strangers.length <= strangersMax) return;
    const [oldest = latest] = strangers;
    this.#sayFull(
      isFull
        ? `all ${connectionsMax} connections that its file descriptors allow are in use`
        : `${strangers.length} connections wait`,
      isFull ? 'out-of-descriptors' : undefined,
    );
    // Not in this turn: its transport is about to start it.
    this.runtime.timers.soon(() => oldest.link.destroy(new FsError('EBUSY', 'too many connections')));
  }

  admitsClient(clients: number): string | undefined {
    const { clientsMax, connectionsMax } = this.settings;
    if (clients >= clientsMax) {
      return this.#sayFull(`the server has ${clients} clients, as many as it takes (--max-clients)`);
    }
    const { size } = this.#sessions;
    if (size <= connectionsMax - ADMIN_CONNECTIONS) return undefined;
    const why = `the server has ${size} connections, as many as its file descriptors allow`;
    return this.#sayFull(why, 'out-of-descriptors');
  }

  /** Once a minute, however many are refused. */
  #sayFull(why: string, kind?: NoticeKind): string {
    const reason = why.replaceAll(/\d+/g, 'n');
    const now = this.runtime.clock.nowMs();
    const last = this.#saidFullMs.get(reason);
    if (last === undefined || now - last >= SAID_FULL_MS) {
      this.#saidFullMs.set(reason, now);
      this.#say(`refuses connections: ${why}`, kind);
    }
    return why;
  }

  #recover(target: ServedTarget, known: readonly ClientRecord[], previous: Superblock): void {
    // A lock that waited must not be granted before its holder has replayed it.
    target.locks.holdFlockGrants(true);
    target.recovering = true;
    const { recoverySoftMs, recoveryHardMs } = this.settings;
    this.#recovery = new RecoveryWindow(this.runtime, this.time, known, {
      previousVersion: previous.softwareVersion,
      wasClean: previous.clean,
      softMs: recoverySoftMs,
      hardMs: recoveryHardMs,
      lastTransno: target.store.lastTransno,
      expired: (client, reason) => {
        const owner = target.exports.get(client.uuid);
        if (owner === undefined) forgetPrevious(target, [client], reason);
        else evict(target, owner, reason);
      },
      ended: () => {
        target.store.endRecovery();
        target.recovering = false;
        for (const client of target.exports) {
          client.recovering = false;
          keepUnanswered(target, client);
        }
        target.locks.holdFlockGrants(false);
      },
      over: () => this.#active(),
    });
    this.#setState('recovering');
    this.#say(`waits for ${known.length} clients to recover`);
  }

  #active(): void {
    this.#setState('active');
    if (this.#target !== undefined) sweepOrphans(this.#target);
    this.#services.admission.release();
  }

  /** Whoever asked for the shutdown; the connections are ended in order right after. */
  #tellHowItEnded(): void {
    const evicted = this.#shutdown?.evicted;
    if (evicted === undefined) return;
    for (const session of this.#sessions) session.tellShutdownEnds(evicted.clients, evicted.count);
  }

  #shutdownEnded(how: ShutdownEnd): void {
    if (how !== 'cancelled' || this.#target?.life.isOver === true) return;
    this.#shutdown = undefined;
    this.#say('the shutdown was taken back');
    this.#setState('active');
    this.#services.admission.release();
  }

  /** Connections end in order, then the devices are free. */
  async #release(target: ServedTarget | undefined): Promise<void> {
    target?.stop();
    this.#liveness.stop();
    this.time.stop();
    this.connectWait.over();
    // Dropping a holder's application locks would grant them to who waits, and say so: a client would replay it as held.
    target?.locks.holdFlockGrants(true);
    // First of all: what happens to locks from here on is no client's business, its next server has them all.
    for (const session of [...this.#sessions]) session.link.end();
    for (const client of target?.exports ?? []) {
      endRequests(client, 'the server stops');
      // Its BASTs have time limits, which would keep the process waiting.
      target?.locks.dropClient(client.uuid);
    }
    for (const uuid of target?.leaving.keys() ?? []) target?.locks.dropClient(uuid);
    try {
      await target?.store.close();
    } finally {
      this.#setState('stopped');
      this.#closed.resolve();
    }
  }

  /** The target cannot commit any more: nothing may be answered as if it could. */
  #fail(cause: Error): void {
    if (this.#failure !== undefined || this.#target?.life.isOver === true || this.#state === 'stopped')
      return;
    this.#failure = cause;
    this.#say(`stops: ${cause.message}`);
    this.stop().catch((error: unknown) => log('stopping after a failure: %O', error));
  }

  /** Frames wait while it does not (session.ts). */
  #knowsItsTarget(): boolean {
    const wait = this.#target?.store.guard?.check();
    // A target that is lost says so by itself.
    wait?.catch(() => undefined);
    return wait === undefined;
  }

  #setState(state: ServerStateName): void {
    if (this.#state === state) return;
    this.#state = state;
    this.#say(state);
  }

  #say(text: string, kind?: NoticeKind): void {
    log('%s', text);
    this.#options.onState?.(text, kind);
  }

  #registerMetrics(bulkBudget: ByteBudget): void {
    const { metrics } = this.runtime;
    metrics.gauge('holdfast_server_clients', 'Clients with an export', () => this.#target?.exports.size ?? 0);
    metrics.gauge('holdfast_server_connections', 'Open connections', () => this.#sessions.size);
    metrics.gauge(
      'holdfast_server_held_requests',
      'Requests held until recovery ends',
      () => this.#services.admission.held,
    );
    metrics.gauge('holdfast_server_arriving_bytes', 'Frames on their way in', () => this.#room.usedBytes);
    metrics.gauge('holdfast_server_waiting_bytes', 'Requests that wait', () => this.#waiting.usedBytes);
    metrics.gauge('holdfast_server_bulk_bytes', 'Bulks being written', () => bulkBudget.usedBytes);
    metrics.gauge(
      'holdfast_server_promised_bytes',
      'Space granted to clients',
      () => this.#target?.grants.promisedBytes ?? 0,
    );
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
