/**
 * The connections of a server: each becomes a session, and there are no more of them than the limits allow.
 *
 * A connection that has not said CONNECT, or was not answered, is a stranger: the oldest of too many strangers is closed. The last
 * few connections that the file descriptors allow are kept for administrators. Both are told to people once a minute.
 */

import { FsError } from '../../base/errno.js';
import type { NoticeKind } from '../../base/notices.js';
import { FrameTurns } from '../../rpc/frame_turns.js';
import { FrameLink } from '../../rpc/link.js';
import type { Connection, ConnectionEvents } from '../../runtime/ports.js';
import type { EvictedClient } from '../export/exports.js';
import { Liveness } from './liveness.js';
import type { RequestMemory } from './request_memory.js';
import type { ServerView } from './server_view.js';
import { Session, type SessionServices } from './session.js';

/** A client that does not take its replies is not read from: what it asks for would only pile up here. */
const OUTPUT_PAUSE_BYTES = 16 << 20;
/** Strangers beyond one for each client. */
const STRANGERS_MORE = 1024;
/** Strangers at any time. Each costs up to 16 KiB: STRANGER_BODY_BYTES, and 12 KiB that the connection itself needs. All of them: 64 MiB. */
const STRANGERS_MAX = 4096;
/** Of the connections, for administrators. */
const ADMIN_CONNECTIONS = 16;
/** Of one entry of the access table that is no administrator's, at a time. */
const WATCHERS_MAX = 32;
const SAID_FULL_MS = 60_000;

export class Connections {
  readonly #server: ServerView;
  readonly #services: SessionServices;
  readonly #memory: RequestMemory;
  readonly #say: (text: string, kind?: NoticeKind) => void;
  /** In the order in which they came. */
  readonly #sessions = new Set<Session>();
  readonly #liveness: Liveness;
  readonly #turns: FrameTurns;
  /** Why connections or clients were refused, and when that was said. */
  readonly #saidFullMs = new Map<string, number>();

  /** @param say for people. */
  constructor(
    server: ServerView,
    services: SessionServices,
    memory: RequestMemory,
    say: (text: string, kind?: NoticeKind) => void,
  ) {
    this.#server = server;
    this.#services = services;
    this.#memory = memory;
    this.#say = say;
    this.#liveness = new Liveness(server, this.#sessions);
    this.#turns = new FrameTurns(server.runtime);
    const { metrics } = server.runtime;
    metrics.gauge('holdfast_server_connections', 'Open connections', () => this.#sessions.size);
    metrics.gauge(
      'holdfast_server_connections_in_turn',
      'Connections with frames that wait for their turn',
      () => this.#turns.waiting,
    );
  }

  accept(connection: Connection): ConnectionEvents {
    const { slabs, room } = this.#memory;
    const options = { outputPauseBytes: OUTPUT_PAUSE_BYTES, slabs, room, turns: this.#turns, stranger: true };
    return new FrameLink(connection, options, (link) => {
      const session = new Session(this.#server, this.#services, link, (ended) => {
        this.#sessions.delete(ended);
        this.#services.admission.forget(ended);
      });
      this.#sessions.add(session);
      this.#limit(session);
      return session;
    });
  }

  /** @returns why one more client has to wait, if it has to. */
  admitsClient(clients: number): string | undefined {
    const { clientsMax, connectionsMax } = this.#server.settings;
    if (clients >= clientsMax) {
      return this.#sayFull(`the server has ${clients} clients, as many as it takes (--max-clients)`);
    }
    const { size } = this.#sessions;
    if (size <= connectionsMax - ADMIN_CONNECTIONS) return undefined;
    const why = `the server has ${size} connections, as many as its file descriptors allow`;
    return this.#sayFull(why, 'out-of-descriptors');
  }

  /**
   * Connections of role admin have no session that counts for a limit, and nobody expects a sign of life from them. So whoever is no
   * administrator, and may only ask how the server is, has few of them.
   * @returns why one more is refused, if it is.
   */
  admitsWatcher(principal: string): string | undefined {
    let watchers = 0;
    for (const { role, rights } of this.#sessions) {
      if (role === 'admin' && rights?.principal === principal) watchers += 1;
    }
    if (watchers < WATCHERS_MAX) return undefined;
    return `${principal} has ${watchers} connections that ask for the status, as many as it may have`;
  }

  /** Whoever asked for the shutdown; the connections are ended in order right after. */
  tellShutdownEnds(evicted: readonly EvictedClient[], count: number): void {
    for (const session of this.#sessions) session.tellShutdownEnds(evicted, count);
  }

  /** Ends those that were made with this proof. @param except still has to get an answer. */
  endOf(principal: string, except?: Session): void {
    for (const session of [...this.#sessions]) {
      if (session.rights?.principal === principal && session !== except) session.link.end();
    }
  }

  /** Ends them in order: what was sent arrives. */
  hangUp(): void {
    for (const session of [...this.#sessions]) session.link.end();
  }

  /** Ends them, and there are no more. */
  end(): void {
    this.#liveness.stop();
    this.hangUp();
  }

  #limit(latest: Session): void {
    const { clientsMax, connectionsMax } = this.#server.settings;
    // Before the target is there all clients may be strangers.
    const strangersMax = Math.min(clientsMax + STRANGERS_MORE, STRANGERS_MAX);
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
    const tooMany = new FsError('EBUSY', 'too many connections');
    this.#server.runtime.timers.soon(() => oldest.link.destroy(tooMany));
  }

  /** Once a minute, however many are refused. */
  #sayFull(why: string, kind?: NoticeKind): string {
    const reason = why.replaceAll(/\d+/g, 'n');
    const now = this.#server.runtime.clock.nowMs();
    const last = this.#saidFullMs.get(reason);
    if (last === undefined || now - last >= SAID_FULL_MS) {
      this.#saidFullMs.set(reason, now);
      this.#say(`refuses connections: ${why}`, kind);
    }
    return why;
  }
}
