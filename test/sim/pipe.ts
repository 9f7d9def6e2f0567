/**
 * One direction of a connection, with what a kernel has of it: bytes that the program still owns (nothing was copied
 * yet), bytes on their way (a window's worth at most), and what has arrived and is not read.
 *
 * Bytes are copied when they leave the program's memory, not before: a program that changes a buffer too early sends
 * what it changed it to, as it would on a real socket. In-order always; segments are split anywhere.
 */

import type { Machine, Program } from './machine.js';
import type { SimNetwork } from './network.js';

/** In flight and unread, as socket buffers of both sides together hold. */
const WINDOW_BYTES = 1 << 20;
const SEGMENT_BYTES = 64 << 10;
const BYTES_PER_MS = 1 << 20;

export interface PipeEnd {
  readonly program: Program;
  readonly isOpen: boolean;
  readonly isPaused: boolean;
  received(chunk: Buffer): void;
  receivedEnd(how: 'fin' | 'rst'): void;
  /** The first of what this side wrote has left its memory. */
  left(): void;
}

interface Unsent {
  chunk: Uint8Array;
  readonly sent: (() => void) | undefined;
}

type Segment = Buffer | 'fin' | 'rst';

export class Pipe {
  readonly #network: SimNetwork;
  readonly #from: PipeEnd;
  readonly #to: PipeEnd;
  #unsent: Unsent[] = [];
  #unsentBytes = 0;
  readonly #flight: { readonly segment: Segment; readonly atMs: number }[] = [];
  #flightBytes = 0;
  #lastArrivalMs = 0;
  #scheduled = false;
  /** How the sender closes when everything has left. */
  #ending: 'fin' | 'rst' | undefined;
  #closed = false;
  #takenBytes = 0;
  /** Breaks the connection after so many more bytes have arrived. */
  cutAfterBytes: number | undefined;

  constructor(network: SimNetwork, from: PipeEnd, to: PipeEnd) {
    this.#network = network;
    this.#from = from;
    this.#to = to;
  }

  get fromMachine(): Machine {
    return this.#from.program.machine;
  }
  get toMachine(): Machine {
    return this.#to.program.machine;
  }
  /** Bytes that have arrived at the other machine. */
  get takenBytes(): number {
    return this.#takenBytes;
  }
  get unsentBytes(): number {
    return this.#unsentBytes;
  }

  write(chunks: readonly Uint8Array[], sent: (() => void) | undefined): void {
    if (this.#closed || this.#ending !== undefined) return;
    chunks.forEach((chunk, index) => {
      this.#unsent.push({ chunk, sent: index === chunks.length - 1 ? sent : undefined });
      this.#unsentBytes += chunk.length;
    });
    this.#fill();
  }

  /** @param drop what has not left is not sent any more. */
  end(how: 'fin' | 'rst', drop: boolean): void {
    if (this.#closed || (this.#ending !== undefined && !drop)) return;
    this.#ending = how;
    if (drop) {
      this.#unsent = [];
      this.#unsentBytes = 0;
    }
    this.#fill();
  }

  /** The sender's machine lost its power: what is on its way arrives, and nothing after it. */
  silence(): void {
    this.#closed = true;
    this.#unsent = [];
    this.#unsentBytes = 0;
  }

  /** What is on its way never arrives. */
  lose(): void {
    this.#flight.length = 0;
    this.#flightBytes = 0;
    this.silence();
  }

  /** Something that held it up may be over: the receiver reads again, the network is whole again. */
  wake(): void {
    this.#schedule();
  }

  /** The receiving program has ended: what was to be its event is the machine's now. */
  receiverGone(): void {
    this.#scheduled = false;
    this.#schedule();
  }

  /** Moves what fits the window from the program's memory onto the wire. */
  #fill(): void {
    const { rng } = this.#network;
    const told: (() => void)[] = [];
    let left = false;
    const lineBytes = this.#network.windowBytes(this.fromMachine, this.toMachine) ?? WINDOW_BYTES;
    const windowBytes = Math.min(WINDOW_BYTES, lineBytes);
    while (this.#unsent.length > 0 && this.#flightBytes < windowBytes) {
      const parts: Uint8Array[] = [];
      let bytes = 0;
      const limit = rng.chance(0.05) ? rng.between(1, 200) : Math.min(SEGMENT_BYTES, windowBytes >> 2);
      while (bytes < limit) {
        const first = this.#unsent[0];
        if (first === undefined) break;
        const part = first.chunk.subarray(0, limit - bytes);
        parts.push(part);
        bytes += part.length;
        first.chunk = first.chunk.subarray(part.length);
        if (first.chunk.length > 0) break;
        this.#unsent.shift();
        if (first.sent !== undefined) told.push(first.sent);
      }
      this.#unsentBytes -= bytes;
      this.#launch(Buffer.concat(parts), bytes);
      left = true;
    }
    if (this.#ending !== undefined && this.#unsent.length === 0 && !this.#closed) {
      this.#closed = true;
      this.#launch(this.#ending, 0);
    }
    if (!left) return;
    this.#network.scheduler.after(
      0,
      () => {
        for (const sent of told) sent();
        this.#from.left();
      },
      this.#from.program,
    );
  }

