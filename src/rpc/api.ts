/**
 * Shapes shared by the rpc room and its users: frames, answers, calls.
 *
 * Order is the point: each side handles the frames of a connection one after the other. The client applies what a reply
 * changes (`apply`) in the same turn, before it looks at the next frame. Caches that follow replies and ASTs in that
 * order never go back in time.
 */

import type { FsError } from '../base/errno.js';
import type { Transno, Xid } from '../base/ids.js';
import type { MaybePromise } from '../base/maybe_promise.js';
import type { Origin } from '../runtime/ports.js';
import type { Header } from '../wire/header.js';
import type { Operation } from '../wire/operation.js';

export interface Frame {
  readonly header: Header;
  /** Views into received memory; the receiver owns them. */
  readonly body: Buffer;
  readonly bulk: Buffer;
}

/** One connection as frames. Class FrameLink in link.ts. */
export interface Link {
  readonly peer: string;
  readonly origin: Origin;
  /** The connCount in the header of every frame sent from now on. A server sets it when it has decoded CONNECT. */
  connCount: number;
  /**
   * Protocol version in the header of every frame sent. It is PROTOCOL_MIN, which all versions understand, until each
   * side sets the negotiated version: the server in its CONNECT handler, the client in the apply() of the reply.
   */
  protocol: number;
  /** Bytes that the peer has not taken yet. */
  readonly bufferedBytes: number;
  /**
   * A number that changes with every sign of life: bytes that arrive, and bytes that the peer takes of a backlog (on a slow
   * line a PING waits behind it). For the pinger.
   */
  readonly lifeSigns: number;
  /** Bytes received of a frame that is not complete. */
  readonly arrivingBytes: number;
  /** The owner has paused the link, so the peer's silence means nothing. */
  readonly paused: boolean;
  /** Whose connection it is: see PartyMember. */
  readonly party: string;
  readonly partyBytes: number | undefined;
  /** Ended, destroyed or lost; send() does nothing. */
  readonly isClosed: boolean;
  send(
    frame: {
      readonly kind: Header['kind'];
      readonly opcode: number;
      readonly flags?: number;
      readonly errno?: number;
      readonly xid: Xid;
      readonly ackXidOrCommitted: number;
      readonly transno?: Transno;
    },
    body: Uint8Array,
    bulk?: readonly Uint8Array[],
    /** Called when the bulk has left our memory; never if the connection breaks before, or is closed already. */
    sent?: () => void,
  ): void;
  /**
   * pause() stops reading from the peer (backpressure), resume() goes on. Each pause() needs its own resume().
   * @param keepsRoom the frame just handed over keeps its memory until resume(), and counts as if it were still
   * arriving.
   */
  pause(keepsRoom?: boolean): void;
  resume(): void;
  end(): void;
  destroy(error?: Error): void;
}

export interface LinkEvents {
  frame(frame: Frame): void;
  /** Called exactly once. `error` says what the peer did wrong or how the connection broke. */
  closed(error?: Error): void;
}

export interface Answer<R> {
  readonly reply: R;
  readonly bulk: Buffer;
  readonly transno: Transno;
  readonly lastCommitted: Transno;
  readonly xid: Xid;
}

export interface CallOptions<R> {
  /** The bulk must not change until the call has left the table: the client may send it again. */
  readonly bulk?: readonly Uint8Array[] | undefined;
  readonly flags?: number | undefined;
  readonly transno?: Transno | undefined;
  /**
   * Runs while the requester handles the reply frame, before any later frame. Also runs if the caller no longer waits
   * (a reply to an interrupted create still grants locks).
   */
  readonly apply?: ((answer: Answer<R>) => void) | undefined;
  /**
   * Ends the caller's wait with EINTR. A request that was sent stays in the table until its reply or failAll(). One
   * that was not sent is forgotten, and never takes effect.
   */
  readonly signal?: AbortSignal | undefined;
  /**
   * The call is for the current connection only (CONNECT, PING, recovery). It fails with ENOTCONN if there is no
   * connection, or if the connection is lost before the reply.
   */
  readonly connectionOnly?: boolean | undefined;
}

/**
 * A request that the server has executed: what the client needs to send it again, and its place in the order of
 * changes.
 */
export interface AnsweredRequest {
  readonly xid: Xid;
  readonly opcode: number;
  readonly body: Buffer;
  readonly bulk: readonly Uint8Array[] | undefined;
  readonly transno: Transno;
}

