/**
 * Where the time of each row goes, from V8's CPU profiles of the processes: of the time in which the row ran, the part in which
 * JavaScript's thread was busy; and of that, what the thread did. A profile's clock is CLOCK_MONOTONIC, in microseconds, so the
 * samples of a row are those between its beginning and its end.
 */

import { type CpuProfile, nameOf, profilesIn } from './flame.js';

/** When a row ran: microseconds of CLOCK_MONOTONIC. */
export interface Interval {
  readonly fromUs: number;
  readonly toUs: number;
}

export function nowUs(): number {
  return Number(process.hrtime.bigint() / 1000n);
}

export interface Shares {
  readonly side: string;
  /** Of the row's time. Above 1 if several processes of the side were busy. */
  readonly busy: number;
  /** Of the busy time. */
  readonly garbage: number;
  /** Of the busy time, in no JavaScript function: the event loop and what it calls, compiling. */
  readonly outside: number;
  /** The functions with the most time of their own, system calls that they make included. */
  readonly functions: readonly { readonly name: string; readonly share: number }[];
}

const IDLE = '(idle)';
const GARBAGE = '(garbage collector)';
const OUTSIDE: ReadonlySet<string> = new Set(['(program)', '(root)']);
const FUNCTIONS = 5;

/** Microseconds of each function's own time in these intervals. */
function timesOf(profile: CpuProfile, intervals: readonly Interval[], into: Map<string, number>): void {
  const byId = new Map(profile.nodes.map((node) => [node.id, node]));
  const callers = new Map<number, string>();
  for (const { callFrame, children = [] } of profile.nodes) {
    for (const child of children) callers.set(child, nameOf(callFrame));
  }
  let atUs = profile.startTime;
  profile.samples.forEach((id, at) => {
    const us = profile.timeDeltas[at] ?? 0;
    atUs += us;
    const node = byId.get(id);
    if (node === undefined || !intervals.some(({ fromUs, toUs }) => atUs > fromUs && atUs <= toUs)) return;
    const own = nameOf(node.callFrame);
    const caller = callers.get(id);
    // One name says little: many rooms have a function `write`.
    const name = own.startsWith('(') || caller === undefined ? own : `${own} < ${caller}`;
    into.set(name, (into.get(name) ?? 0) + us);
  });
}

/** @returns undefined if no process of this side ran then, or none was profiled. */
export function sharesOf(
  profiles: readonly CpuProfile[],
  side: string,
  intervals: readonly Interval[],
): Shares | undefined {
  const times = new Map<string, number>();
  for (const profile of profiles) timesOf(profile, intervals, times);
  let busyUs = 0;
  let outsideUs = 0;
  for (const [name, us] of times) {
    if (name !== IDLE) busyUs += us;
    if (OUTSIDE.has(name)) outsideUs += us;
  }
  if (busyUs === 0) return undefined;
  const rowUs = intervals.reduce((sum, { fromUs, toUs }) => sum + toUs - fromUs, 0);
  const functions = [...times]
    .filter(([name]) => name !== IDLE && name !== GARBAGE && !OUTSIDE.has(name))
    .sort(([, one], [, other]) => other - one)
    .slice(0, FUNCTIONS)
    .map(([name, us]) => ({ name, share: us / busyUs }));
  const garbage = (times.get(GARBAGE) ?? 0) / busyUs;
  return { side, busy: busyUs / rowUs, garbage, outside: outsideUs / busyUs, functions };
}

/** One line for each row and side: row, side, busy, garbage, outside, functions. */
export function shareLines(folder: string, ran: ReadonlyMap<string, readonly Interval[]>): string[][] {
  const percent = (part: number): string => `${(100 * part).toFixed(0)} %`;
  const sides = ['client', 'server'].map((side) => ({ side, profiles: profilesIn(folder, side) }));
  return [...ran].flatMap(([row, intervals]) =>
    sides.flatMap(({ side, profiles }) => {
      const shares = sharesOf(profiles, side, intervals);
      if (shares === undefined) return [];
      const functions = shares.functions.map(({ name, share }) => `${name} ${percent(share)}`).join(', ');
      return [[row, side, percent(shares.busy), percent(shares.garbage), percent(shares.outside), functions]];
    }),
  );
}

export const SHARES_HEADER = [
  'row',
  'side',
  'busy, of the row',
  'garbage collector, of busy',
  'outside JavaScript',
  'functions with the most time of their own, and who calls them',
] as const;
