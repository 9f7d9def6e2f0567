/**
 * Operations a second and how long they take, from what this process counts: one point a second for the charts, and the last seconds by
 * operation for the table. It counts whether somebody looks or not, so that a page has the last minutes when it is opened.
 */

import { bucketQuantile } from '../../base/bucket_quantile.js';
import { BUCKETS_SECONDS, type FamilySamples } from '../../runtime/metric_table.js';
import type { RateRow } from './server_view.js';
import type { Point } from './shapes.js';

const POINTS_MAX = 180;
/** The table is about so many points. */
const TABLE_POINTS = 10;

interface Reading {
  readonly atMs: number;
  /** By operation, in each bucket alone. */
  readonly counts: ReadonlyMap<string, readonly number[]>;
  readonly readBytes: number;
  readonly writeBytes: number;
}

export interface Counted {
  /** Histograms with the label `operation`. */
  readonly operations: FamilySamples | undefined;
  readonly readBytes: number;
  readonly writeBytes: number;
}

export class OperationRates {
  readonly #readings: Reading[] = [];
  readonly #points: Point[] = [];

  get points(): readonly Point[] {
    return this.#points;
  }

  /** @param nowMs monotonic. @param wallMs milliseconds since 1970, for the point. */
  read({ operations, readBytes, writeBytes }: Counted, nowMs: number, wallMs: number): void {
    const counts = new Map<string, readonly number[]>();
    for (const sample of operations?.samples ?? []) {
      if ('counts' in sample) counts.set(sample.labels.operation ?? '', sample.counts);
    }
    const reading = { atMs: nowMs, counts, readBytes, writeBytes };
    const before = this.#readings.at(-1);
    this.#readings.push(reading);
    if (this.#readings.length > TABLE_POINTS + 1) this.#readings.shift();
    if (before === undefined || nowMs <= before.atMs) return;
    this.#points.push(pointOf(before, reading, wallMs));
    if (this.#points.length > POINTS_MAX) this.#points.shift();
  }

  /** The most frequent first. */
  rows(): readonly RateRow[] {
    const [first] = this.#readings;
    const last = this.#readings.at(-1);
    if (first === undefined || last === undefined || first === last) return [];
    const seconds = (last.atMs - first.atMs) / 1000;
    const rows = [...last.counts].flatMap(([operation, now]): RateRow[] => {
      const counts = difference(now, first.counts.get(operation));
      const count = sum(counts);
      if (count <= 0) return [];
      return [
        {
          operation,
          perSecond: count / seconds,
          p50Seconds: quantile(0.5, counts),
          p99Seconds: quantile(0.99, counts),
        },
      ];
    });
    return rows.sort((a, b) => b.perSecond - a.perSecond);
  }
}

function pointOf(before: Reading, after: Reading, wallMs: number): Point {
  const seconds = (after.atMs - before.atMs) / 1000;
  const all = new Array<number>(BUCKETS_SECONDS.length + 1).fill(0);
  for (const [operation, now] of after.counts) {
    difference(now, before.counts.get(operation)).forEach((count, at) => {
      all[at] = (all[at] ?? 0) + count;
    });
  }
  return {
    atMs: wallMs,
    perSecond: round(sum(all) / seconds),
    p50Ms: round(quantile(0.5, all) * 1000),
    p99Ms: round(quantile(0.99, all) * 1000),
    readBytes: Math.max(0, Math.round((after.readBytes - before.readBytes) / seconds)),
    writeBytes: Math.max(0, Math.round((after.writeBytes - before.writeBytes) / seconds)),
  };
}

/** Three digits behind the point: the view goes over the network once a second. */
function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}

function difference(now: readonly number[], then: readonly number[] | undefined): number[] {
  return now.map((count, at) => count - (then?.[at] ?? 0));
}

function sum(counts: readonly number[]): number {
  return counts.reduce((all, one) => all + one, 0);
}

/** @param counts of BUCKETS_SECONDS, and of what takes longer. @returns seconds; 0 if there is no value. */
export function quantile(q: number, counts: readonly number[]): number {
  return bucketQuantile(
    q,
    counts.map((count, at) => [BUCKETS_SECONDS[at] ?? Number.POSITIVE_INFINITY, count]),
  );
}
