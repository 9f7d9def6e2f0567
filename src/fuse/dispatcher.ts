/**
 * Connects the kernel's bytes with the filesystem's methods: decodes a batch of requests, calls handlers, encodes their
 * results. It opens no device and knows no filesystem.
 *
 * Invariants:
 * - Every request that expects an answer gets exactly one, whatever its handler does. The dispatcher logs an exception
 *   that is not an FsError with its stack and answers EIO. It answers EINVAL to a request with impossible contents.
 * - If a handler answers at once, the dispatcher writes the answer into the reply slab in the same turn, without a
 *   promise.
 * - Waiting requests are in one table, by unique, until they are answered. An interrupt, a resend and a teardown find
 *   them there.
 * - While the mount may be handed over, each request that waits has its bytes: another process can begin it anew.
 * - Views into the batch's slab are valid until batch() returns; handlers copy what they keep.
 */

import { ERRNO, type Errno, errnoOf, FsError } from '../base/errno.js';
import { type Log, logger } from '../base/log.js';
import { onAbort, WaitList } from '../base/wait.js';
import type { OperationTimes } from '../runtime/operation_times.js';
import type { Waits } from '../runtime/ports.js';
import { BatchCounts } from './batch_counts.js';
import {
  INIT_FLAG,
  initFlagNames,
  OPCODE,
  opcodeName,
  SIZE,
  UNIQUE_INTERRUPT,
  UNIQUE_RESEND_HIGH,
} from './constants.js';
import { Cursor, type Writer } from './cursor.js';
import type { FuseDevice, FuseHandlers, InterruptPolicy } from './handlers.js';
import { type Negotiated, negotiate, putInit, putInitOffer, readInit } from './init.js';
import { type InterruptClock, Interrupts, type RetryTimers } from './interrupts.js';
import { errnoWithoutOperation, OPERATIONS, SETXATTR_COMPAT } from './operations.js';
import { Replies } from './replies.js';
import { type FuseOperation, Request, requestKey } from './request.js';
import { uniqueText } from './structs_in.js';

/** As `-o intr_grace` has it by default. */
export const INTR_GRACE_MS = 1000;

export interface FuseDispatcherOptions {
  readonly timers: RetryTimers;
  readonly clock: InterruptClock;
  /** Default: every signal ends the request. */
  readonly interruptPolicy?: InterruptPolicy;
  /** Time for which a call has waited for a server that is away before a caught signal may end it. Default INTR_GRACE_MS. */
  readonly interruptGraceMs?: number;
  /** Time after which we ask the kernel to send an ignored INTERRUPT again. Default 30. */
  readonly interruptRetryMs?: number;
  /** Asynchronous requests (readahead, direct I/O) that the kernel sends us at the same time, at most. Default 128. */
  readonly maxBackground?: number;
  /** Above this number of them, the kernel counts as congested and slows readahead. Default 96. */
  readonly congestionThreshold?: number;
  /** INIT flags not to ask for. */
  readonly withoutInitFlags?: bigint;
  readonly log?: Log;
  /** Counts the requests. Default: nobody does. */
  readonly times?: OperationTimes | undefined;
  /** Follows the requests. Default: nobody does. */
  readonly waits?: Waits | undefined;
}

const NODEID_HIGH_LIMIT = 0x20_0000;
const TWO_32 = 0x1_0000_0000;

export class FuseDispatcher {
  readonly #handlers: FuseHandlers;
  readonly #log: Log;
  readonly #initOptions: { maxBackground: number; congestionThreshold: number; withoutFlags: bigint };
  readonly #interrupts: Interrupts;
  readonly #clock: InterruptClock;
  readonly #counts: BatchCounts | undefined;
  readonly #waits: Waits | undefined;
  readonly #pending = new Map<number, Request>();
  readonly #cursor = new Cursor();
  readonly #replies: Replies;
  readonly #untilDrained = new WaitList();
  /** Requests that wait keep their bytes: the mount may be handed over. */
  #keepsBytes = false;
  readonly #whenIdle = new WaitList();
  /** Of the request whose handler is called now, in the batch's slab. */
  #requestAt = 0;
  #requestBytes = 0;
  #tracing = false;
  #batchBytes: Buffer | undefined = undefined;
  #batchView: DataView = new DataView(new ArrayBuffer(0));
  #negotiated: Negotiated | undefined = undefined;
  #setxattrExt = true;
  #destroyed = false;

