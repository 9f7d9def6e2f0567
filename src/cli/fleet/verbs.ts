/** The words of holdfast fleet. */

export const VERBS = ['check', 'plan', 'upgrade', 'status', 'pause', 'resume', 'abort', 'rollback'] as const;
export type Verb = (typeof VERBS)[number];

export interface FleetOptions {
  readonly to?: string;
  readonly json?: boolean;
  readonly dryRun?: boolean;
}
