/**
 * The time of a unit world: the simulator's scheduler, clock and timers, and a driver that lets time go on by itself.
 *
 * A test awaits what it waits for, as on the real clock, and nobody turns the clock by hand. In each turn of the real event
 * loop the driver runs one event. It may run an event of the present at any time. It lets time go on to a later event only
 * if the process has nothing else to do: no promise can go on, no setImmediate is pending, no file is being read or
 * written. So the speed of the machine decides nothing, and a wait costs no real time.
 *
 * A test that waits in a loop waits by sleep() or turn(). A loop over setImmediate always has something to do, and time
 * would stand still.
 */

import { Deferred } from '../../src/base/wait.js';
import type { Clock, Timers } from '../../src/runtime/ports.js';
import type { MetaMedium } from '../../src/storage/meta_medium.js';
import { Machine, type Program } from '../sim/machine.js';
import { SimMetaDisk } from '../sim/meta_disk.js';
import { SimNetwork } from '../sim/network.js';
import { SimRng } from '../sim/rng.js';
import { Scheduler } from '../sim/scheduler.js';

/** Of one turn of an event loop: about what a request costs a server. Who only waits for the next turn lets time go on. */
const TURN_MS = 0.05;
const WAIT_MS = 15_000;
/** No test takes so long: it waits for something that never comes, while pings go on for ever. */
const LIMIT_MS = 600_000;

/** The time of a world: the virtual one below, or the real one (real_time.ts). */
export interface WorldTime {
  readonly clock: Clock;
  readonly timers: Timers;
  sleep(ms: number): Promise<void>;
  /** The next turn of a loop that works until something stops it. */
  turn(): Promise<void>;
  /** The first result of `look` that is not undefined, null or false. @param what for the message if none comes in time. */
  until<T>(
    what: string,
    look: () => T | Promise<T>,
    timeoutMs?: number,
  ): Promise<NonNullable<Exclude<T, false>>>;
  /** The promise's result, or an error if it does not come in time. The promise itself goes on. */
  within<T>(what: string, promise: Promise<T>, timeoutMs?: number): Promise<T>;
  /** The world is over: nothing happens any more. */
  stop(): void;
}

export class VirtualTime implements WorldTime {
  /** Drivers of this process whose next turn is pending. A process that is idle has no other immediates. */
  static #pending = 0;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly #scheduler = new Scheduler();
  readonly #rng = new SimRng(1);
  /** All clients and servers of the world are one program of the simulator: the world has its own ways to end them. */
  readonly #program: Program;
  /** Called after the next event, when every promise has gone on. @param isLeft whether anything can still happen. */
  #looks: ((isLeft: boolean) => void)[] = [];
  /** An event has run since they were called. */
  #hasNews = false;
  #limitMs = LIMIT_MS;
  #isPending = false;
  #isOver = false;

  constructor() {
    const network = new SimNetwork(this.#scheduler, this.#rng);
    const machine = new Machine('world', this.#scheduler, network, this.#rng);
    machine.turnMs = TURN_MS;
    this.#program = machine.run('world');
    this.#scheduler.onAsked = () => this.#drive();
    ({ clock: this.clock, timers: this.timers } = this.#program.runtime());
  }

  sleep(ms: number): Promise<void> {
    return this.#scheduler.sleep(ms);
  }

  turn(): Promise<void> {
    return this.sleep(TURN_MS);
  }

  /** @param image what it holds at first. */
  metaDisk(sizeBytes: number, image?: SimMetaDisk): { disk: SimMetaDisk; metaMedium: MetaMedium } {
    const disk = new SimMetaDisk(sizeBytes, this.#scheduler, this.#rng, image);
    return { disk, metaMedium: disk.medium(this.#program) };
  }

  /** Looks after every event. The limit is one of virtual time. */
  async until<T>(
    what: string,
    look: () => T | Promise<T>,
    timeoutMs = WAIT_MS,
  ): Promise<NonNullable<Exclude<T, false>>> {
    const deadlineMs = this.#scheduler.nowMs + timeoutMs;
    for (let isLeft = true; ; isLeft = await this.#event()) {
      const seen = await look();
      if (seen !== undefined && seen !== null && seen !== false)
        return seen as NonNullable<Exclude<T, false>>;
      if (!isLeft) throw new Error(`nothing is left that can happen: ${what}`);
      if (this.#scheduler.nowMs > deadlineMs) throw new Error(`waited ${timeoutMs} ms in vain: ${what}`);
    }
  }

  /** The limit is one of virtual time. */
  async within<T>(what: string, promise: Promise<T>, timeoutMs = WAIT_MS): Promise<T> {
    const late = new Deferred<never>();
    const limit = this.#scheduler.after(timeoutMs, () => {
      late.reject(new Error(`not within ${timeoutMs} ms: ${what}`));
    });
    try {
      return await Promise.race([promise, late.promise]);
    } finally {
      limit.cancel();
    }
  }

  stop(): void {
    this.#isOver = true;
    this.#program.end('exit');
  }

  /** Resolves after the next event. */
  #event(): Promise<boolean> {
    return new Promise((resolve) => {
      this.#looks.push(resolve);
      this.#drive();
    });
  }

  #drive(): void {
    if (this.#isPending || this.#isOver) return;
    this.#isPending = true;
    VirtualTime.#pending += 1;
    setImmediate(() => this.#turn());
  }

  #turn(): void {
    this.#isPending = false;
    VirtualTime.#pending -= 1;
    if (this.#isOver) return;
    this.#checkLimit();
    if (this.#hasNews && this.#looks.length > 0) {
      this.#hasNews = false;
      this.#look(true);
    } else if (this.#scheduler.step(() => this.#isIdle()) || !this.#isIdle()) {
      this.#hasNews = true;
    } else {
      this.#look(false);
      return;
    }
    this.#drive();
  }

  /** @throws Error into the event loop, which fails the test. The end of the world then has time again. */
  #checkLimit(): void {
    if (this.#scheduler.nowMs < this.#limitMs) return;
    this.#limitMs = this.#scheduler.nowMs + LIMIT_MS;
    this.#drive();
    throw new Error('ten minutes of virtual time have passed, and the test is not over');
  }

  #look(isLeft: boolean): void {
    for (const look of this.#looks.splice(0)) look(isLeft);
  }

  /** Promises have all gone on when a turn of the driver begins. */
  #isIdle(): boolean {
    let immediates = 0;
    for (const resource of process.getActiveResourcesInfo()) {
      if (resource.startsWith('FSReq')) return false;
      if (resource === 'Immediate') immediates += 1;
    }
    return immediates <= VirtualTime.#pending;
  }
}