  #launch(segment: Segment, bytes: number): void {
    const { scheduler } = this.#network;
    const delayMs = this.#network.delayMs(this.fromMachine, this.toMachine);
    // A wire that is slow is shared by all that goes this way; each byte waits for those before it.
    const sentMs = this.#network.onWire(this.fromMachine, this.toMachine, bytes);
    const rate = sentMs === undefined ? bytes / BYTES_PER_MS : 0;
    this.#lastArrivalMs = Math.max(this.#lastArrivalMs, (sentMs ?? scheduler.nowMs) + delayMs) + rate;
    this.#flight.push({ segment, atMs: this.#lastArrivalMs });
    this.#flightBytes += bytes;
    this.#schedule();
  }

  #schedule(): void {
    const first = this.#flight[0];
    if (first === undefined || this.#scheduled) return;
    this.#scheduled = true;
    const { scheduler } = this.#network;
    const program = this.#to.program;
    // A stopped program is not told; for one that is gone the machine answers.
    const owner = program.alive ? program : undefined;
    scheduler.after(first.atMs - scheduler.nowMs, () => this.#arrive(), owner);
  }

  #arrive(): void {
    this.#scheduled = false;
    const to = this.#to;
    if (this.#network.isBlocked(this.fromMachine, this.toMachine)) {
      this.#network.waits(this);
      return;
    }
    if (!to.program.alive || !to.isOpen) {
      this.#refuse();
      return;
    }
    const first = this.#flight[0];
    if (first === undefined) return;
    if (to.isPaused && typeof first.segment !== 'string') return;
    this.#flight.shift();
    this.#deliver(first.segment);
    this.#schedule();
  }

  #deliver(segment: Segment): void {
    if (typeof segment === 'string') {
      this.#to.receivedEnd(segment);
      return;
    }
    this.#flightBytes -= segment.length;
    this.#takenBytes += segment.length;
    const cut = this.cutAfterBytes;
    if (cut !== undefined && segment.length >= cut) {
      this.#network.trace('a connection is cut');
      this.#closed = true;
      this.#flight.length = 0;
      if (cut > 0) this.#to.received(segment.subarray(0, cut));
      this.#to.receivedEnd('rst');
      this.#from.receivedEnd('rst');
      return;
    }
    if (cut !== undefined) this.cutAfterBytes = cut - segment.length;
    this.#to.received(segment);
    this.#fill();
  }

  /** Nobody is there to take it. A machine that is up says so; one that is down says nothing. */
  #refuse(): void {
    if (!this.toMachine.hasPower) {
      this.#network.waits(this);
      return;
    }
    this.#flight.length = 0;
    this.#closed = true;
    const from = this.#from;
    if (!from.program.alive || !from.isOpen) return;
    const delayMs = this.#network.delayMs(this.toMachine, this.fromMachine);
    this.#network.scheduler.after(
      delayMs,
      () => {
        if (from.isOpen) from.receivedEnd('rst');
      },
      from.program,
    );
  }
}
