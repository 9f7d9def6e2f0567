/**
 * Runs rows on several peers in turns (A B C A B C), so that whatever the machine does meanwhile meets all of them. A run in
 * which other processes took too much of the processors is repeated, REPEATS_MAX times at most; then it counts, and the
 * cell says so. A peer that fails in a row has no further turns in that row.
 */

import { describeFailure } from '../../src/cli/failure.js';
import { middle } from './figures.js';
import type { Cell, Measurement, Row, RowResult, Side } from './row.js';

export const REPEATS_MAX = 2;

export interface Contender {
  readonly name: string;
  /** Why this row cannot run here; undefined: it can. */
  cannot(row: Row): string | undefined;
  /** All that comes before the measurement: files, dropped caches. */
  ready(row: Row): Promise<void>;
  measure(row: Row): Promise<Measurement>;
  /** System calls of one operation, counted in a run of its own. */
  systemCalls?(row: Row): Promise<Readonly<Record<Side, number>>>;
}

export interface Turns {
  readonly rounds: number;
  /** A run is disturbed if other processes took more than this part of the processors. */
  readonly othersMax: number;
  readonly countSystemCalls: boolean;
  /** Begins to look at the machine's load. @returns what tells the part of the processors that others took since. */
  load(): () => number;
  /** @throws when the user ends the bench. */
  check(): void;
}

/** Of the processors, the part that neither the bench nor the kernel's threads took. All in microseconds. */
export function othersShare(load: {
  readonly busyUs: number;
  readonly benchUs: number;
  readonly kernelUs: number;
  readonly elapsedUs: number;
  readonly processors: number;
}): number {
  const { busyUs, benchUs, kernelUs, elapsedUs, processors } = load;
  // Clocks of different grain: what they count can be less than what was started.
  return elapsedUs <= 0 ? 0 : Math.max(0, busyUs - benchUs - kernelUs) / (elapsedUs * processors);
}

/** Runs of one peer in one row. */
class Runs {
  readonly measured: Measurement[] = [];
  others = 0;
  repeated = 0;
  disturbed = 0;
  failed: string | undefined;
  systemCalls: Readonly<Record<Side, number>> | undefined;

  cell(peer: string): Cell {
    const { measured, others, repeated, disturbed, failed, systemCalls } = this;
    const values = measured.map(({ value }) => value);
    const each = (of: (one: Measurement) => number): number =>
      middle(measured.map((one) => of(one) / Math.max(1, one.operations)));
    const base = { peer, values, repeated, disturbed };
    if (failed !== undefined) return { ...base, failed };
    const cpuUs = {
      server: each((one) => one.cpuUs.server),
      client: each((one) => one.cpuUs.client),
      application: each((one) => one.cpuUs.application),
    };
    const counted = measured.every(({ rpcs }) => rpcs !== undefined);
    return {
      ...base,
      median: middle(values),
      cpuUs,
      others,
      ...(counted ? { rpcs: each((one) => one.rpcs ?? 0) } : {}),
      ...(systemCalls === undefined ? {} : { systemCalls }),
    };
  }
}

export interface Run<T> {
  readonly measured: T;
  /** The part of the processors that other processes took meanwhile. */
  readonly others: number;
  readonly isDisturbed: boolean;
  readonly repeated: number;
}

/** @param ready comes before each attempt, and is not measured. */
export async function undisturbed<T>(
  { othersMax, load, check }: Pick<Turns, 'othersMax' | 'load' | 'check'>,
  ready: () => Promise<void>,
  measure: () => Promise<T>,
): Promise<Run<T>> {
  for (let repeated = 0; ; repeated++) {
    check();
    await ready();
    const sinceThen = load();
    const measured = await measure();
    const others = sinceThen();
    const isDisturbed = others > othersMax;
    if (!isDisturbed || repeated === REPEATS_MAX) return { measured, others, isDisturbed, repeated };
  }
}

async function takeTurn(row: Row, contender: Contender, runs: Runs, turns: Turns): Promise<void> {
  const run = await undisturbed(
    turns,
    () => contender.ready(row),
    () => contender.measure(row),
  );
  runs.repeated += run.repeated;
  if (run.isDisturbed) runs.disturbed++;
  runs.measured.push(run.measured);
  runs.others = Math.max(runs.others, run.others);
}

export async function runRow(row: Row, contenders: readonly Contender[], turns: Turns): Promise<RowResult> {
  const skipped = new Map<string, string>();
  const all = new Map<Contender, Runs>();
  for (const contender of contenders) {
    const why = contender.cannot(row);
    if (why === undefined) all.set(contender, new Runs());
    else skipped.set(contender.name, why);
  }
  const guarded = async (runs: Runs, turn: () => Promise<void>): Promise<void> => {
    if (runs.failed !== undefined) return;
    try {
      await turn();
    } catch (thrown) {
      // If the user has ended the bench, that is the reason.
      turns.check();
      runs.failed = describeFailure(thrown).line;
    }
  };
  for (let round = 0; round < turns.rounds; round++) {
    for (const [contender, runs] of all) {
      await guarded(runs, () => takeTurn(row, contender, runs, turns));
    }
  }
  for (const [contender, runs] of turns.countSystemCalls ? all : []) {
    await guarded(runs, async () => {
      await contender.ready(row);
      runs.systemCalls = await contender.systemCalls?.(row);
    });
  }
  const cells = contenders.map((contender): Cell => {
    const runs = all.get(contender);
    if (runs !== undefined) return runs.cell(contender.name);
    const why = skipped.get(contender.name) ?? '';
    return { peer: contender.name, values: [], repeated: 0, disturbed: 0, skipped: why };
  });
  return { row: row.name, unit: row.unit, better: row.better, group: row.group, cells };
}
