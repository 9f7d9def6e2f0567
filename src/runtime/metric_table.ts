/**
 * What a process counts, in plain numbers. Each runtime has its own table, so that several nodes fit in one process.
 *
 * Counting is always on, so it must cost next to nothing: an observation adds to numbers in arrays made before, and makes no
 * object. Only a reader renders (node_metrics.ts).
 *
 * A second request for a name with the same labels gives the same counter or histogram; the values of all readers of one gauge are
 * added. So an object may register what it counts without knowing how many of its kind there are.
 */

import type { Counter, Histogram, Labels, Metrics } from './ports.js';

/** 10 us to 100 s: from an operation answered from memory to one that waited for an upgrade to end. */
export const BUCKETS_SECONDS: readonly number[] = [
  0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100,
];

const NO_LABELS: Labels = {};

class Count implements Counter {
  value = 0;

  inc(by = 1): void {
    this.value += by;
  }
}

/** Counts for each bucket alone; a reader adds them up. */
class Distribution implements Histogram {
  /** One more than there are limits: for what takes longer than the last. */
  readonly counts = new Float64Array(BUCKETS_SECONDS.length + 1);
  sum = 0;

  observe(seconds: number, times = 1): void {
    let at = 0;
    while (at < BUCKETS_SECONDS.length && seconds > (BUCKETS_SECONDS[at] as number)) at += 1;
    this.counts[at] = (this.counts[at] as number) + times;
    this.sum += seconds * times;
  }
}

type Kind = 'counter' | 'gauge' | 'histogram';

interface Family<T> {
  readonly kind: Kind;
  readonly help: string;
  /** By the labels as text. */
  readonly members: Map<string, { readonly labels: Labels; readonly what: T }>;
}

type Member = Count | Distribution | (() => number)[];

/** One number of a family, or one histogram. */
export type Sample =
  | { readonly labels: Labels; readonly value: number }
  | { readonly labels: Labels; readonly counts: readonly number[]; readonly sum: number };

export interface FamilySamples {
  readonly name: string;
  readonly help: string;
  readonly kind: Kind;
  readonly samples: readonly Sample[];
}

export class MetricTable implements Metrics {
  readonly #families = new Map<string, Family<Member>>();
  readonly #updates: (() => void)[] = [];

  counter(name: string, help: string, labels = NO_LABELS): Counter {
    return this.#member(name, help, 'counter', labels, () => new Count()) as Count;
  }

  total(name: string, help: string, read: () => number, labels = NO_LABELS): void {
    (this.#member(name, help, 'counter', labels, () => []) as (() => number)[]).push(read);
  }

  gauge(name: string, help: string, read: () => number, labels = NO_LABELS): void {
    (this.#member(name, help, 'gauge', labels, () => []) as (() => number)[]).push(read);
  }

  histogram(name: string, help: string, labels = NO_LABELS): Histogram {
    return this.#member(name, help, 'histogram', labels, () => new Distribution()) as Distribution;
  }

  beforeReading(update: () => void): void {
    this.#updates.push(update);
  }

  #member(name: string, help: string, kind: Kind, labels: Labels, make: () => Member): Member {
    let family = this.#families.get(name);
    if (family === undefined) {
      family = { kind, help, members: new Map() };
      this.#families.set(name, family);
    }
    if (family.kind !== kind) throw new Error(`${name} is a ${family.kind} and a ${kind}`);
    const key = labels === NO_LABELS ? '' : JSON.stringify(Object.entries(labels));
    let member = family.members.get(key);
    if (member === undefined) {
      member = { labels, what: make() };
      family.members.set(key, member);
    }
    return member.what;
  }

  /** As they are now, in the order in which they were registered. */
  samples(): readonly FamilySamples[] {
    for (const update of this.#updates) update();
    return Array.from(this.#families, ([name, family]) => samplesOf(name, family));
  }

  /** One family alone. Undefined: nothing of this name was counted so far. */
  family(name: string): FamilySamples | undefined {
    for (const update of this.#updates) update();
    const family = this.#families.get(name);
    return family === undefined ? undefined : samplesOf(name, family);
  }
}

function samplesOf(name: string, { help, kind, members }: Family<Member>): FamilySamples {
  return {
    name,
    help,
    kind,
    samples: Array.from(members.values(), ({ labels, what }): Sample => {
      if (what instanceof Count) return { labels, value: what.value };
      if (what instanceof Distribution) return { labels, counts: [...what.counts], sum: what.sum };
      return { labels, value: what.reduce((sum, read) => sum + read(), 0) };
    }),
  };
}
