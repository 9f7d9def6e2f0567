/**
 * The gate of one target: every operation that may need an RPC passes it before the RPC is formed.
 *
 * OPEN: operations pass at once and are counted. DRAINING: the server called the active lock back for a controlled shutdown;
 * new operations park, those inside finish. CLOSED: the client must ask the target for nothing (it has drained, is
 * disconnected, or is in recovery). Parked operations run in arrival order when the gate opens. The signal of a parked
 * operation ends its wait at once.
 *
 * REFUSED: the server does not take this client any more. Operations fail at once, with the reason.
 *
 * A drain keeps the gate shut, and so does an import that is not FULL. Each of the two takes only its own reason away.
 *
 * Invariants: no operation is parked at an open gate; the gate has the time of its closing exactly while it is not open; nobody
 * waits for it to close while it is not open.
 */

import { assert } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import { CountDown, onAbort, WaitList } from '../../base/wait.js';
import { type Clock, NO_WAITS, type Waits } from '../../runtime/ports.js';

/** How many pauses the gate remembers. */
const PAUSES_MAX = 16;

export type GateState = 'OPEN' | 'DRAINING' | 'CLOSED' | 'REFUSED';

interface Parked {
  readonly tag: unknown;
  pass(): void;
  fail(error: FsError): void;
}

/** What the gate needs of an operation: its signal. The gate looks at it only when the operation parks, and tells it then. */
export interface Passenger {
  readonly signal: AbortSignal;
  parked?(isParked: boolean): void;
}

const AT_GATE = (): string => 'gate (server away)';

export class Gate {
  readonly #clock: Pick<Clock, 'nowMs'>;
  /** Time at which the gate stopped being open; undefined while it is open. */
  #shutSinceMs: number | undefined;
  /** Newest last. The time before the gate opened first is none: nobody had called. */
  #pauses: readonly { readonly endMs: number; readonly ms: number; readonly calls: number }[] = [];
  #connected = false;
  #drain: 'no' | 'draining' | 'drained' = 'no';
  #refusal: FsError | undefined;
  readonly #inside = new CountDown();
  readonly #parked = new Set<Parked>();
  readonly #untilShut = new WaitList();
  readonly #waits: Waits;
  readonly #paused: ((seconds: number) => void) | undefined;
  /** It has been open: the time before the first connection is no pause. */
  #wasOpen = false;

  /** @param paused hears, when the gate opens again, how long it was not open. */
  constructor(clock: Pick<Clock, 'nowMs'>, paused?: (seconds: number) => void, waits: Waits = NO_WAITS) {
    this.#waits = waits;
    this.#clock = clock;
    this.#paused = paused;
    this.#shutSinceMs = clock.nowMs();
  }

  get state(): GateState {
    if (this.#connected && this.#drain === 'no') return 'OPEN';
    if (this.#drain === 'draining') return 'DRAINING';
    return this.#refusal === undefined ? 'CLOSED' : 'REFUSED';
  }

  get isOpen(): boolean {
    return this.#connected && this.#drain === 'no';
  }

  /** Neither open nor draining: the client asks the target for nothing. */
  get isClosed(): boolean {
    return !this.isOpen && this.#drain !== 'draining';
  }

  /** How long the gate has not been open, so the target has been away; 0 while it is open, however slowly the target answers. */
  get awayMs(): number {
    return this.#shutSinceMs === undefined ? 0 : this.#clock.nowMs() - this.#shutSinceMs;
  }

  /** A drain is under way: the client still admits what the drain depends on (write-back, reads under locks still held). */
  get isDraining(): boolean {
    return this.#drain === 'draining';
  }

  /** Number of operations inside. */
  get inside(): number {
    return this.#inside.count;
  }

  get parked(): number {
    return this.#parked.size;
  }

  /**
   * Passes, or parks until the gate opens. A caller that has passed calls leave() exactly once.
   * @param tag the handle that the operation uses: rejectTagged() finds the operation by it.
   * @throws FsError EINTR (as a rejection) when the signal aborts while parked; the refusal, if the server refuses this client.
   */
  enter(passenger: Passenger, tag?: unknown): Promise<void> | undefined {
    if (this.isOpen && this.#parked.size === 0) {
      this.#inside.add();
      return undefined;
    }
    if (this.#refusal !== undefined && !this.isOpen) return Promise.reject(this.#refusal);
    const signal = passenger.signal;
    if (signal.aborted) return Promise.reject(new FsError('EINTR', 'interrupted before the gate'));
    const passed = new Promise<void>((resolve, reject) => {
      const parked: Parked = {
        tag,
        pass: () => {
          unlisten();
          passenger.parked?.(false);
          this.#inside.add();
          resolve();
        },
        fail: (error) => {
          unlisten();
          passenger.parked?.(false);
          reject(error);
        },
      };
      const unlisten = onAbort(signal, () => {
        this.#parked.delete(parked);
        parked.fail(new FsError('EINTR', 'interrupted while parked at the gate'));
      });
      this.#parked.add(parked);
      passenger.parked?.(true);
    });
    return this.#waits.during(AT_GATE, passed);
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

  /** Operations fail with this error while the gate is not open. undefined: they wait again. */
  refuse(error: FsError | undefined): void {
    this.#refusal = error;
    if (error !== undefined && !this.isOpen) this.rejectTagged(() => true, error);
  }

  /** Ends the waits of the parked operations whose tag isGone() accepts: what they were about is gone. */
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
    this.#notePause();
    this.#shutSinceMs = undefined;
    // In arrival order. An operation that arrives while these start finds the set empty, and comes after them.
    const waiting = [...this.#parked];
    this.#parked.clear();
    for (const parked of waiting) parked.pass();
  }

  /** The latest times at which the gate was not open. The one that goes on is not among them. */
  pauses(): readonly { readonly agoMs: number; readonly ms: number; readonly calls: number }[] {
    const nowMs = this.#clock.nowMs();
    return this.#pauses.map(({ endMs, ms, calls }) => ({ agoMs: nowMs - endMs, ms, calls }));
  }

  /** A pause that began in the process before this one ends now. @param calls how many waited. */
  pausedFor(ms: number, calls: number): void {
    this.#pauses = [...this.#pauses, { endMs: this.#clock.nowMs(), ms, calls }].slice(-PAUSES_MAX);
    this.#paused?.(ms / 1000);
  }

  #notePause(): void {
    const sinceMs = this.#shutSinceMs;
    if (sinceMs === undefined) return;
    if (this.#wasOpen) this.pausedFor(this.#clock.nowMs() - sinceMs, this.#parked.size);
    this.#wasOpen = true;
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
