/** What benchmarks have in common: options, figures with their goals, and how they are printed. */

import { execFileSync } from 'node:child_process';
import { cpus } from 'node:os';

export interface Figure {
  readonly name: string;
  readonly unit: string;
  readonly holdfast: number;
  readonly ext4?: number;
  /** '': there is none. */
  readonly goal: string;
  readonly met: boolean;
  /** What it was measured with, or what it is made of. */
  readonly note?: string;
}

export function option(name: string, fallback: number): number {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? fallback : Number(process.argv[at + 1]);
}

export function textOption(name: string): string | undefined {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? undefined : process.argv[at + 1];
}

export function sh(command: string, ...args: string[]): string {
  return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] }).trim();
}

export function middle(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

/** Below a limit. */
export function atMost(name: string, unit: string, holdfast: number, most: number, note?: string): Figure {
  const figure = { name, unit, holdfast, goal: `< ${most} ${unit}`, met: holdfast < most };
  return note === undefined ? figure : { ...figure, note };
}

/** Above a limit. */
export function atLeast(name: string, unit: string, holdfast: number, least: number, note?: string): Figure {
  const figure = { name, unit, holdfast, goal: `> ${least} ${unit}`, met: holdfast > least };
  return note === undefined ? figure : { ...figure, note };
}

/** Without a goal. */
export function measured(name: string, unit: string, holdfast: number, note: string): Figure {
  return { name, unit, holdfast, goal: '', met: true, note };
}

/** As a table shows it. */
export function goalText({ goal, met }: Pick<Figure, 'goal' | 'met'>): string {
  return goal === '' ? '' : `${met ? 'met' : 'MISSED'} ${goal.trim()}`;
}

/** @param about what the figures were measured with, for the first line. */
export function printFigures(figures: readonly Figure[], options: object, about: string): void {
  if (process.argv.includes('--json')) {
    const machine = { cpus: cpus().length, node: process.version };
    process.stdout.write(`${JSON.stringify({ ...machine, options, figures })}\n`);
    return;
  }
  process.stdout.write(
    `${cpus().length} CPUs, node ${process.version}, ${about}; both sides on this machine\n`,
  );
  for (const { name, unit, holdfast, ext4, goal, met, note } of figures) {
    const against =
      ext4 === undefined ? (note ?? '') : `ext4 ${ext4.toFixed(0)}, ratio ${(holdfast / ext4).toFixed(2)}`;
    const value = holdfast.toFixed(holdfast < 10 ? 2 : 0).padStart(8);
    process.stdout.write(
      `${met ? 'met   ' : 'MISSED'} ${name.padEnd(48)} ${value} ${unit.padEnd(5)} ${against.padEnd(32)} goal ${goal}\n`,
    );
  }
}
