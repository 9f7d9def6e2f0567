/**
 * Between the kernel's bytes and the filesystem's methods: decodes a batch of requests, calls handlers, encodes
 * their results. It opens no device and knows no filesystem.
 *
 * Invariants:
 * - Every request that wants an answer gets exactly one, whatever its handler does: an exception that is not an FsError
 *   is logged with its stack and answered EIO; a request with impossible contents is answered EINVAL.
 * - A handler that answers at once is answered in the same turn without a promise, into the reply slab.
 * - Requests that wait are in one table by unique until they are answered; an interrupt, a resend and a teardown
 *   find them there.
 * - Views into the batch's slab end with batch(); handlers copy what they keep.
 */

import { ERRNO, type Errno, errnoOf, FsError } from '../base/errno.js';
import { type Log, logger } from '../base/log.js';
import { WaitList } from '../base/wait.js';
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

export interface FuseDispatcherOptions {
  readonly timers: RetryTimers;
  readonly clock: InterruptClock;
  /** Default: every signal ends the request. */
  readonly interruptPolicy?: InterruptPolicy;
  /** Time in a call to a server that is away before a caught signal may end it. Default 1000. */
  readonly interruptGraceMs?: number;
  /** Time until an ignored INTERRUPT is asked for again. Default 30. */
  readonly interruptRetryMs?: number;
  /** Asynchronous requests (readahead, direct I/O) the kernel keeps with us at once. Default 128. */
  readonly maxBackground?: number;
  /** Above this the kernel calls itself congested and slows readahead. Default 96. */
  readonly congestionThreshold?: number;
  /** INIT flags not to ask for. */
  readonly withoutInitFlags?: bigint;
  readonly log?: Log;
}

const NODEID_HIGH_LIMIT = 0x20_0000;
const TWO_32 = 0x1_0000_0000;

export class FuseDispatcher {
  readonly #handlers: FuseHandlers;
  readonly #log: Log;
  readonly #initOptions: { maxBackground: number; congestionThreshold: number; withoutFlags: bigint };
  readonly #interrupts: Interrupts;
  readonly #clock: InterruptClock;
  readonly #pending = new Map<number, Request>();
  readonly #cursor = new Cursor();
  readonly #replies: Replies;
  readonly #untilDrained = new WaitList();
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
      graceMs: options.interruptGraceMs ?? 1000,
      retryMs: options.interruptRetryMs ?? 30,
      log: this.#log,
      askAgain: (high, low) => this.#replies.sendError(high, low, ERRNO.EAGAIN),
    });
  }

  /** What INIT agreed on; undefined before. */
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

  /** Bytes in the reply slab that have to be sent now; the slab counts as empty afterwards. */
  takeReplyBytes(): number {
    return this.#replies.takeBytes();
  }

  /**
   * Works through requests packed one behind the other, each at a multiple of 8. Handlers run now; the slab's
   * memory may be reused when this returns.
   */
  batch(slab: Buffer, usedBytes: number): void {
    if (slab !== this.#batchBytes) {
      this.#batchBytes = slab;
      this.#batchView = new DataView(slab.buffer, slab.byteOffset, slab.byteLength);
    }
    const view = this.#batchView;
    this.#tracing = this.#log.enabled;
    this.#replies.inBatch = true;
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
    }
  }

  /** A length that cannot be: where the next request begins is unknown, so the rest of the batch is lost. */
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
    // Extensions (security context, supplementary group) stand behind the arguments: the body ends before them.
    this.#cursor.reset(slab, view, at + SIZE.IN_HEADER, end);
    const operation = OPERATIONS[opcode];
    if (operation === undefined) {
      this.#withoutOperation(request);
      return;
    }
    if (uniqueHigh >= UNIQUE_RESEND_HIGH && this.#isKnownResend(request)) return;
    this.#run(request, opcode === OPCODE.SETXATTR && !this.#setxattrExt ? SETXATTR_COMPAT : operation);
  }

  #run(request: Request, operation: FuseOperation): void {
    request.operation = operation;
    let result: unknown;
    try {
      result = operation.call(this.#handlers, request, this.#cursor);
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
    request.beganMs = this.#clock.nowMs();
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

  /** A request that the kernel sends again while it is still being worked on: only its unique has changed. */
  #isKnownResend(request: Request): boolean {
    const known = this.#pending.get(request.key);
    if (known === undefined) return false;
    known.uniqueHigh = request.uniqueHigh;
    return true;
  }

  #answer(request: Request, operation: FuseOperation, result: unknown): void {
    // Nothing leaves before the encoder is through: a result that is not what its type says can still fail.
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

  /** @param errno 0: done, and there is nothing more to say. */
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
      // The kernel would never ask again, but what a server cannot do today it can do after its upgrade.
      errno = ERRNO.EOPNOTSUPP;
    }
    this.#answerErrno(request, errno);
  }

  /** Bookkeeping of every answer, before it is written. */
  #done(request: Request, errno: number, bodyBytes: number): void {
    request.answered = true;
    if (this.#pending.size !== 0) this.#forgetPending(request);
    this.#interrupts.requestDone(request);
    if (this.#tracing) this.#log('%s -> %d, %d bytes', this.#describe(request), -errno, bodyBytes);
  }

  #forgetPending(request: Request): void {
    const { key } = request;
    if (this.#pending.get(key) !== request) return;
    this.#pending.delete(key);
    if (this.#pending.size === 0) this.#untilDrained.wake();
  }

  #describe(request: Request): string {
    const unique = uniqueText(request.uniqueHigh, request.uniqueLow);
    return `${opcodeName(request.opcode)} #${unique} node ${request.nodeid} uid ${request.uid} pid ${request.pid}`;
  }

  #malformed(request: Request): void {
    this.#log('%s: impossible header', this.#describe(request));
    if (!hasNoReply(request.opcode)) this.#answerErrno(request, ERRNO.EINVAL);
  }

  /** Requests that are about the connection, not about files. */
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

  /** fuse_interrupt_in names the request; the message's own unique is that with the low bit set. */
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
    this.#negotiated = negotiated;
    this.#setxattrExt = (negotiated.flags & INIT_FLAG.SETXATTR_EXT) !== 0n;
    this.#answer(request, INIT_AGREED, negotiated);
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

  /** Resolves when no request waits for its handler; at once if that is so now. */
  drainPending(): Promise<void> {
    return this.#pending.size === 0 ? Promise.resolve() : this.#untilDrained.wait();
  }

  /** Answers all waiting requests with that error and ends their handlers' waits; what those say later is dropped. */
  failPending(code: Errno): void {
    for (const request of [...this.#pending.values()]) {
      this.#answerErrno(request, ERRNO[code]);
      request.interrupt();
    }
  }

  /** The connection is gone (ENODEV on the device): nothing can be answered any more. */
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

/** @throws Error when the handler gave more than the kernel has room for: it would refuse the answer, and wait on. */
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
