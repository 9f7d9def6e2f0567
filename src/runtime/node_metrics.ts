/**
 * Metrics by prom-client. Each runtime has its own registry, so that several nodes fit in one process.
 *
 * A second request for a name gives the same counter or histogram; the values of all readers of one gauge are added. So
 * an object may register what it counts without knowing how many of its kind there are.
 */

import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Metrics } from './ports.js';

/** 10 us to 40 s: from an operation answered from memory to one that waited for an upgrade to end. */
const BUCKETS_SECONDS = [0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 40];

export class NodeMetrics implements Metrics {
  readonly #registry = new Registry();
  readonly #counters = new Map<string, Counter>();
  readonly #histograms = new Map<string, Histogram>();
  readonly #gaugeReaders = new Map<string, (() => number)[]>();

  counter(name: string, help: string): { inc(by?: number): void } {
    let counter = this.#counters.get(name);
    if (counter === undefined) {
      counter = new Counter({ name, help, registers: [this.#registry] });
      this.#counters.set(name, counter);
    }
    return counter;
  }

  gauge(name: string, help: string, read: () => number): void {
    const known = this.#gaugeReaders.get(name);
    if (known !== undefined) {
      known.push(read);
      return;
    }
    const readers = [read];
    this.#gaugeReaders.set(name, readers);
    new Gauge({
      name,
      help,
      registers: [this.#registry],
      collect() {
        this.set(readers.reduce((sum, reader) => sum + reader(), 0));
      },
    });
  }

  histogram(name: string, help: string): { observe(seconds: number): void } {
    let histogram = this.#histograms.get(name);
    if (histogram === undefined) {
      histogram = new Histogram({ name, help, buckets: BUCKETS_SECONDS, registers: [this.#registry] });
      this.#histograms.set(name, histogram);
    }
    return histogram;
  }

  /** All metrics in Prometheus' text format 0.0.4. */
  render(): Promise<string> {
    return this.#registry.metrics();
  }
}
