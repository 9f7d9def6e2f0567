/**
 * What Holdfast shall reach, row by row. A row may have several goals. Those that `gate` make the exit status; the others say
 * how far it is still.
 */

import type { RowResult } from './row.js';

export type Goal = { readonly row: string; readonly gate?: true } & (
  | { readonly than: 'ext4' | 'passthrough'; readonly ratio: number }
  | { readonly limit: number }
);

const gate = true;

/** Ratios are Holdfast's value by the other's: the least where higher is better, else the most. */
export const GOALS: readonly Goal[] = [
  { row: 'sequential write + fsync', than: 'ext4', ratio: 0.5, gate },
  { row: 'sequential read, cold', than: 'ext4', ratio: 0.5, gate },
  { row: 'sequential read, warm, 1 MiB at a time', than: 'ext4', ratio: 0.8, gate },
  { row: 'sequential read, warm, 16 KiB at a time', than: 'ext4', ratio: 0.8, gate },
  { row: 'stat of one file, cached', than: 'ext4', ratio: 0.8, gate },
  { row: 'create 1 KiB, one process', limit: 2000, gate },
  { row: 'GETATTR, four processes', limit: 60_000, gate },

  { row: 'sequential write + fsync', than: 'ext4', ratio: 1 },
  { row: 'sequential read, cold', than: 'ext4', ratio: 0.8 },
  { row: 'sequential read, warm, 1 MiB at a time', than: 'ext4', ratio: 0.75 },
  { row: 'random read 4 KiB, cold', than: 'ext4', ratio: 0.6 },
  { row: 'random read 4 KiB, warm', than: 'ext4', ratio: 0.9 },
  { row: 'random write 4 KiB, fsync at the end', than: 'ext4', ratio: 1 },
  { row: 'write 4 KiB + fsync, p50', than: 'ext4', ratio: 1.5 },
  { row: 'create 1 KiB, one process', than: 'passthrough', ratio: 1.5 },
  { row: 'create 1 KiB, four processes', than: 'passthrough', ratio: 1.2 },
  { row: 'stat, cold', than: 'passthrough', ratio: 0.8 },
  { row: 'stat, warm', than: 'passthrough', ratio: 0.9 },
  { row: 'readdir + stat, cold', than: 'passthrough', ratio: 1.5 },
  { row: 'open + read + close, cold', than: 'passthrough', ratio: 1 },
  { row: 'open + read + close, warm', than: 'passthrough', ratio: 1 },
  { row: 'rename', than: 'passthrough', ratio: 1.5 },
  { row: 'unlink', than: 'passthrough', ratio: 1.5 },
  { row: 'tar x of 5,000 files', than: 'passthrough', ratio: 0.6 },
  { row: 'rm -r of 5,000 files', than: 'passthrough', ratio: 0.6 },
  { row: 'git clone', than: 'passthrough', ratio: 0.7 },
  { row: 'git status', than: 'passthrough', ratio: 1 },
  { row: 'npm ci of 200 packages', than: 'passthrough', ratio: 0.8 },
  { row: 'make -j2 of 200 C files', than: 'passthrough', ratio: 0.8 },
  { row: 'dbench 2', than: 'passthrough', ratio: 1.2 },
  { row: 'sqlite, 1,000 transactions', than: 'ext4', ratio: 1.5 },
  { row: 'creates in turn on two mounts, p50', limit: 3 },
];

export interface Verdict {
  readonly goal: Goal;
  /** As it stands in a table. */
  readonly text: string;
  /** undefined: one of the sides was not measured. */
  readonly met: boolean | undefined;
}

export function medianOf(result: RowResult, peer: string): number | undefined {
  return result.cells.find((cell) => cell.peer === peer)?.median;
}

/** Holdfast's value by that of another peer. */
export function ratioTo(result: RowResult, peer: string): number | undefined {
  const [ours, theirs] = [medianOf(result, 'holdfast'), medianOf(result, peer)];
  return ours === undefined || theirs === undefined || theirs === 0 ? undefined : ours / theirs;
}

export function verdictsOf(result: RowResult, goals: readonly Goal[] = GOALS): Verdict[] {
  const isHigher = result.better === 'higher';
  return goals
    .filter(({ row }) => row === result.row)
    .map((goal) => {
      const isLimit = 'limit' in goal;
      const bound = isLimit ? goal.limit : goal.ratio;
      const value = isLimit ? medianOf(result, 'holdfast') : ratioTo(result, goal.than);
      const met = value === undefined ? undefined : isHigher ? value >= bound : value <= bound;
      const sign = isHigher ? '>=' : '<=';
      const text = isLimit ? `${sign} ${bound} ${result.unit}` : `${sign} ${bound} ${goal.than}`;
      return { goal, text, met };
    });
}
