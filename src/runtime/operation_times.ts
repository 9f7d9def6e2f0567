/**
 * How many operations of each kind were done, how long they took, and how they failed: one histogram and one counter of errors for
 * each opcode that occurs.
 *
 * An observation looks up an array by opcode. Families grow only with what occurs, so what a process never does takes no lines.
 */

import { errnoName } from '../base/errno.js';
import type { Clock, Counter, Histogram, Metrics } from './ports.js';

export interface OperationTimesOptions {
  /** holdfast_PREFIX_seconds and holdfast_PREFIX_errors_total. */
  readonly prefix: string;
  /** What the operations are, for the help texts. */
  readonly of: string;
  readonly nameOf: (opcode: number) => string;
}

export class OperationTimes {
  readonly #metrics: Metrics;
  readonly #clock: Pick<Clock, 'nowMs'>;
  readonly #options: OperationTimesOptions;
  readonly #seconds: (Histogram | undefined)[] = [];
  readonly #errors = new Map<number, Counter>();

  constructor(
    { metrics, clock }: { readonly metrics: Metrics; readonly clock: Pick<Clock, 'nowMs'> },
    options: OperationTimesOptions,
  ) {
    this.#metrics = metrics;
    this.#clock = clock;
    this.#options = options;
  }

  /** See Metrics.beforeReading. */
  beforeReading(update: () => void): void {
    this.#metrics.beforeReading(update);
  }

  nowMs(): number {
    return this.#clock.nowMs();
  }

  /** An operation that began then has ended. @param errno 0: it succeeded. */
  ended(opcode: number, beganMs: number, errno: number): void {
    this.took(opcode, (this.#clock.nowMs() - beganMs) / 1000);
    if (errno !== 0) this.failed(opcode, errno);
  }

  /** @param times how many operations took this long each. */
  took(opcode: number, seconds: number, times = 1): void {
    (this.#seconds[opcode] ?? this.#histogram(opcode)).observe(seconds, times);
  }

  failed(opcode: number, errno: number): void {
    const key = opcode * ERRNOS + errno;
    (this.#errors.get(key) ?? this.#counter(key, opcode, errno)).inc();
  }

  #histogram(opcode: number): Histogram {
    const { prefix, of, nameOf } = this.#options;
    const made = this.#metrics.histogram(`holdfast_${prefix}_seconds`, `Time that ${of} took`, {
      operation: nameOf(opcode),
    });
    this.#seconds[opcode] = made;
    return made;
  }

  #counter(key: number, opcode: number, errno: number): Counter {
    const { prefix, of, nameOf } = this.#options;
    const made = this.#metrics.counter(`holdfast_${prefix}_errors_total`, `Errors of ${of}`, {
      operation: nameOf(opcode),
      code: errnoName(errno),
    });
    this.#errors.set(key, made);
    return made;
  }
}

/** More than there are errno numbers. */
const ERRNOS = 0x1_0000;
