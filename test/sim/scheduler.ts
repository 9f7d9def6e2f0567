/**
 * Virtual time and the one queue of events. Nothing in the simulator happens outside an event, and between two events
 * every promise that can go on does; one that was rejected and that nobody waits for is told of then, as after any turn of
 * the real event loop. That itself has a turn now and then only: one for each event would take as long as the events.
 *
 * Invariants:
 * - Events run in order of time, those of one time in the order in which they were asked for.
 * - An event of a program that was killed never runs; of one that is stopped (SIGSTOP) it runs when that goes on.
 * - The digest covers every event that ran and every line of the trace: two runs of a seed are the same when it is.
 */

import type { Timer } from '../../src/runtime/ports.js';
import { mix32 } from './rng.js';
import { Trace } from './trace.js';

/** Whose event it is. */
export interface Owner {
  readonly alive: boolean;
  /** Virtual time until which it is stopped; 0 when it runs. */
  readonly stoppedUntilMs: number;
}

interface Event {
  atMs: number;
  readonly order: number;
  readonly owner: Owner | undefined;
  run: (() => void) | undefined;
}

/** So often the rest of the process (a time limit of a test, its output) gets its turn. */
const EVENTS_A_TURN = 1000;

/**
 * What Node does between two callbacks of one turn: every promise that can go on goes on, and rejections that nobody waits
 * for are told. Old and without a description, so we can do without it.
 */
const settle = (process as { readonly _tickCallback?: () => void })._tickCallback;

export type RunEnd = 'done' | 'nothing left' | 'time is up';

export class Scheduler {
  readonly trace = new Trace(() => this.#nowMs);
  /** After each event, when every promise that can go on has gone on: whose event it was. */
  afterEvent: (owner: Owner | undefined) => void = () => undefined;
  /** Told of each event that somebody asks for. */
  onAsked: () => void = () => undefined;
  readonly #heap: Event[] = [];
  #nowMs = 0;
  #orders = 0;
  #events = 0;

  get nowMs(): number {
    return this.#nowMs;
  }

  /** Events that ran. */
  get events(): number {
    return this.#events;
  }

  after(ms: number, run: () => void, owner?: Owner): Timer {
    this.#orders += 1;
    const event: Event = { atMs: this.#nowMs + Math.max(0, ms), order: this.#orders, owner, run };
    this.#push(event);
    this.onAsked();
    return {
      cancel: () => {
        event.run = undefined;
      },
    };
  }

  /** Resolves when so much virtual time has passed; never when its owner dies before. */
  sleep(ms: number, owner?: Owner): Promise<void> {
    return new Promise((resolve) => this.after(ms, resolve, owner));
  }

  /** Runs events until `done`, or until none is left, or until that time. */
  async run(done: () => boolean, untilMs: number): Promise<RunEnd> {
    for (;;) {
      // Promises first: what a caller has just started may be all there is.
      const end = await turn(() => this.#runSome(done, untilMs));
      if (end !== undefined) return end;
    }
  }

  /** @returns undefined when there is more to run. */
  #runSome(done: () => boolean, untilMs: number): RunEnd | undefined {
    for (let count = 0; count < EVENTS_A_TURN; count++) {
      if (done()) return 'done';
      const event = this.#next();
      if (event === undefined) return 'nothing left';
      if (event.atMs > untilMs) {
        this.#push(event);
        return 'time is up';
      }
      this.#run(event);
      if (settle === undefined) return undefined;
      settle();
      this.afterEvent(event.owner);
    }
    return undefined;
  }

  /**
   * Runs one event, for a caller that lets promises go on between two.
   * @param mayWait asked whether time may go on, if the next event is later than now.
   * @returns false if no event was left.
   */
  step(mayWait: () => boolean): boolean {
    const event = this.#next();
    if (event === undefined) return false;
    if (event.atMs > this.#nowMs && !mayWait()) this.#push(event);
    else this.#run(event);
    return true;
  }

  #run(event: Event): void {
    this.#nowMs = Math.max(this.#nowMs, event.atMs);
    this.#events += 1;
    this.trace.digest = mix32(this.trace.digest ^ event.order ^ Math.round(event.atMs * 1024));
    event.run?.();
  }

  /** The next event that may run: those of the dead go, those of the stopped are put off. */
  #next(): Event | undefined {
    for (;;) {
      const event = this.#pop();
      if (event === undefined) return undefined;
      const { owner } = event;
      if (event.run === undefined || owner?.alive === false) continue;
      if (owner !== undefined && owner.stoppedUntilMs > event.atMs) {
        event.atMs = owner.stoppedUntilMs;
        this.#push(event);
        continue;
      }
      return event;
    }
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const up = (at - 1) >> 1;
      const parent = heap[up];
      if (parent === undefined || !before(event, parent)) break;
      heap[at] = parent;
      at = up;
    }
    heap[at] = event;
  }

  #pop(): Event | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || first === last) return first;
    let at = 0;
    for (;;) {
      let down = 2 * at + 1;
      let child = heap[down];
      if (child === undefined) break;
      const other = heap[down + 1];
      if (other !== undefined && before(other, child)) {
        child = other;
        down += 1;
      }
      if (!before(child, last)) break;
      heap[at] = child;
      at = down;
    }
    heap[at] = last;
    return first;
  }
}

function before(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}

/** Runs this in a turn of the real event loop of its own: every promise that can go on has gone on before it. */
function turn<T>(run: () => T): Promise<T> {
  return new Promise((resolve, reject) => {
    setImmediate(() => {
      try {
        resolve(run());
      } catch (thrown) {
        reject(thrown);
      }
    });
  });
}
