/** What people see of a fleet. */

import { printable } from '../../base/printable.js';
import type { Row } from './check.js';
import { type Facts, mountFact, plainVersion, serverFact } from './facts.js';
import type { Fleet } from './file.js';
import { type FleetState, longestPause } from './state.js';

const DONE_SHOWN = 5;

/** @param cells some are texts of hosts. */
export function table(cells: readonly (readonly string[])[]): string {
  const rows = cells.map((row) => row.map(printable));
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, at) => {
      widths[at] = Math.max(widths[at] ?? 0, cell.length);
    });
  }
  const line = (row: readonly string[]): string =>
    row.map((cell, at) => cell.padEnd(widths[at] ?? 0)).join('  ');
  return rows.map((row) => line(row).trimEnd()).join('\n');
}

export function checkText(rows: readonly Row[], to: string): string {
  const cells = rows.map(({ go, what, is, why }) => [go ? 'go' : 'NO GO', what, is, why]);
  const wrong = rows.filter(({ go }) => !go).length;
  const end = wrong === 0 ? `go: upgrade --to ${to}` : `no go: ${wrong} of ${rows.length}`;
  return `${table(cells)}\n${end}`;
}

export function stateText(
  fleet: Fleet,
  state: FleetState | undefined,
  isRunning: boolean,
  facts: Facts,
): string {
  const servers = fleet.targets.flatMap(({ label, servers: places }) =>
    places.map(({ host, listen }) => {
      const fact = serverFact(facts, host, listen);
      const how = fact.is === 'up' ? [plainVersion(fact.version), fact.state] : ['-', fact.why];
      return ['server', label, `${host} ${listen}`, ...how];
    }),
  );
  const clients = fleet.clients.map(({ host, mountpoint, target }) => {
    const fact = mountFact(facts, host, mountpoint);
    const how =
      fact.is === 'up'
        ? [plainVersion(fact.version), `${fact.importState}, gate ${fact.gate}`]
        : ['-', fact.why];
    return ['client', target, `${host} ${mountpoint}`, ...how];
  });
  return [...progressLines(state, isRunning), table([...servers, ...clients])].join('\n');
}

function progressLines(state: FleetState | undefined, isRunning: boolean): string[] {
  if (state === undefined) return ['no upgrade of this fleet is known'];
  const { doing, to, progress, began, done, failure } = state;
  const isLeft = (progress === 'running' || progress === 'paused') && !isRunning;
  const how = isLeft ? 'its command was killed; run it again to go on' : progress;
  const direction = doing === 'upgrade' ? 'to' : 'from';
  const lines = [`${doing} ${direction} ${to}: ${how}, began ${began}, ${done.length} steps done`];
  if (failure !== undefined && progress === 'failed') lines.push(`  failed: ${printable(failure)}`);
  const pause = longestPause(state);
  if (pause !== undefined)
    lines.push(`  longest pause of a client: ${Math.round(pause.ms)} ms (${pause.client}, ${pause.why})`);
  lines.push(
    ...done.slice(-DONE_SHOWN).map(({ at, text, ms }) => `  ${at} ${text} (${(ms / 1000).toFixed(1)} s)`),
  );
  return lines;
}
