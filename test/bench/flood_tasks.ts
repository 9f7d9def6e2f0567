/** What flood.ts has the processes of flood_worker.ts do. */

import type { Address } from '../../src/runtime/ports.js';

export const FLOODS = [
  'stat',
  'readdir',
  'read',
  'write',
  'create',
  'batch',
  'locks',
  'connections',
] as const;
export type Flood = (typeof FLOODS)[number];
export const VICTIMS = ['stat', 'create', 'read'] as const;
export type Victim = (typeof VICTIMS)[number];

export interface FloodTask {
  readonly address: Address;
  /** The entry of the access table that it counts as. */
  readonly access: string;
  readonly name: string;
  readonly flood?: Flood;
  readonly victim?: Victim;
}

export interface Done {
  readonly requests: number;
  readonly processorMs: number;
  /** Answers that were no success. */
  readonly failed: number;
}
