/**
 * One request while it is being worked on: what the handler sees of its caller, and what the reply needs.
 *
 * `unique` is 64 bits that must come back exactly, with bit 63 used by NOTIFY_RESEND and bit 0 by INTERRUPT, so it is
 * kept in two halves; the key for tables is its low 53 bits (the kernel counts up by two from a small number).
 */

import { FsError } from '../base/errno.js';
import type { Cursor, Writer } from './cursor.js';
import type { FuseHandlers, RequestContext } from './handlers.js';

const KEY_HIGH_MASK = 0x1f_ffff;

/** The same for a request, for its resend and for its interrupt. */
export function requestKey(uniqueHigh: number, uniqueLow: number): number {
  return (uniqueHigh & KEY_HIGH_MASK) * 0x1_0000_0000 + ((uniqueLow & ~1) >>> 0);
}

/** How a request of one kind is answered: see operations.ts. */
export interface FuseOperation {
  /** Reads the arguments and calls the handler. Throws FsError for a body that is none. */
  call(handlers: FuseHandlers, request: Request, body: Cursor): unknown;
  /** Writes a result of at most FIXED_REPLY_BYTES at an offset; returns its size, or a negative errno. */
  put?(writer: Writer, at: number, result: unknown): number;
  /** A result of any size, as the chunks it consists of. Neither put nor chunks: the answer is empty. */
  chunks?(result: unknown): readonly Uint8Array[];
  readonly endedBy: EndedBy;
}

/**
 * Which signals end a request that waits (interrupts.ts has the rule):
 * - nothing: the operation must end by itself.
 * - awayOrDeath: a signal that kills the caller; a caught one only after a long wait for a server that is away.
 * - lockWait: the same, and every caught signal while it waits for the lock of another owner. The kernel makes
 *   ERESTARTSYS of the EINTR (fuse_setlk), so SA_RESTART holds, as on a local filesystem.
 *
 * Opening a FIFO waits in the kernel and is no request of ours.
 */
export type EndedBy = 'nothing' | 'awayOrDeath' | 'lockWait';

export class Request implements RequestContext {
  readonly opcode: number;
  readonly nodeid: number;
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  readonly uniqueLow: number;
  /** Changes when the kernel sends the request again: only the newest form is answered. */
  uniqueHigh: number;
  /** Largest answer the kernel has room for, set by the operations whose caller says so. */
  replyLimitBytes = Number.MAX_SAFE_INTEGER;
  /** Set when the answer has left, or was given on behalf of the handler. */
  answered = false;
  operation: FuseOperation | undefined = undefined;
  /** When it began to wait for its handler. */
  beganMs = 0;
  #waitsForOwner = false;
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
  }

  /** Ends the handler's wait: its signal aborts with EINTR as the reason. */
  interrupt(): void {
    this.#controller ??= new AbortController();
    this.#controller.abort(new FsError('EINTR', 'interrupted by a signal'));
  }
}
