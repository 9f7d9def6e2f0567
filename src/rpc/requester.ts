/**
 * Requester: the xid table of one peer. Outlives connections.
 *
 * - xids grow for the life of the object, over reconnects too. So the table is in xid order.
 * - A call that was sent leaves the table by its reply or by failAll(), never because its caller gave up. The reply to
 *   an interrupted create still brings locks, and its apply() runs.
 * - apply() runs while the reply frame is handled, so caches follow frames in their order.
 * - A replay carries the xid of a call that has left the table, so a reply never fits both.
 * - Replays, and calls with connectionOnly, exist only while there is a connection.
 */

import { assert } from '../base/assert.js';
import { errnoName, FsError } from '../base/errno.js';
import type { Transno, Xid } from '../base/ids.js';
import { bugLogger, logger } from '../base/log.js';
import { onAbort, WaitList } from '../base/wait.js';
import type { OperationTimes } from '../runtime/operation_times.js';
import { FLAG_RECOVERY, FLAG_REPLAY, FLAG_RESENT, KIND } from '../wire/header.js';
import { ErrorReply, type Operation } from '../wire/operation.js';
import { operationName } from '../wire/operations.js';
import { decode, encode } from '../wire/schema.js';
import type {
  Answer,
  AnsweredRequest,
  AnswerObserver,
  CallOptions,
  Frame,
  Link,
  RequesterApi,
} from './api.js';

const log = logger('rpc:requester');
const bug = bugLogger('rpc:requester');

const NO_TRANSNO = 0 as Transno;
const NO_XID = 0 as Xid;

interface PendingRequest {
  readonly xid: Xid;
  readonly operation: Operation<unknown, unknown>;
  readonly body: Buffer;
  readonly bulk: readonly Uint8Array[] | undefined;
  readonly options: CallOptions<unknown>;
  readonly beganMs: number;
  /** The link through which it was last sent; undefined: it was never sent. */
  sentThrough: Link | undefined;
  readonly resolve: (answer: Answer<unknown>) => void;
  readonly reject: (error: unknown) => void;
  /** Removes the listener from the caller's signal. */
  unlisten: (() => void) | undefined;
}

/** A request that was answered before, sent again. */
interface Replay {
  readonly opcode: number;
  readonly resolve: (errno: number) => void;
  readonly reject: (error: FsError) => void;
}

const NO_OPTIONS: CallOptions<unknown> = {};

export interface RequesterOptions {
  /** First xid to use, at least 1. A process that takes a client over goes on above the xids of its predecessor. */
  readonly firstXid?: Xid;
  readonly observer?: AnswerObserver;
  /** Counts the calls that are answered, from call() on. Default: nobody does. */
  readonly times?: OperationTimes | undefined;
}

export class Requester implements RequesterApi {
  readonly #calls = new Map<number, PendingRequest>();
  readonly #replays = new Map<Xid, Replay>();
  readonly #observer: AnswerObserver | undefined;
  readonly #times: OperationTimes | undefined;
  #nextXid: number;
  /** At most the lowest xid in the table. */
  #lowestXid: number;
  #link: Link | undefined;
  /** Only calls with connectionOnly are sent. */
  #holds = false;
  readonly #untilIdle = new WaitList();

  constructor(options: RequesterOptions = {}) {
    this.#observer = options.observer;
    this.#times = options.times;
    this.#nextXid = options.firstXid ?? 1;
    this.#lowestXid = this.#nextXid;
  }

  /** Another process may have used xids from here on. @param count more than it can have used. */
  skipXids(count: number): void {
    this.#nextXid += count;
  }

  get inFlight(): number {
    return this.#calls.size;
  }

  get attached(): boolean {
    return this.#link !== undefined;
  }

