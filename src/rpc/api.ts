/**
 * Shapes shared by the rpc room and its users: frames, answers, calls.
 *
 * Order is the point: frames of a connection are handled one after the other, and what a reply changes is applied
 * (`apply`) before the next frame is looked at, in the same turn. Caches that follow replies and ASTs in that order
 * never go back in time.
 */

import type { FsError } from '../base/errno.js';
import type { Transno, Xid } from '../base/ids.js';
import type { MaybePromise } from '../base/maybe_promise.js';
import type { Origin } from '../runtime/ports.js';
import type { Header } from '../wire/header.js';
import type { Operation } from '../wire/operation.js';

export interface Frame {
  readonly header: Header;
  /** Views into received memory that the receiver owns. */
  readonly body: Buffer;
  readonly bulk: Buffer;
}

/** One connection as frames. Class FrameLink in link.ts. */
export interface Link {
  readonly peer: string;
  readonly origin: Origin;
  /** In the header of every frame sent from now on. A server sets it when it has decoded CONNECT. */
  connCount: number;
  /**
   * Protocol version in the header of every frame sent. PROTOCOL_MIN, which all understand, until both sides set what
   * was negotiated: the server in its CONNECT handler, the client in the apply() of the reply.
   */
  protocol: number;
  /** Bytes not yet taken by the peer. */
  readonly bufferedBytes: number;
  /**
   * A number that changes with every sign of life: bytes that arrive, and bytes that the peer takes of a backlog (on a slow
   * line a PING waits behind it). For the pinger.
   */
  readonly lifeSigns: number;
  /** Of a frame that is not complete, what is there. */
  readonly arrivingBytes: number;
  /** The owner has paused the link, so the peer's silence means nothing. */
  readonly paused: boolean;
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
    /** The bulk has left our memory. Never called when the connection breaks before, or is closed already. */
    sent?: () => void,
  ): void;
  /**
   * Stops reading from the peer, and goes on: backpressure. Counted: as many resumes as pauses.
   * @param keepsRoom the frame that was handed over keeps its memory until resume(), and counts as if it still arrived.
   */
  pause(keepsRoom?: boolean): void;
  resume(): void;
  end(): void;
  destroy(error?: Error): void;
}

export interface LinkEvents {
  frame(frame: Frame): void;
  /** Exactly once. `error` says what the peer did wrong or how the connection broke. */
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
  /** Must not change until the call has left the table: it may be sent again. */
  readonly bulk?: readonly Uint8Array[] | undefined;
  readonly flags?: number | undefined;
  readonly transno?: Transno | undefined;
  /**
   * Runs when the reply frame is handled, before any later frame. Also runs when the caller no longer waits
   * (a reply to an interrupted create still grants locks).
   */
  readonly apply?: ((answer: Answer<R>) => void) | undefined;
  /**
   * Ends the caller's wait with EINTR. A request that was sent stays in the table until its reply or failAll; one that
   * was not is forgotten, and never takes effect.
   */
  readonly signal?: AbortSignal | undefined;
  /**
   * Means this connection and no other (CONNECT, PING, recovery): fails with ENOTCONN when there is none, and when it
   * is lost before the reply.
   */
  readonly connectionOnly?: boolean | undefined;
}

/** A request that was executed: what is needed to send it once more, and its place in the order of changes. */
export interface AnsweredRequest {
  readonly xid: Xid;
  readonly opcode: number;
  readonly body: Buffer;
  readonly bulk: readonly Uint8Array[] | undefined;
  readonly transno: Transno;
}

/** Told of every reply, before its apply(): keeps requests until the target has committed them. */
export interface AnswerObserver {
  /** Everything up to this is durable on the target. */
  committed(lastCommitted: Transno): void;
  /** The request changed something, as `transno`. Body and bulk stay as they are while they are kept. */
  executed(
    operation: Operation<unknown, unknown>,
    request: Pick<AnsweredRequest, 'xid' | 'body' | 'bulk'>,
    transno: Transno,
    reply: unknown,
  ): void;
}

/**
 * The xid table: outlives connections. Class Requester in requester.ts.
 * A call is sent at once when attached, else when the next link is attached (flags gain FLAG_RESENT if it was sent
 * before). Replies to unknown xids (late ones) are dropped. ackXid in each request is the lowest unanswered xid.
 */
export interface RequesterApi {
  /** @throws FsError with the errno of the reply, or what failAll gave. */
  call<Q, R>(operation: Operation<Q, R>, request: Q, options?: CallOptions<R>): Promise<Answer<R>>;
  notify<Q>(operation: Operation<Q, unknown>, notice: Q): void;
  /**
   * From now on through this link. resend: what waits is sent (again), in xid order. Without resend old calls go on
   * waiting while new ones are sent. hold: new calls wait too, but for those that mean this connection only; a client
   * recovers so, then attaches the same link again with resend.
   */
  attach(link: Link, options: { readonly resend: boolean; readonly hold?: boolean }): void;
  /**
   * Sends a request that was answered before once more, with its xid and its old transno (FLAG_REPLAY, FLAG_RECOVERY).
   * Means this connection only. @returns the errno of the reply; 0: executed.
   * @throws FsError ENOTCONN (as a rejection) when there is no connection, or it is lost before the reply.
   */
  replay(request: AnsweredRequest): Promise<number>;
  /** The link is gone; calls stay and wait for the next. */
  detach(): void;
  /** Ends every call with this error, or those that `only` picks. Their late replies are dropped. */
  failAll(error: FsError, only?: (operation: Operation<unknown, unknown>) => boolean): void;
  /**
   * The peer has forgotten this side. Calls that `keeps` picks wait for the next link, as if they had never been sent;
   * all others end with this error.
   */
  renew(error: FsError, keeps: (operation: Operation<unknown, unknown>, wasSent: boolean) => boolean): void;
  /** A reply frame came. */
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
   * Sends the reply now. A handler that has waited for something uses it in the very turn in which it executes the
   * operation, and then returns nothing: between the return of an async function and those who wait for it other
   * microtasks run, and what they send (a BAST, the reply of an operation executed later) would leave first.
   * Handlers that answer without a promise just return their outcome.
   */
  answer(outcome: HandlerOutcome<R>): void;
}

export interface HandlerOutcome<R> {
  readonly reply: R;
  readonly bulk?: readonly Uint8Array[] | undefined;
  readonly transno?: Transno | undefined;
  /** The bulk has left our memory, which can be used for something else. Not called when the connection breaks. */
  readonly sent?: (() => void) | undefined;
}

/**
 * Handles one decoded request. Throws or rejects with FsError. Without a promise the reply is sent in this turn; of
 * promises see Incoming.answer.
 */
export type Handler<Context, Q, R> = (
  context: Context,
  request: Q,
  incoming: Incoming<R>,
) => MaybePromise<HandlerOutcome<R> | undefined>;

/**
 * Table of operations that a side answers. Class Service in service.ts.
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
  /** The peer wants to know that it was done, and nothing more: the reply to a success has an empty body. */
  readonly isBodyless?: boolean;
  /** Sees each reply just before it is sent (reply reconstruction). Replies are frames that could be sent again. */
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
