/**
 * The gate of one target: every operation that may need an RPC passes it before the RPC is formed.
 *
 * OPEN: operations pass at once and are counted. DRAINING: a controlled shutdown asked for the active lock; new
 * operations park, those inside finish. CLOSED: nothing is to be asked of the target (drained, disconnected, in
 * recovery). Parked operations run in arrival order when it opens, and each can be ended by its signal at once.
 *
 * Two reasons keep it shut, and each is lifted by whoever raised it: the drain, and an import that is not FULL.
 *
 * Invariants: nobody is parked at an open gate; it knows since when it is shut exactly while it is shut, and nobody waits
 * for that any more.
 */

import { assert } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import { CountDown, onAbort, WaitList } from '../../base/wait.js';
import type { Clock } from '../../runtime/ports.js';

export type GateState = 'OPEN' | 'DRAINING' | 'CLOSED';

interface Parked {
  readonly tag: unknown;
  pass(): void;
  fail(error: FsError): void;
}

/** What the gate needs of an operation: its signal, looked at only when the operation parks. */
export interface Passenger {
  readonly signal: AbortSignal;
}

export class Gate {
  readonly #clock: Pick<Clock, 'nowMs'>;
  /** Since when it has not been open; undefined: it is. */
  #shutSinceMs: number | undefined;
  #connected = false;
  #drain: 'no' | 'draining' | 'drained' = 'no';
  readonly #inside = new CountDown();
  readonly #parked = new Set<Parked>();
  readonly #untilShut = new WaitList();

  constructor(clock: Pick<Clock, 'nowMs'>) {
    this.#clock = clock;
    this.#shutSinceMs = clock.nowMs();
  }

  get state(): GateState {
    if (this.#connected && this.#drain === 'no') return 'OPEN';
    return this.#drain === 'draining' ? 'DRAINING' : 'CLOSED';
  }

  get isOpen(): boolean {
    return this.#connected && this.#drain === 'no';
  }

  /** For how long the target has been away; 0 when it is there, however slow it answers. */
  get awayMs(): number {
    return this.#shutSinceMs === undefined ? 0 : this.#clock.nowMs() - this.#shutSinceMs;
  }

  /** A drain is under way: what it depends on (write-back, reads under locks still held) is admitted. */
  get isDraining(): boolean {
    return this.#drain === 'draining';
  }

  /** Operations inside. */
  get inside(): number {
    return this.#inside.count;
  }

  get parked(): number {
    return this.#parked.size;
  }

  /**
   * Passes, or parks until the gate opens. Who passed calls leave() exactly once.
   * @param tag what rejectTagged() finds it by: the handle that the operation uses.
   * @throws FsError EINTR (as a rejection) when the signal aborts while parked.
   */
  enter(passenger: Passenger, tag?: unknown): Promise<void> | undefined {
    if (this.isOpen && this.#parked.size === 0) {
      this.#inside.add();
      return undefined;
    }
    const signal = passenger.signal;
    if (signal.aborted) return Promise.reject(new FsError('EINTR', 'interrupted before the gate'));
    return new Promise((resolve, reject) => {
      const parked: Parked = {
        tag,
        pass: () => {
          unlisten();
          this.#inside.add();
          resolve();
        },
        fail: (error) => {
          unlisten();
          reject(error);
        },
      };
      const unlisten = onAbort(signal, () => {
        this.#parked.delete(parked);
        parked.fail(new FsError('EINTR', 'interrupted while parked at the gate'));
      });
      this.#parked.add(parked);
    });
  }

  leave(): void {
    this.#inside.done();
  }

  /** Resolves when no operation is inside. */
  idle(): Promise<void> {
    return this.#inside.zero();
  }

  /** Resolves as soon as the gate is not open. For close(2), which must not wait for a server that is away. */
  shut(): Promise<void> {
    return this.isOpen ? this.#untilShut.wait() : Promise.resolve();
  }

  setConnected(connected: boolean): void {
    this.#connected = connected;
    this.#changed();
  }

  setDrain(drain: 'no' | 'draining' | 'drained'): void {
    this.#drain = drain;
    this.#changed();
  }

  /** Ends the waits of parked operations with this tag: what they were about is gone. */
  rejectTagged(isGone: (tag: unknown) => boolean, error: FsError): void {
    for (const parked of this.#parked) {
      if (!isGone(parked.tag)) continue;
      this.#parked.delete(parked);
      parked.fail(error);
    }
  }

  #changed(): void {
    if (!this.isOpen) {
      this.#shutSinceMs ??= this.#clock.nowMs();
      this.#untilShut.wake();
      return;
    }
    this.#shutSinceMs = undefined;
    // In arrival order. Those that arrive while these start find the set empty, and come after them.
    const waiting = [...this.#parked];
    this.#parked.clear();
    for (const parked of waiting) parked.pass();
  }

  checkInvariants(): void {
    const { isOpen, state } = this;
    assert(!isOpen || this.#parked.size === 0, `${this.#parked.size} operations are parked at an open gate`);
    assert(
      (this.#shutSinceMs === undefined) === isOpen,
      `the gate is ${state}, shut since ${this.#shutSinceMs}`,
    );
    assert(isOpen || this.#untilShut.size === 0, `the gate is ${state}, and somebody waits for that`);
  }
}
