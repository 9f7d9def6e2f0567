/** Whether a fleet is well after a step, as the file wants it. */

import { type Facts, mountFact, type ServerFact, serverFact } from './facts.js';
import type { Fleet } from './file.js';
import type { Unit } from './plan.js';
import { runOn } from './runner.js';

/** By target: what had been evicted when the upgrade began. */
export type Baseline = ReadonlyMap<
  string,
  { readonly instance: number; readonly evicted: readonly string[] }
>;

function activeOf(
  unit: Extract<Unit, { readonly is: 'target' }>,
  facts: Facts,
): Extract<ServerFact, { readonly is: 'up' }> | undefined {
  for (const { host, listen } of unit.target.servers) {
    const fact = serverFact(facts, host, listen);
    if (fact.is === 'up' && fact.state !== 'standby') return fact;
  }
  return undefined;
}

export function baselineOf(units: readonly Unit[], facts: Facts): Baseline {
  const baseline = new Map<string, { readonly instance: number; readonly evicted: readonly string[] }>();
  for (const unit of units) {
    const active = unit.is === 'target' ? activeOf(unit, facts) : undefined;
    if (active !== undefined) baseline.set(unit.key, active);
  }
  return baseline;
}

/** The built-in conditions. @returns what is wrong, one line each. */
export function builtInProblems(
  { health }: Pick<Fleet, 'health'>,
  units: readonly Unit[],
  facts: Facts,
  baseline: Baseline,
): readonly string[] {
  return units.flatMap((unit) => {
    if (unit.is === 'client') {
      if (!health.includes('mounts-full')) return [];
      const fact = mountFact(facts, unit.client.host, unit.client.mountpoint);
      if (fact.is === 'down') return [`${unit.key}: ${fact.why}`];
      const isWell = fact.importState === 'FULL' && fact.gate === 'OPEN';
      return isWell ? [] : [`${unit.key}: connection ${fact.importState}, gate ${fact.gate}`];
    }
    const problems: string[] = [];
    const active = activeOf(unit, facts);
    if (health.includes('no-evictions') && active !== undefined) {
      const before = baseline.get(unit.key);
      const known = before?.instance === active.instance ? before.evicted : [];
      const evicted = active.evicted.filter((one) => !known.includes(one));
      if (evicted.length > 0) problems.push(`${unit.key}: evicted ${evicted.join(', ')}`);
    }
    const hasStandby = unit.target.servers.length > 1 && !unit.target.isManaged;
    if (health.includes('standby-there') && hasStandby) {
      const isThere = unit.target.servers.some(({ host, listen }) => {
        const fact = serverFact(facts, host, listen);
        return fact.is === 'up' && fact.state === 'standby';
      });
      if (!isThere) problems.push(`${unit.key}: no standby`);
    }
    return problems;
  });
}

/** The conditions that are commands. */
export async function commandProblems({ conditions, hosts }: Fleet): Promise<readonly string[]> {
  const found = await Promise.all(
    conditions.map(async ({ host: name, command, limitMs }) => {
      const host = hosts.find((one) => one.name === name);
      if (host === undefined) return [];
      const { status, why } = await runOn(host, command, limitMs);
      return status === 0 ? [] : [`"${command}" on ${name}: ${why}`];
    }),
  );
  return found.flat();
}
