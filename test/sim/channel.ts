/**
 * /dev/fuse: requests as bytes to the real dispatcher, replies back to whoever waits for them, and interrupts.
 *
 * Hazards that the real one has are kept: several requests come in one batch; the slab that held them is overwritten when
 * the batch is over; a reply that was sent is applied by its caller's thread a little later, so an invalidation may come in
 * between; an INTERRUPT may meet its request before, during or after its work, and comes again when it was answered EAGAIN.
 */

import { OPCODE, opcodeName } from '../../src/fuse/constants.js';
import { FuseDispatcher } from '../../src/fuse/dispatcher.js';
import type { FuseHandlers } from '../../src/fuse/handlers.js';
import { body, message } from './fuse_requests.js';
import type { Program } from './machine.js';
import type { SimRng } from './rng.js';
import type { Scheduler } from './scheduler.js';

const SLAB_BYTES = 2 << 20;
/** So large it is at first. */
const FIRST_SLAB_BYTES = 16 << 10;
const EINTR = 4;
const EAGAIN = 11;
const ENOTCONN = 107;

export interface Answer {
  /** 0, or a positive errno. */
  readonly errno: number;
  readonly body: Buffer;
}

export interface Pending {
  readonly unique: bigint;
  readonly opcode: number;
  readonly pid: number;
  readonly answer: Promise<Answer>;
}

interface Waiting extends Pending {
  /** Not read by the client yet. */
  bytes: Buffer | undefined;
  isInterrupted: boolean;
  resolve(answer: Answer): void;
}

export class FuseChannel {
  readonly dispatcher: FuseDispatcher;
  readonly #scheduler: Scheduler;
  readonly #rng: SimRng;
  readonly #program: Program;
  readonly #replySlab = Buffer.alloc(256 << 10);
  #requestSlab = Buffer.alloc(FIRST_SLAB_BYTES);
  readonly #waiting = new Map<bigint, Waiting>();
  #queue: { readonly bytes: Buffer; readonly waiting: Waiting | undefined }[] = [];
  #reading = false;
  #nextUnique = 2n;
  #gone = false;
  /** Thread ids with a signal that kills them. */
  readonly killed = new Set<number>();
  requests = 0;

