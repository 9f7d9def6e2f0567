/**
 * One request until it is answered: what the handler sees of its caller, and what the reply needs.
 *
 * `unique` is 64 bits that we must return exactly; NOTIFY_RESEND uses bit 63 and INTERRUPT bit 0. So it is kept in two
 * halves. The key for tables is its low 53 bits (the kernel counts up by two from a small number).
 */

import { FsError } from '../base/errno.js';
import type { Cursor, Writer } from './cursor.js';
import type { FuseHandlers, RequestContext } from './handlers.js';

const KEY_HIGH_MASK = 0x1f_ffff;

/** The key is the same for a request, for its resend and for its interrupt. */
export function requestKey(uniqueHigh: number, uniqueLow: number): number {
  return (uniqueHigh & KEY_HIGH_MASK) * 0x1_0000_0000 + ((uniqueLow & ~1) >>> 0);
}

/** How to answer requests of one kind: see operations.ts. */
export interface FuseOperation {
  /** Reads the arguments and calls the handler. Throws FsError for a malformed body. */
  call(handlers: FuseHandlers, request: Request, body: Cursor): unknown;
  /** Writes a result of at most FIXED_REPLY_BYTES at an offset; returns its size, or a negative errno. */
  put?(writer: Writer, at: number, result: unknown): number;
  /** Gives a result of any size, as chunks. Without put and chunks the answer is empty. */
  chunks?(result: unknown): readonly Uint8Array[];
  readonly endedBy: EndedBy;
}

/**
 * Which signals end a request that waits (interrupts.ts has the rule):
 * - nothing: the operation must end by itself.
 * - awayOrDeath: a signal that kills the caller; a caught one only after a long wait for an absent server.
 * - lockWait: the same, and every caught signal while the request waits for the lock of another owner. The kernel turns
 *   the EINTR into ERESTARTSYS (fuse_setlk), so SA_RESTART works as on a local filesystem.
 *
 * The open of a FIFO waits in the kernel and is not a request to us.
 */
export type EndedBy = 'nothing' | 'awayOrDeath' | 'lockWait';

export class Request implements RequestContext {
  readonly opcode: number;
  readonly nodeid: number;
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  readonly uniqueLow: number;
  /** Changes when the kernel sends the request again: we answer only the newest one. */
  uniqueHigh: number;
  /** The kernel's room for the answer; set by operations whose request names it. */
  replyLimitBytes = Number.MAX_SAFE_INTEGER;
  /** Set when the answer was sent, by the handler's result or on its behalf. */
  answered = false;
  operation: FuseOperation | undefined = undefined;
  /** As the kernel sent it; kept while the mount may be handed over. */
  bytes: Buffer | undefined = undefined;
  /** The request has begun to wait for its handler, and when. */
  waited = false;
  beganMs = 0;
  #waitsForOwner = false;
  #isParked = false;
  #onIdle: (() => void) | undefined = undefined;
  #controller: AbortController | undefined = undefined;

  constructor(
    opcode: number,
    uniqueHigh: number,
    uniqueLow: number,
    nodeid: number,
    uid: number,
    gid: number,
    pid: number,
  ) {
    this.opcode = opcode;
    this.uniqueHigh = uniqueHigh;
    this.uniqueLow = uniqueLow;
    this.nodeid = nodeid;
    this.uid = uid;
    this.gid = gid;
    this.pid = pid;
  }

  get key(): number {
    return requestKey(this.uniqueHigh, this.uniqueLow);
  }

  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    return this.#controller.signal;
  }

  get isWaitingForOwner(): boolean {
    return this.#waitsForOwner;
  }

  waitsForOwner(): void {
    this.#waitsForOwner = true;
    this.#onIdle?.();
  }

  parked(isParked: boolean): void {
    this.#isParked = isParked;
    if (isParked) this.#onIdle?.();
  }

  /**
   * The request has changed nothing yet, or all that it has changed is known elsewhere: another process can take it over. It waits
   * at the gate, or for another owner's lock.
   */
  get isIdle(): boolean {
    return this.#isParked || this.#waitsForOwner;
  }

  /** @param listener called when the request becomes idle. */
  onIdle(listener: (() => void) | undefined): void {
    this.#onIdle = listener;
  }

  /** Ends the handler's wait: its signal aborts with EINTR as the reason. */
  interrupt(): void {
    this.#controller ??= new AbortController();
    this.#controller.abort(new FsError('EINTR', 'interrupted by a signal'));
  }
}
