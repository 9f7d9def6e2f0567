/** The words of holdfast fleet. */

import type { Address } from '../../runtime/ports.js';

export const VERBS = ['check', 'plan', 'upgrade', 'status', 'pause', 'resume', 'abort', 'rollback'] as const;
export type Verb = (typeof VERBS)[number];

export interface FleetOptions {
  readonly to?: string;
  readonly json?: boolean;
  readonly dryRun?: boolean;
  readonly http?: Address;
  readonly httpKey?: string;
}