/** Hears of every reply, before its apply(). Keeps requests until the target has committed them. */
export interface AnswerObserver {
  /** All changes up to this transno are durable on the target. */
  committed(lastCommitted: Transno): void;
  /** The request changed something, as `transno`. Body and bulk do not change while the observer keeps them. */
  executed(
    operation: Operation<unknown, unknown>,
    request: Pick<AnsweredRequest, 'xid' | 'body' | 'bulk'>,
    transno: Transno,
    reply: unknown,
  ): void;
}

/**
 * The xid table: outlives connections. Class Requester in requester.ts. It sends a call at once if a link is attached,
 * else when the next link is (with FLAG_RESENT if it was sent before). It drops replies to unknown xids (late replies).
 * ackXid in each request is the lowest unanswered xid.
 */
export interface RequesterApi {
  /** @throws FsError with the errno of the reply, or the error given to failAll(). */
  call<Q, R>(operation: Operation<Q, R>, request: Q, options?: CallOptions<R>): Promise<Answer<R>>;
  notify<Q>(operation: Operation<Q, unknown>, notice: Q): void;
  /**
   * Sends calls through this link from now on. resend: sends the calls that wait (again), in xid order; without it they
   * go on waiting while new calls are sent. hold: new calls wait too, except those with connectionOnly. A client
   * attaches a link with hold to recover, then attaches it again with resend.
   */
  attach(link: Link, options: { readonly resend: boolean; readonly hold?: boolean }): void;
  /**
   * Replays a request that was answered before, with its xid and its old transno (FLAG_REPLAY, FLAG_RECOVERY), through
   * the current connection only. @returns the errno of the reply; 0 if the server executed it.
   * @throws FsError ENOTCONN (as a rejection) if there is no connection, or if it is lost before the reply.
   */
  replay(request: AnsweredRequest): Promise<number>;
  /** The link is gone. Calls stay in the table and wait for the next link. */
  detach(): void;
  /** Ends every call with this error, or only the calls that `only` picks. Drops their late replies. */
  failAll(error: FsError, only?: (operation: Operation<unknown, unknown>) => boolean): void;
  /**
   * The peer has forgotten this client. Calls that `keeps` picks wait for the next link, as if they had never been
   * sent. All others end with this error.
   */
  renew(error: FsError, keeps: (operation: Operation<unknown, unknown>, wasSent: boolean) => boolean): void;
  /** A reply frame has arrived. */
  reply(frame: Frame): void;
  readonly inFlight: number;
  readonly attached: boolean;
  /** Resolves when no call is in flight. */
  idle(): Promise<void>;
}

export interface Incoming<R = unknown> {
  readonly header: Header;
  readonly bulk: Buffer;
  /**
   * Sends the reply now. A handler that has waited calls this in the very turn in which it executes the operation, and
   * then returns nothing. If it returned its outcome instead, other microtasks would run before the service gets it,
   * and what they send (a BAST, the reply of an operation executed later) would leave first. A handler that answers
   * without a promise just returns its outcome.
   */
  answer(outcome: HandlerOutcome<R>): void;
}

export interface HandlerOutcome<R> {
  readonly reply: R;
  readonly bulk?: readonly Uint8Array[] | undefined;
  readonly transno?: Transno | undefined;
  /** Called when the bulk has left our memory, so the memory can be used again. Not called if the connection breaks. */
  readonly sent?: (() => void) | undefined;
}

/**
 * Handles one decoded request. Throws or rejects with FsError. If it returns no promise, the service sends the reply in
 * this turn; if it does, see Incoming.answer().
 */
export type Handler<Context, Q, R> = (
  context: Context,
  request: Q,
  incoming: Incoming<R>,
) => MaybePromise<HandlerOutcome<R> | undefined>;

/**
 * Table of the operations that one side answers. Class Service in service.ts.
 *   on(operation, handler)
 *   dispatch(context, link, frame, lastCommitted): decodes (EPROTO closes nothing: it is answered EPROTO), runs the
 *   handler, replies. Unknown opcode: EOPNOTSUPP. Thrown non-FsError: logged with its stack, EIO.
 *   notices: handler's outcome is ignored; failures are logged.
 */
export interface ServiceApi<Context> {
  on<Q, R>(operation: Operation<Q, R>, handler: Handler<Context, Q, R>): void;
  dispatch(context: Context, link: Link, frame: Frame, hooks: ServiceHooks): void;
}

export interface ServiceHooks {
  lastCommitted(): Transno;
  /** The peer wants to know only that the operation was executed: the reply to a success has an empty body. */
  readonly isBodyless?: boolean;
  /** Called with each reply just before it is sent (reply reconstruction). The server can send this reply again. */
  onReply?(
    header: Header,
    reply: {
      readonly errno: number;
      readonly transno: Transno;
      readonly body: Buffer;
      readonly bulk: readonly Uint8Array[];
    },
  ): void;
}