  constructor(handlers: FuseHandlers, device: FuseDevice, options: FuseDispatcherOptions) {
    this.#handlers = handlers;
    this.#log = options.log ?? logger('fuse');
    this.#replies = new Replies(device);
    this.#clock = options.clock;
    this.#counts = options.times === undefined ? undefined : new BatchCounts(options.times);
    this.#waits = options.waits?.isOn === true ? options.waits : undefined;
    this.#initOptions = {
      maxBackground: options.maxBackground ?? 128,
      congestionThreshold: options.congestionThreshold ?? 96,
      withoutFlags: options.withoutInitFlags ?? 0n,
    };
    this.#interrupts = new Interrupts({
      timers: options.timers,
      policy: options.interruptPolicy ?? (() => 'everyCall'),
      clock: options.clock,
      awayMs: (nodeid) => handlers.awayMs?.(nodeid) ?? 0,
      graceMs: options.interruptGraceMs ?? INTR_GRACE_MS,
      retryMs: options.interruptRetryMs ?? 30,
      log: this.#log,
      askAgain: (high, low) => this.#replies.sendError(high, low, ERRNO.EAGAIN),
    });
  }

  /** The result of INIT; undefined before INIT. */
  get negotiated(): Negotiated | undefined {
    return this.#negotiated;
  }

  /** Requests whose handler has not answered yet. */
  get pendingCount(): number {
    return this.#pending.size;
  }

  /** Names of the waiting requests' operations with their thread ids, for status. */
  pendingSummary(): { readonly operation: string; readonly nodeid: number; readonly pid: number }[] {
    return Array.from(this.#pending.values(), ({ opcode, nodeid, pid }) => ({
      operation: opcodeName(opcode),
      nodeid,
      pid,
    }));
  }

  /** @returns the number of bytes in the reply slab that the caller must send now. The slab counts as empty afterwards. */
  takeReplyBytes(): number {
    return this.#replies.takeBytes();
  }

  /**
   * Handles requests packed one behind the other, each at a multiple of 8. Handlers run now. The caller may reuse the
   * slab's memory when this returns.
   */
  batch(slab: Buffer, usedBytes: number): void {
    if (slab !== this.#batchBytes) {
      this.#batchBytes = slab;
      this.#batchView = new DataView(slab.buffer, slab.byteOffset, slab.byteLength);
    }
    const view = this.#batchView;
    this.#tracing = this.#log.enabled;
    this.#replies.inBatch = true;
    this.#counts?.begin();
    try {
      let at = 0;
      while (usedBytes - at >= SIZE.IN_HEADER) {
        const lenBytes = view.getUint32(at, true);
        if (lenBytes < SIZE.IN_HEADER || lenBytes > usedBytes - at) break;
        this.#request(slab, view, at, lenBytes);
        at += (lenBytes + 7) & ~7;
      }
      if (at < usedBytes) this.#malformedRest(usedBytes - at);
    } finally {
      this.#replies.inBatch = false;
      this.#counts?.end();
    }
  }

  /** A request has an impossible length. We do not know where the next request begins, so the rest of the batch is lost. */
  #malformedRest(restBytes: number): void {
    this.#log('dropped %d bytes at the end of a batch: not a request', restBytes);
  }

  #request(slab: Buffer, view: DataView, at: number, lenBytes: number): void {
    // fuse_in_header, by hand: len 0, opcode 4, unique 8, nodeid 16, uid 24, gid 28, pid 32, total_extlen 36 (u16).
    const opcode = view.getUint32(at + 4, true);
    const uniqueLow = view.getUint32(at + 8, true);
    const uniqueHigh = view.getUint32(at + 12, true);
    const nodeidHigh = view.getUint32(at + 20, true);
    const extBytes = view.getUint16(at + 36, true) * 8;
    const end = at + lenBytes - extBytes;
    const request = new Request(
      opcode,
      uniqueHigh,
      uniqueLow,
      nodeidHigh * TWO_32 + view.getUint32(at + 16, true),
      view.getUint32(at + 24, true),
      view.getUint32(at + 28, true),
      view.getUint32(at + 32, true),
    );
    if (nodeidHigh >= NODEID_HIGH_LIMIT || end < at + SIZE.IN_HEADER) {
      this.#malformed(request);
      return;
    }
    // The body ends before the extensions (security context, supplementary group), which follow the arguments.
    this.#cursor.reset(slab, view, at + SIZE.IN_HEADER, end);
    const operation = OPERATIONS[opcode];
    if (operation === undefined) {
      this.#withoutOperation(request);
      return;
    }
    if (uniqueHigh >= UNIQUE_RESEND_HIGH && this.#isKnownResend(request)) return;
    this.#requestAt = at;
    this.#requestBytes = lenBytes;
    this.#run(request, opcode === OPCODE.SETXATTR && !this.#setxattrExt ? SETXATTR_COMPAT : operation);
  }

  #run(request: Request, operation: FuseOperation): void {
    request.operation = operation;
    let result: unknown;
    try {
      const waits = this.#waits;
      result =
        waits === undefined
          ? operation.call(this.#handlers, request, this.#cursor)
          : waits.track(
              () => `${opcodeName(request.opcode)} of node ${request.nodeid} by pid ${request.pid}`,
              () => operation.call(this.#handlers, request, this.#cursor),
            );
    } catch (error) {
      this.#fail(request, error);
      return;
    }
    if (result instanceof Promise) this.#wait(request, result);
    else this.#answer(request, operation, result);
  }

  #wait(request: Request, result: Promise<unknown>): void {
    const { key } = request;
    this.#pending.set(key, request);
    request.waited = true;
    request.beganMs = this.#clock.nowMs();
    // A wait for another owner's lock may last: it keeps its few bytes in any case.
    if (this.#keepsBytes || request.operation?.endedBy === 'lockWait') this.#keepBytes(request);
    if (this.#tracing) this.#log('%s waits', this.#describe(request));
    result.then(
      (value) => {
        if (!request.answered && request.operation !== undefined)
          this.#answer(request, request.operation, value);
      },
      (error: unknown) => {
        if (!request.answered) this.#fail(request, error);
      },
    );
    this.#interrupts.pendingBegan(request);
  }

  #keepBytes(request: Request): void {
    const at = this.#requestAt;
    // A copy: the slab is used again.
    request.bytes = Buffer.from(this.#batchBytes?.subarray(at, at + this.#requestBytes) ?? []);
    if (this.#keepsBytes) request.onIdle(() => this.#whenIdle.wake());
  }

  /** Whether the kernel has sent again a request that still waits for its handler. Only its unique has changed. */
  #isKnownResend(request: Request): boolean {
    const known = this.#pending.get(request.key);
    if (known === undefined) return false;
    known.uniqueHigh = request.uniqueHigh;
    return true;
  }

  #answer(request: Request, operation: FuseOperation, result: unknown): void {
    // Nothing is sent before the encoder has finished: a result that does not fit its type can still fail.
    let bodyBytes = 0;
    let chunks: readonly Uint8Array[] | undefined;
    try {
      if (operation.put !== undefined) {
        bodyBytes = this.#replies.encodeFixed(operation.put, result);
      } else if (operation.chunks !== undefined) {
        chunks = operation.chunks(result);
        bodyBytes = totalBytes(chunks, request.replyLimitBytes);
      }
    } catch (error) {
      this.#fail(request, error);
      return;
    }
    if (bodyBytes < 0) {
      this.#answerErrno(request, -bodyBytes);
      return;
    }
    this.#done(request, 0, bodyBytes);
    if (chunks === undefined) this.#replies.sendFixed(request, 0, bodyBytes);
    else this.#replies.sendChunks(request, chunks, bodyBytes);
  }

  /** @param errno 0: success, and the answer has no body. */
  #answerErrno(request: Request, errno: number): void {
    this.#done(request, errno, 0);
    this.#replies.sendFixed(request, errno, 0);
  }

  #fail(request: Request, error: unknown): void {
    if (request.answered) {
      this.#log('%s failed after its answer: %O', this.#describe(request), error);
      return;
    }
    let errno = errnoOf(error);
    if (!(error instanceof FsError)) {
      this.#log('%s failed by a bug: %O', this.#describe(request), error);
    } else if (errno === ERRNO.ENOSYS) {
      // After ENOSYS the kernel would never ask again, but after an upgrade the server may be able to do it.
      errno = ERRNO.EOPNOTSUPP;
    }
    this.#answerErrno(request, errno);
  }

  /** Bookkeeping for every answer, before it is written. */
  #done(request: Request, errno: number, bodyBytes: number): void {
    request.answered = true;
    this.#counts?.answered(request, errno);
    if (this.#pending.size !== 0) this.#forgetPending(request);
    this.#interrupts.requestDone(request);
    if (this.#tracing) this.#log('%s -> %d, %d bytes', this.#describe(request), -errno, bodyBytes);
  }

  #forgetPending(request: Request): void {
    const { key } = request;
    if (this.#pending.get(key) !== request) return;
    this.#pending.delete(key);
    if (this.#pending.size === 0) this.#untilDrained.wake();
    if (this.#keepsBytes) this.#whenIdle.wake();
  }

  #describe(request: Request): string {
    const unique = uniqueText(request.uniqueHigh, request.uniqueLow);
    return `${opcodeName(request.opcode)} #${unique} node ${request.nodeid} uid ${request.uid} pid ${request.pid}`;
  }

  #malformed(request: Request): void {
    this.#log('%s: impossible header', this.#describe(request));
    if (!hasNoReply(request.opcode)) this.#answerErrno(request, ERRNO.EINVAL);
  }

  /** Handles requests that concern the connection, not files. */
  #withoutOperation(request: Request): void {
    try {
      switch (request.opcode) {
        case OPCODE.FORGET:
          this.#handlers.forget(request.nodeid, this.#cursor.u64());
          return;
        case OPCODE.BATCH_FORGET:
          this.#batchForget();
          return;
        case OPCODE.INTERRUPT:
          this.#interrupt(request);
          return;
        case OPCODE.INIT:
          this.#init(request);
          return;
        case OPCODE.DESTROY:
          this.#destroyHandlers();
          this.#answerErrno(request, 0);
          return;
        case OPCODE.NOTIFY_REPLY:
          return; // answers NOTIFY_RETRIEVE, which we never send
        default:
          this.#log('%s: not supported', this.#describe(request));
          this.#answerErrno(request, errnoWithoutOperation(request.opcode));
      }
    } catch (error) {
      if (!hasNoReply(request.opcode)) this.#fail(request, error);
      else this.#log('%s failed: %O', this.#describe(request), error);
    }
  }

  /** fuse_batch_forget_in: count, padding; then (nodeid, nlookup) pairs. */
  #batchForget(): void {
    const count = this.#cursor.u32();
    this.#cursor.skip(4);
    for (let index = 0; index < count; index++) {
      const nodeid = this.#cursor.u64();
      this.#handlers.forget(nodeid, this.#cursor.u64());
    }
  }

  /** fuse_interrupt_in names the request; the message's own unique is the same with the low bit set. */
  #interrupt(request: Request): void {
    const low = this.#cursor.u32();
    const high = this.#cursor.u32();
    const pending = this.#pending.get(requestKey(high, low));
    if (this.#tracing) {
      this.#log(
        'INTERRUPT of #%s: %s',
        uniqueText(high, low),
        pending ? this.#describe(pending) : 'not known',
      );
    }
    this.#interrupts.received(pending, request.uniqueHigh, request.uniqueLow | UNIQUE_INTERRUPT);
  }

  #init(request: Request): void {
    const offered = readInit(this.#cursor);
    const answer = negotiate(offered, this.#initOptions);
    if (answer.kind === 'refused') {
      this.#log('the kernel speaks FUSE %d.%d, too old for us', offered.major, offered.minor);
      this.#answerErrno(request, ERRNO.EPROTO);
      return;
    }
    if (answer.kind === 'offerOurs') {
      this.#answer(request, INIT_OFFER, undefined);
      return;
    }
    const { negotiated } = answer;
    this.#answer(request, INIT_AGREED, negotiated);
    this.#agreed(negotiated);
  }

  #agreed(negotiated: Negotiated): void {
    this.#negotiated = negotiated;
    this.#setxattrExt = (negotiated.flags & INIT_FLAG.SETXATTR_EXT) !== 0n;
    if (this.#tracing) {
      const { minor, maxWriteBytes, flags } = negotiated;
      this.#log('FUSE 7.%d, max_write %d, %s', minor, maxWriteBytes, initFlagNames(flags).join(' '));
    }
    this.#handlers.init?.({
      minor: negotiated.minor,
      flags: negotiated.flags,
      maxWrite: negotiated.maxWriteBytes,
    });
  }

  /**
   * From now on requests that wait keep their bytes. Resolves when all that wait do: those from before have their answers then.
   * @throws the signal's reason when it aborts first.
   */
  async keepRequests(signal: AbortSignal): Promise<void> {
    this.#keepsBytes = true;
    for (const request of this.#pending.values()) request.onIdle(() => this.#whenIdle.wake());
    await this.#until(() => this.#every((request) => request.bytes !== undefined), signal);
  }

  /** Resolves when all requests that wait are idle (Request.isIdle). No new ones come: the caller has paused the channel. */
  async idle(signal: AbortSignal): Promise<void> {
    await this.#until(() => this.#every((request) => request.isIdle), signal);
  }

  /** The requests that wait, as the kernel sent them, the oldest first. Interrupts that are not answered come again. */
  requestsToHandOver(): readonly Uint8Array[] {
    this.#interrupts.handBack();
    return Array.from(this.#pending.values(), ({ bytes }) => bytes ?? Buffer.alloc(0));
  }

  /** The mount is not handed over after all. */
  keepNoRequests(): void {
    this.#keepsBytes = false;
    for (const request of this.#pending.values()) {
      request.onIdle(undefined);
      if (request.operation?.endedBy !== 'lockWait') request.bytes = undefined;
    }
  }

  #every(holds: (request: Request) => boolean): boolean {
    for (const request of this.#pending.values()) if (!holds(request)) return false;
    return true;
  }

  async #until(holds: () => boolean, signal: AbortSignal): Promise<void> {
    const unlisten = onAbort(signal, () => this.#whenIdle.wake());
    try {
      while (!holds()) {
        signal.throwIfAborted();
        await this.#whenIdle.wait();
      }
    } finally {
      unlisten();
    }
  }

  /** Another process has had this mount until now: there will be no INIT. */
  takeOver(negotiated: Negotiated): void {
    this.#agreed(negotiated);
  }

  /** Resolves when no request waits for its handler; at once if none does now. */
  drainPending(): Promise<void> {
    return this.#pending.size === 0 ? Promise.resolve() : this.#untilDrained.wait();
  }

  /**
   * Answers all waiting requests with this error and ends their handlers' waits. Later results of the handlers are
   * dropped.
   */
  failPending(code: Errno): void {
    for (const request of [...this.#pending.values()]) {
      this.#answerErrno(request, ERRNO[code]);
      request.interrupt();
    }
  }

  /** The connection is gone (ENODEV on the device): no request can be answered any more. */
  deviceGone(): void {
    for (const request of [...this.#pending.values()]) {
      this.#done(request, ERRNO.ENODEV, 0);
      request.interrupt();
    }
    this.#interrupts.cancelAll();
    this.#destroyHandlers();
  }

  #destroyHandlers(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#handlers.destroy?.();
  }
}

const INIT_OFFER: FuseOperation = { call: () => undefined, put: putInitOffer, endedBy: 'nothing' };
const INIT_AGREED: FuseOperation = {
  call: () => undefined,
  put: (w: Writer, at: number, result: Negotiated) => putInit(w, at, result),
  endedBy: 'nothing',
};

/**
 * @throws Error if the handler gave more bytes than the kernel has room for: the kernel would refuse the answer, and go
 * on waiting.
 */
function totalBytes(chunks: readonly Uint8Array[], limitBytes: number): number {
  let total = 0;
  for (const chunk of chunks) total += chunk.length;
  if (!(total <= limitBytes)) throw new Error(`handler gave ${total} bytes where ${limitBytes} fit`);
  return total;
}

function hasNoReply(opcode: number): boolean {
  return (
    opcode === OPCODE.FORGET ||
    opcode === OPCODE.BATCH_FORGET ||
    opcode === OPCODE.INTERRUPT ||
    opcode === OPCODE.NOTIFY_REPLY
  );
}