  /** Highest xid given out; 0 before the first. */
  get lastXid(): Xid {
    return (this.#nextXid - 1) as Xid;
  }

  call<Q, R>(
    operation: Operation<Q, R>,
    request: Q,
    options: CallOptions<R> = NO_OPTIONS,
  ): Promise<Answer<R>> {
    return new Promise<Answer<R>>((resolve, reject) => {
      const { signal } = options;
      if (signal?.aborted) throw interrupted(operation);
      if (options.connectionOnly && this.#link === undefined) throw notConnected(operation);
      const body = encode(operation.request, request);
      const xid = this.#nextXid as Xid;
      this.#nextXid += 1;
      // The types fit again in #answer(): the operation decodes what its caller waits for.
      const call = {
        xid,
        operation,
        body,
        bulk: options.bulk,
        options,
        beganMs: this.#times?.nowMs() ?? 0,
        sentThrough: undefined,
        resolve,
        reject,
        unlisten: undefined,
      } as unknown as PendingRequest;
      this.#calls.set(xid, call);
      if (signal !== undefined) this.#listen(call, signal);
      if (this.#link !== undefined && (!this.#holds || options.connectionOnly)) this.#send(call, this.#link);
    });
  }

  replay(request: AnsweredRequest): Promise<number> {
    const link = this.#link;
    const { xid, opcode, body, bulk, transno } = request;
    return new Promise((resolve, reject) => {
      if (link === undefined) throw notConnected({ name: operationName(opcode) });
      this.#replays.set(xid, { opcode, resolve, reject });
      const flags = FLAG_REPLAY | FLAG_RECOVERY;
      const ackXidOrCommitted = this.#ackXid();
      link.send({ kind: KIND.request, opcode, flags, xid, ackXidOrCommitted, transno }, body, bulk);
    });
  }

  notify<Q>(operation: Operation<Q, unknown>, notice: Q): void {
    if (this.#link === undefined) return;
    this.#link.send(
      { kind: KIND.notice, opcode: operation.opcode, xid: NO_XID, ackXidOrCommitted: this.#ackXid() },
      encode(operation.request, notice),
    );
  }

  attach(link: Link, options: { readonly resend: boolean; readonly hold?: boolean }): void {
    if (this.#link !== undefined && this.#link !== link) this.detach();
    this.#link = link;
    this.#holds = options.hold ?? false;
    if (!options.resend) return;
    for (const call of this.#calls.values()) {
      if (call.sentThrough !== link) this.#send(call, link);
    }
  }

  detach(): void {
    this.#link = undefined;
    for (const call of this.#calls.values()) {
      if (call.options.connectionOnly) this.#fail(call, notConnected(call.operation));
    }
    this.#failReplays();
    this.#checkIdle();
  }

  failAll(error: FsError, only?: (operation: Operation<unknown, unknown>) => boolean): void {
    for (const call of this.#calls.values()) {
      if (only === undefined || only(call.operation)) this.#fail(call, error);
    }
    this.#checkIdle();
  }

  renew(error: FsError, keeps: (operation: Operation<unknown, unknown>, wasSent: boolean) => boolean): void {
    for (const call of this.#calls.values()) {
      const { operation, options, sentThrough } = call;
      if (options.connectionOnly || !keeps(operation, sentThrough !== undefined)) this.#fail(call, error);
      else call.sentThrough = undefined;
    }
    this.#failReplays();
    this.#checkIdle();
  }

  reply(frame: Frame): void {
    const { header } = frame;
    this.#observer?.committed(header.ackXidOrCommitted as Transno);
    const call = this.#calls.get(header.xid);
    if (call === undefined) {
      this.#replayed(frame);
      return;
    }
    this.#calls.delete(header.xid);
    call.unlisten?.();
    this.#times?.ended(call.operation.opcode, call.beganMs, header.errno);
    try {
      call.resolve(this.#answer(call, frame));
    } catch (error) {
      if (!(error instanceof FsError)) bug('%s, xid %d: %O', call.operation.name, call.xid, error);
      call.reject(error);
    }
    this.#checkIdle();
  }

  idle(): Promise<void> {
    return this.#calls.size === 0 ? Promise.resolve() : this.#untilIdle.wait();
  }

  /** The client applied the first answer when it arrived. In the second only the errno is new. */
  #replayed(frame: Frame): void {
    const { xid, opcode, errno } = frame.header;
    const replay = this.#replays.get(xid);
    if (replay === undefined || replay.opcode !== opcode) {
      log('late reply to xid %d, opcode %d', xid, opcode);
      return;
    }
    this.#replays.delete(xid);
    if (errno !== 0) log('replay of %s, xid %d: %s', operationName(opcode), xid, errorText(frame));
    replay.resolve(errno);
  }

  #failReplays(): void {
    if (this.#replays.size === 0) return;
    const replays = [...this.#replays.values()];
    this.#replays.clear();
    for (const { opcode, reject } of replays) reject(notConnected({ name: operationName(opcode) }));
  }

  /** @throws FsError with the reply's errno, or EPROTO; and whatever apply() throws. */
  #answer(call: PendingRequest, frame: Frame): Answer<unknown> {
    const { header } = frame;
    const { operation } = call;
    if (header.opcode !== operation.opcode) {
      throw new FsError('EPROTO', `reply to ${operation.name} has opcode ${header.opcode}`);
    }
    if (header.errno !== 0) {
      throw new FsError(errnoName(header.errno), `${operation.name}: ${errorText(frame)}`);
    }
    const reply = decode(operation.reply, frame.body);
    if (header.transno > 0) this.#observer?.executed(operation, call, header.transno, reply);
    const answer: Answer<unknown> = {
      reply,
      bulk: frame.bulk,
      transno: header.transno,
      lastCommitted: header.ackXidOrCommitted as Transno,
      xid: header.xid,
    };
    call.options.apply?.(answer);
    return answer;
  }

  #send(call: PendingRequest, link: Link): void {
    const { options, sentThrough } = call;
    let flags = options.flags ?? 0;
    if (sentThrough !== undefined && sentThrough !== link) flags |= FLAG_RESENT;
    call.sentThrough = link;
    link.send(
      {
        kind: KIND.request,
        opcode: call.operation.opcode,
        flags,
        xid: call.xid,
        ackXidOrCommitted: this.#ackXid(),
        transno: options.transno ?? NO_TRANSNO,
      },
      call.body,
      call.bulk,
    );
  }

  /** The lowest unanswered xid; the next xid if all are answered. */
  #ackXid(): number {
    // The loop passes each xid once, so it costs almost nothing on average. To find the map's first key would mean to
    // skip its deleted entries.
    while (this.#lowestXid < this.#nextXid && !this.#calls.has(this.#lowestXid)) this.#lowestXid += 1;
    return this.#lowestXid;
  }

  #listen(call: PendingRequest, signal: AbortSignal): void {
    call.unlisten = onAbort(signal, () => {
      // A call that was never sent has no reply to wait for. Any other call stays; its later resolve() changes nothing.
      if (call.sentThrough === undefined) this.#calls.delete(call.xid);
      call.reject(interrupted(call.operation));
      this.#checkIdle();
    });
  }

  #fail(call: PendingRequest, error: FsError): void {
    this.#calls.delete(call.xid);
    call.unlisten?.();
    call.reject(error);
  }

  /** Wakes the callers of idle() if nothing is in flight. */
  #checkIdle(): void {
    if (this.#calls.size === 0) this.#untilIdle.wake();
  }

  checkInvariants(): void {
    let before = 0;
    for (const [xid, call] of this.#calls) {
      assert(xid === call.xid && xid > before, `xid ${call.xid} stands as ${xid} behind ${before}`);
      before = xid;
      assert(
        this.#link !== undefined || call.options.connectionOnly !== true,
        `${call.operation.name}, xid ${xid}, means a connection that is lost`,
      );
    }
    assert(before < this.#nextXid, `xid ${before} is in use, ${this.#nextXid} comes next`);
    const [lowest] = this.#calls.keys();
    assert(
      this.#lowestXid <= (lowest ?? this.#nextXid),
      `xid ${lowest} is not answered, all below ${this.#lowestXid} are said to be`,
    );
    for (const xid of this.#replays.keys()) {
      assert(this.#link !== undefined && !this.#calls.has(xid), `xid ${xid} is replayed, and a call`);
    }
    assert(
      this.#calls.size > 0 || this.#untilIdle.size === 0,
      'nothing is in flight, and that is waited for',
    );
  }
}

function interrupted(operation: { readonly name: string }): FsError {
  return new FsError('EINTR', `${operation.name} was interrupted`);
}

function notConnected(operation: { readonly name: string }): FsError {
  return new FsError('ENOTCONN', `${operation.name}: the connection is lost`);
}

/** The peer's text about its error. The errno counts even if the text cannot be decoded. */
function errorText(frame: Frame): string {
  try {
    return decode(ErrorReply, frame.body).text;
  } catch (error) {
    if (!(error instanceof FsError)) throw error;
    return errnoName(frame.header.errno);
  }
}
