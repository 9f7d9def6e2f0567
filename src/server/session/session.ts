/**
 * Session: one connection to the server, from accept to close. CONNECT makes it a client's or an administrator's.
 *
 * The frames of a client pass admission here. The server answers a resend from reply data, holds requests that must
 * wait for the end of the recovery window (or for the next server), and dispatches all others.
 */

import { FsError } from '../../base/errno.js';
import type { Xid } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import type { Frame, LinkEvents, ServiceHooks } from '../../rpc/api.js';
import type { FrameLink } from '../../rpc/link.js';
import { type Pinger, startPinger } from '../../rpc/pinger.js';
import { Requester } from '../../rpc/requester.js';
import type { Service } from '../../rpc/service.js';
import {
  AccessAdd,
  AccessList,
  AccessRemove,
  AccessRotate,
  Evict,
  Holdings,
  Metrics,
  Shutdown,
  ShutdownEnds,
  Status,
} from '../../wire/admin.js';
import { Batch } from '../../wire/batch.js';
import { Write } from '../../wire/data.js';
import { FLAG_REPLAY, FLAG_RESENT, KIND } from '../../wire/header.js';
import { Cast, Enqueue } from '../../wire/lock.js';
import { Connect } from '../../wire/session.js';
import type { Rights } from '../access/rights.js';
import type { ClientExport } from '../export/export.js';
import type { EvictedClient } from '../export/exports.js';
import { dropAnswered } from '../lifecycle/unanswered_creates.js';
import { dropHeld, evict } from '../target/eviction.js';
import { ServedCall } from '../target/served_call.js';
import type { Admission, FrameSource } from './admission.js';
import { type ClientServices, replay, replaysLost } from './replay.js';
import type { ServerView } from './server_view.js';
import type { Throttle, TokenUser } from './throttle.js';

const log = logger('server:session');

const ADMIN_OPCODES: ReadonlySet<number> = new Set(
  [Status, Metrics, Holdings, Shutdown, Evict, AccessList, AccessAdd, AccessRemove, AccessRotate].map(
    ({ opcode }) => opcode,
  ),
);

/** Of answers that a stranger does not take: more than those to one CONNECT. */
const STRANGER_OUTPUT_BYTES = 8 << 10;

export interface SessionServices extends ClientServices {
  /** CONNECT and the admin family. */
  readonly sessions: Service<Session>;
  readonly admission: Admission;
  readonly throttle: Throttle;
}

export class Session implements LinkEvents, FrameSource, TokenUser {
  readonly link: FrameLink;
  role: 'none' | 'client' | 'admin' = 'none';
  client: ClientExport | undefined;
  /** Since CONNECT has found who the peer is. */
  rights: Rights | undefined;
  /** When the peer connected, or last sent CONNECT: the server closes a connection that does not say CONNECT. */
  sinceMs: number;
  readonly #server: ServerView;
  readonly #services: SessionServices;
  readonly #ended: (session: Session) => void;
  /** One counter for all sessions of a server. */
  readonly #requests: { inc(by?: number): void };
  #asksForShutdown = false;
  #justAttached = false;
  /** The client pings; the server watches. */
  #pinger: Pinger | undefined;

