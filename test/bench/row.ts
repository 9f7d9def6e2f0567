/** What a row of a table is, and what is measured for it. Rows are data (rows/); the runner (runner.ts) takes the turns. */

import type { Place } from './place.js';

/** What is emptied before each run: nothing, the caches of the client, or those of the server and of this machine too. */
export type Drop = 'nothing' | 'client' | 'all';

export interface Sample {
  /** In the unit of the row. */
  readonly value: number;
  /** Processor time, RPCs and system calls are divided by it. */
  readonly operations: number;
}

/** A program that a row runs, and the Debian package that has it. */
export interface Program {
  readonly command: string;
  readonly debian: string;
}

export interface Row {
  readonly name: string;
  readonly unit: '/s' | 'MiB/s' | 'MiB' | 's' | 'ms' | 'us';
  readonly better: 'higher' | 'lower';
  readonly group: 'bytes' | 'names' | 'programs' | 'two mounts' | 'directories' | 'clients' | 'open files';
  readonly drop: Drop;
  /** 1 unless given. */
  readonly mounts?: number;
  readonly needs?: Program;
  /** Before each run, not measured, and before caches are dropped. */
  prepare?(at: Place): Promise<void>;
  run(at: Place): Promise<Sample>;
}

export type Side = 'server' | 'client' | 'application';
export const SIDES: readonly Side[] = ['server', 'client', 'application'];

export interface Measurement extends Sample {
  /** Microseconds. */
  readonly cpuUs: Readonly<Record<Side, number>>;
  /** undefined: this peer counts none. */
  readonly rpcs?: number;
}

/** A row of one peer, all rounds together. */
export interface Cell {
  readonly peer: string;
  /** One of each round, in the unit of the row. */
  readonly values: readonly number[];
  readonly median?: number;
  /** Of one operation, in microseconds. */
  readonly cpuUs?: Readonly<Record<Side, number>>;
  /** Of one operation. */
  readonly rpcs?: number;
  readonly systemCalls?: Readonly<Record<Side, number>>;
  /** The largest part of the processors that other processes took in a round that counts. */
  readonly others?: number;
  /** Rounds that were repeated, and rounds that count although they were disturbed. */
  readonly repeated: number;
  readonly disturbed: number;
  /** Why there are no values. */
  readonly skipped?: string;
  readonly failed?: string;
}

export interface RowResult {
  readonly row: string;
  readonly unit: string;
  readonly better: Row['better'];
  readonly group: string;
  readonly cells: readonly Cell[];
}
