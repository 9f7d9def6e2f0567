/**
 * The log of slow operations (--slow): one line for each that took longer than the limit, with what it waited for.
 *
 * An operation runs as a chain of callbacks and promises; AsyncLocalStorage says in each of them which operation it is. That costs
 * about a microsecond an operation, so nothing of this is there unless somebody asks for it. Waits of one operation may overlap:
 * their sum may be more than its time. What no wait explains is "other": the operation's own work, or that of others in its process.
 */

import { AsyncLocalStorage } from 'node:async_hooks';
import { isPromise } from '../base/maybe_promise.js';
import type { Clock, Waits } from './ports.js';

interface Wait {
  readonly what: string;
  readonly beganMs: number;
  endedMs: number | undefined;
}

/** Of one operation: a program that reads a large file waits often. */
const WAITS_MAX = 1000;
/** In one line. */
const SHOWN_MAX = 5;

export class SlowLog implements Waits {
  readonly isOn = true;
  readonly #clock: Pick<Clock, 'nowMs'>;
  readonly #limitMs: number;
  readonly #say: (line: string) => void;
  readonly #running = new AsyncLocalStorage<Wait[]>();

  constructor(clock: Pick<Clock, 'nowMs'>, limitMs: number, say: (line: string) => void) {
    this.#clock = clock;
    this.#limitMs = limitMs;
    this.#say = say;
  }

  track<T>(name: () => string, run: () => T): T {
    const beganMs = this.#clock.nowMs();
    const waits: Wait[] = [];
    const ended = (): void => {
      const tookMs = this.#clock.nowMs() - beganMs;
      if (tookMs >= this.#limitMs) this.#say(this.#line(name(), tookMs, waits));
    };
    const result = this.#running.run(waits, run);
    if (isPromise(result)) result.then(ended, ended);
    else ended();
    return result;
  }

  during<T>(what: () => string, promise: Promise<T>): Promise<T> {
    const waits = this.#running.getStore();
    if (waits === undefined || waits.length >= WAITS_MAX) return promise;
    const wait: Wait = { what: what(), beganMs: this.#clock.nowMs(), endedMs: undefined };
    waits.push(wait);
    const ended = (): void => {
      wait.endedMs = this.#clock.nowMs();
    };
    promise.then(ended, ended);
    return promise;
  }

  #line(name: string, tookMs: number, waits: readonly Wait[]): string {
    const byKind = new Map<string, number>();
    for (const { what, beganMs, endedMs = this.#clock.nowMs() } of waits) {
      byKind.set(what, (byKind.get(what) ?? 0) + endedMs - beganMs);
    }
    const explainedMs = [...byKind.values()].reduce((sum, ms) => sum + ms, 0);
    const kinds = [...byKind].sort(([, a], [, b]) => b - a).filter(([, ms]) => ms >= 1);
    const shown = kinds.slice(0, SHOWN_MAX).map(([what, ms]) => `${what} ${seconds(ms)}`);
    if (tookMs - explainedMs >= 1) shown.push(`other ${seconds(tookMs - explainedMs)}`);
    return `${name} took ${seconds(tookMs)}: ${shown.join(', ')}`;
  }
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(3)} s`;
}