  constructor(
    server: ServerView,
    services: SessionServices,
    link: FrameLink,
    ended: (session: Session) => void,
  ) {
    this.#server = server;
    this.#services = services;
    this.link = link;
    this.#ended = ended;
    const { metrics } = server.runtime;
    this.#requests = metrics.counter(
      'holdfast_server_requests_total',
      'Requests of clients, resent ones too',
    );
    this.sinceMs = server.time.nowMs();
  }

  /** CONNECT calls it: this is the client's connection from now on. */
  attach(client: ClientExport): void {
    this.role = 'client';
    this.client = client;
    client.link = this.link;
    this.link.welcome();
    if (client.disconnectedAtMs !== undefined) {
      const seconds = ((this.#server.time.nowMs() - client.disconnectedAtMs) / 1000).toFixed(1);
      this.#server.target?.events.says('back', `client ${client.label} is back after ${seconds} s`);
    }
    client.disconnectedAtMs = undefined;
    this.#justAttached = true;
    this.#pinger?.stop();
    const intervalMs = this.#server.settings.pingIntervalMs;
    this.#pinger = startPinger(
      { timers: this.#server.time },
      {
        link: this.link,
        intervalMs,
        dead: () => this.link.destroy(new FsError('ETIMEDOUT', `client ${client.label} was silent`)),
      },
    );
  }

  /** An administrator asked for the shutdown on this connection: the server will tell it how the shutdown ended. */
  asksForShutdown(): void {
    this.#asksForShutdown = true;
  }

  tellShutdownEnds(evicted: readonly EvictedClient[], evictedCount: number): void {
    if (!this.#asksForShutdown) return;
    const requester = new Requester();
    requester.attach(this.link, { resend: false });
    requester.notify(ShutdownEnds, { evicted: [...evicted], evictedCount });
    requester.detach();
  }

  // LinkEvents.

  frame(frame: Frame): void {
    const { target, connectWait } = this.#server;
    const isEarly = target === undefined && frame.header.opcode === Connect.opcode;
    const wait = isEarly ? connectWait.begin() : target?.store.guard?.check();
    if (wait === undefined) this.#receive(frame);
    else this.#receiveAfter(wait, frame);
  }

  /**
   * A server that stood still for long may have lost its target: it answers nothing before it knows. A server that has
   * no target yet may have one in a moment.
   */
  #receiveAfter(wait: Promise<void>, frame: Frame): void {
    this.link.pause(true);
    wait.then(
      () => {
        if (!this.link.isClosed) this.#receive(frame);
        this.link.resume();
      },
      (thrown: Error) => this.link.destroy(thrown),
    );
  }

  /** Others wait for what the client sends, or the server drains: its requests do not wait for tokens. */
  isUrgent(): boolean {
    const { state, target } = this.#server;
    if (state !== 'active' || target === undefined) return true;
    const { client } = this;
    if (client === undefined) return false;
    return target.locks.isWanted(client.uuid) || client.requester.inFlight > 0;
  }

  #receive(frame: Frame): void {
    if (this.#server.isLeaving && this.role !== 'admin') return;
    const client = this.client;
    if (this.rights !== undefined && this.#server.state === 'active') this.#services.throttle.took(this);
    if (frame.header.opcode === Connect.opcode && frame.header.kind === KIND.request) {
      this.#connect(frame);
    } else if (client !== undefined) {
      this.#clientFrame(client, frame);
    } else if (this.role === 'admin' && ADMIN_OPCODES.has(frame.header.opcode)) {
      this.#services.sessions.dispatch(this, this.link, frame, this.#hooks);
    } else {
      this.link.destroy(new FsError('EPROTO', `opcode ${frame.header.opcode} before CONNECT`));
    }
  }

  closed(error?: Error): void {
    if (error !== undefined) log('%s: %s', this.link.peer, error.message);
    this.#ended(this);
    this.#services.throttle.forget(this);
    this.#pinger?.stop();
    const client = this.client;
    if (client === undefined || client.link !== this.link) return;
    client.link = undefined;
    client.disconnectedAtMs = this.#server.time.nowMs();
    // A server that stops loses the connections of all clients: say nothing then.
    const { state, target } = this.#server;
    if (!client.life.isOver && (state === 'active' || state === 'recovering')) {
      const why = error === undefined ? '' : `: ${error.message}`;
      target?.events.says('connection-lost', `connection of client ${client.label} lost${why}`);
    }
    this.#detached(client);
  }

  readonly #hooks: ServiceHooks = {
    lastCommitted: () => this.#server.target?.store.lastCommitted ?? NOTHING,
  };

  #connect(frame: Frame): void {
    if (this.role === 'none' && this.link.bufferedBytes > STRANGER_OUTPUT_BYTES) {
      this.link.destroy(new FsError('EPROTO', 'it asks again and again, and does not read the answers'));
      return;
    }
    this.sinceMs = this.#server.time.nowMs();
    this.#services.sessions.dispatch(this, this.link, frame, this.#hooks);
    if (this.rights !== undefined) this.link.join(this.rights.principal, this.rights.limits.waitingBytes);
    const client = this.client;
    if (!this.#justAttached || client === undefined) return;
    // The reply has left. Now BASTs and glimpses from the time without a connection may follow.
    this.#justAttached = false;
    client.lastHeardMs = this.#server.runtime.clock.nowMs();
    client.requester.attach(this.link, { resend: true });
    this.#sayCasts(client);
    this.#server.target?.locks.resend(client.uuid);
  }

  #sayCasts(client: ClientExport): void {
    for (const cast of client.casts.again()) client.requester.notify(Cast, cast);
  }

  /** Ends the waits that the client will start anew, and drops the frames that it will send again. */
  #detached(client: ClientExport): void {
    client.requester.detach();
    replaysLost(client, this.#server.recovery);
    client.endWaits(new FsError('ECANCELED', 'the connection is lost'));
    dropHeld(client);
  }

  #clientFrame(client: ClientExport, received: Frame): void {
    const frame = withoutSurplus(received);
    if (client.link !== this.link || frame.header.connCount !== this.link.connCount) return;
    client.lastHeardMs = this.#server.runtime.clock.nowMs();
    if (frame.header.kind === KIND.reply) {
      client.requester.reply(frame);
      return;
    }
    if (frame.header.kind === KIND.request) {
      this.#requests.inc();
      this.#acknowledged(client, frame.header.ackXidOrCommitted);
      if (frame.header.flags !== 0) {
        if ((frame.header.flags & FLAG_REPLAY) !== 0) {
          replay(this.#server, this.#services, this.link, client, frame);
          return;
        }
        if ((frame.header.flags & FLAG_RESENT) !== 0 && this.#answeredBefore(client, frame)) return;
      }
    }
    if (this.#services.admission.holds(this, client, frame)) return;
    this.dispatch(client, frame);
  }

  /** Every reply to an xid below this has arrived at the client. */
  #acknowledged(client: ClientExport, below: number): void {
    client.answered.acknowledge(below);
    client.durableAnswers.acknowledge(below);
    client.casts.acknowledge(below);
    const { target } = this.#server;
    if (client.provisional.size > 0 && target?.life.isOver === false) dropAnswered(target, client, below);
  }

  dispatch(client: ClientExport, frame: Frame): void {
    const { target } = this.#server;
    if (target === undefined || client.life.isOver) return;
    const modifies = this.#services.modifying.has(frame.header.opcode);
    const call = new ServedCall(target, client, frame, this.link, modifies);
    if ((frame.header.flags & FLAG_RESENT) !== 0) {
      call.executedBefore = client.durableAnswers.inherited(frame.header.xid);
    }
    call.during(() => this.#services.clients.dispatch(call, this.link, frame, call));
  }

  /**
   * Handles a request that the client sent again, so that it has one effect and one answer. @returns whether it is
   * done.
   */
  #answeredBefore(client: ClientExport, frame: Frame): boolean {
    const { header } = frame;
    const running = client.calls.get(header.xid);
    if (running !== undefined) {
      running.resentLink = this.link;
      return true;
    }
    const stored = client.answered.find(header.xid);
    if (stored !== undefined) {
      this.#resendReply(header.xid, stored);
      // Only now the client knows that this lock waits: it ignored the CAST that the server sent again before.
      if (header.opcode === Enqueue.opcode) this.#sayCasts(client);
      return true;
    }
    if (client.durableAnswers.inherited(header.xid)?.opcode === header.opcode) return false;
    const isLost = client.answered.mayHaveLost(header.xid) || client.durableAnswers.mayHaveLost(header.xid);
    if (!isLost || !this.#services.modifying.has(header.opcode)) return false;
    const { target } = this.#server;
    if (target !== undefined)
      evict(target, client, 'it asked again for a reply that was dropped for want of room');
    return true;
  }

  #resendReply(xid: Xid, stored: NonNullable<ReturnType<ClientExport['answered']['find']>>): void {
    this.link.send(
      {
        kind: KIND.reply,
        opcode: stored.opcode,
        errno: stored.errno,
        xid,
        ackXidOrCommitted: this.#hooks.lastCommitted(),
        transno: stored.transno,
      },
      stored.body,
    );
  }
}

/**
 * Only a WRITE and a BATCH have a bulk, and neither waits for a lock. A bulk that comes with another request is not kept, because that request may wait for long.
 */
function withoutSurplus(frame: Frame): Frame {
  const { opcode } = frame.header;
  if (frame.bulk.length === 0 || opcode === Write.opcode || opcode === Batch.opcode) return frame;
  return { header: frame.header, body: frame.body, bulk: NO_BULK };
}

const NO_BULK = Buffer.alloc(0);
const NOTHING = 0 as ReturnType<ServiceHooks['lastCommitted']>;