  constructor(handlers: FuseHandlers, program: Program, scheduler: Scheduler, rng: SimRng) {
    this.#program = program;
    this.#scheduler = scheduler;
    this.#rng = rng;
    this.dispatcher = new FuseDispatcher(
      handlers,
      { replySlab: this.#replySlab, send: (chunks) => this.#replied(Buffer.concat(chunks)) },
      {
        timers: program.runtime().timers,
        clock: program.runtime().clock,
        interruptPolicy: (pid) => (this.killed.has(pid) ? 'everyCall' : 'nothing'),
      },
    );
    program.onEnd(() => this.abort());
  }

  /** Operations that wait for an answer. */
  get pending(): readonly Pending[] {
    return [...this.#waiting.values()];
  }

  describe(): string[] {
    return this.pending.map(({ opcode, pid }) => `${opcodeName(opcode)} of task ${pid}`);
  }

  request(opcode: number, nodeid: number, pid: number, content: Uint8Array): Pending {
    const unique = this.#nextUnique;
    this.#nextUnique += 2n;
    this.requests += 1;
    let resolve: (answer: Answer) => void = () => undefined;
    const answer = new Promise<Answer>((done) => {
      resolve = done;
    });
    const bytes = message({ opcode, unique, nodeid, pid }, content);
    const waiting: Waiting = { unique, opcode, pid, answer, bytes, isInterrupted: false, resolve };
    if (this.#gone) {
      resolve({ errno: ENOTCONN, body: Buffer.alloc(0) });
      return waiting;
    }
    this.#waiting.set(unique, waiting);
    this.#put(bytes, waiting);
    return waiting;
  }

  /** A message that is not answered. */
  tell(opcode: number, nodeid: number, content: Uint8Array): void {
    if (!this.#gone) this.#put(message({ opcode, unique: 0n, nodeid, pid: 0 }, content), undefined);
  }

  /** A signal came for the thread that waits for this. What the client has not read yet ends at once. */
  interrupt(pending: Pending): void {
    const waiting = this.#waiting.get(pending.unique);
    if (waiting === undefined || waiting.isInterrupted) return;
    if (waiting.bytes !== undefined) {
      this.#queue = this.#queue.filter((queued) => queued.waiting !== waiting);
      this.#finish(waiting, { errno: EINTR, body: Buffer.alloc(0) });
      return;
    }
    waiting.isInterrupted = true;
    this.#sendInterrupt(waiting);
  }

  /** Replies that stand in the slab leave now. */
  flushReplies(): void {
    const bytes = this.dispatcher.takeReplyBytes();
    for (let at = 0; at < bytes; ) {
      const length = this.#replySlab.readUInt32LE(at);
      this.#replied(Buffer.from(this.#replySlab.subarray(at, at + length)));
      at += (length + 7) & ~7;
    }
  }

  /** The client is gone, or the mount: nothing is answered any more. */
  abort(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#queue = [];
    for (const waiting of [...this.#waiting.values()]) {
      this.#finish(waiting, { errno: ENOTCONN, body: Buffer.alloc(0) });
    }
  }

  #put(bytes: Buffer, waiting: Waiting | undefined): void {
    if (bytes.length > SLAB_BYTES) throw new Error(`a request of ${bytes.length} bytes`);
    this.#queue.push({ bytes, waiting });
    if (this.#reading) return;
    this.#reading = true;
    this.#scheduler.after(0.005 + this.#rng.fraction() * 0.02, () => this.#read(), this.#program);
  }

  #read(): void {
    this.#reading = false;
    const slab = this.#slab();
    let used = 0;
    while (this.#queue.length > 0) {
      const first = this.#queue[0];
      if (first === undefined || used + first.bytes.length > slab.length) break;
      slab.set(first.bytes, used);
      used += first.bytes.length;
      if (first.waiting !== undefined) first.waiting.bytes = undefined;
      this.#queue.shift();
    }
    this.dispatcher.batch(slab, used);
    this.flushReplies();
    slab.fill(0xdb, 0, used);
    if (this.#queue.length > 0) this.#scheduler.after(0, () => this.#read(), this.#program);
  }

  /** Memory for the batch that waits. */
  #slab(): Buffer {
    let wanted = this.#requestSlab.length;
    const waiting = this.#queue.reduce((sum, { bytes }) => sum + bytes.length, 0);
    while (wanted < Math.min(waiting, SLAB_BYTES)) wanted *= 2;
    if (wanted > this.#requestSlab.length) this.#requestSlab = Buffer.alloc(wanted);
    return this.#requestSlab;
  }

  #replied(bytes: Buffer): void {
    const unique = bytes.readBigUInt64LE(8);
    const errno = -bytes.readInt32LE(4);
    if ((unique & 1n) === 1n) {
      const interrupted = this.#waiting.get(unique & ~1n);
      if (interrupted !== undefined && errno === EAGAIN) this.#sendInterrupt(interrupted);
      return;
    }
    const waiting = this.#waiting.get(unique);
    // A real kernel answers ENOENT to who answers twice.
    if (waiting === undefined) {
      if (!this.#gone) throw new Error(`a reply to #${unique}, which waits for none`);
      return;
    }
    this.#waiting.delete(unique);
    const answer = { errno, body: bytes.subarray(16) };
    const applied = this.#rng.chance(0.3) ? this.#rng.fraction() * 0.3 : 0.002;
    this.#scheduler.after(applied, () => waiting.resolve(answer));
  }

  #finish(waiting: Waiting, answer: Answer): void {
    this.#waiting.delete(waiting.unique);
    this.#scheduler.after(0, () => waiting.resolve(answer));
  }

  #sendInterrupt({ unique, pid }: Waiting): void {
    this.#put(
      message({ opcode: OPCODE.INTERRUPT, unique: unique | 1n, nodeid: 0, pid }, body(unique)),
      undefined,
    );
  }
}
