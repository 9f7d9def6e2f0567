/** The verbs of holdfast fleet (docs/FLEETS.md). */

import { CliError } from '../failure.js';
import { installedVersion } from '../installed.js';
import { serveFleetPage } from '../live/fleet_page_run.js';
import { checkRows, firstOf, lasting, type Row, type Seen } from './check.js';
import { type Facts, plainVersion } from './facts.js';
import { type Fleet, readFleet } from './file.js';
import { hostsOf, look, lookAtVersions } from './observe.js';
import { type Batch, batchesOf, describeStep, stepsOf, unitsOf, versionsSeen, type Wanted } from './plan.js';
import { Rollout, versionsNow } from './rollout.js';
import {
  ask,
  type Doing,
  type FleetState,
  isLocked,
  longestPause,
  readState,
  stateForRollback,
  stateForUpgrade,
  tryLock,
  writeState,
} from './state.js';
import { checkText, stateText } from './text.js';
import type { FleetOptions, Verb } from './verbs.js';

const VERSION = /^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$/;

/** @throws CliError: no go, a failure, an abort. */
export async function runFleet(path: string, verb: Verb, options: FleetOptions): Promise<void> {
  const fleet = readFleet(path);
  switch (verb) {
    case 'check':
      return check(fleet, versionOf(options), options);
    case 'plan':
      return plan(fleet, versionOf(options), options);
    case 'upgrade':
      return upgrade(fleet, versionOf(options), options);
    case 'rollback':
      return rollback(fleet, options);
    case 'status':
      return status(fleet, options);
    case 'pause':
    case 'resume':
    case 'abort':
      return tell(fleet, verb);
  }
}

/** Serves the page of the fleet. @throws as serveFleetPage(). */
export async function showFleet(path: string, { http, httpKey }: FleetOptions): Promise<void> {
  if (http === undefined) return;
  await serveFleetPage(path, http, httpKey);
}

function versionOf({ to = '' }: FleetOptions): string {
  if (!VERSION.test(to)) throw new CliError(`"${to}" is no version; give it as the folder has it: 0.3.0`, 2);
  return to;
}

/** Looks at everything that a decision needs. */
async function survey(fleet: Fleet, by: string, wanted: Wanted, back = false): Promise<Seen> {
  const units = unitsOf(fleet);
  const facts = await look(fleet, by, units);
  const versions = new Map<string, readonly string[]>();
  for (const unit of units) {
    const own = [...versionsSeen(unit, facts), by, wanted(unit)].filter((one) => one !== undefined);
    for (const host of hostsOf(unit)) {
      versions.set(host, [...new Set([...(versions.get(host) ?? []), ...own.map(plainVersion)])]);
    }
  }
  const installed = await lookAtVersions(fleet, versions);
  return { fleet, facts, installed, wanted, first: firstOf(installed, by), back };
}

async function check(fleet: Fleet, to: string, { json }: FleetOptions): Promise<void> {
  const rows = checkRows(await survey(fleet, to, () => to));
  const go = rows.every((row) => row.go);
  process.stdout.write(`${json === true ? JSON.stringify({ go, to, rows }) : checkText(rows, to)}\n`);
  if (!go) throw new CliError(`no go: ${noGo(rows)}`);
}

function noGo(rows: readonly Row[]): string {
  const wrong = rows.filter(({ go }) => !go);
  const [first] = wrong;
  const more = wrong.length > 1 ? `, and ${wrong.length - 1} more` : '';
  return first === undefined ? '' : `${first.what}, ${first.is}: ${first.why}${more}`;
}

async function plan(fleet: Fleet, to: string, { json }: FleetOptions): Promise<void> {
  const seen = await survey(fleet, to, () => to);
  showSteps(batchesOf(fleet, seen.first), seen.facts, () => to, json === true);
}

function showSteps(batches: readonly Batch[], facts: Facts, wanted: Wanted, json: boolean): void {
  const shown = batches
    .map(({ group, units }) => ({
      group: group.name,
      steps: units.flatMap((unit) => {
        const version = wanted(unit);
        return version === undefined ? [] : stepsOf(unit, facts, version).map(describeStep);
      }),
    }))
    .filter(({ steps }) => steps.length > 0);
  if (json) {
    process.stdout.write(`${JSON.stringify({ batches: shown })}\n`);
    return;
  }
  const lines: string[] = [];
  let group: string | undefined;
  for (const batch of shown) {
    if (batch.group !== group) lines.push(`group ${batch.group}`);
    group = batch.group;
    lines.push(...batch.steps.map((step, at) => `${at === 0 ? '  - ' : '    '}${step}`));
  }
  process.stdout.write(lines.length === 0 ? 'nothing is left to do\n' : `${lines.join('\n')}\n`);
}

async function upgrade(fleet: Fleet, to: string, { dryRun, json }: FleetOptions): Promise<void> {
  if (dryRun === true) return plan(fleet, to, { json: json === true });
  await alone(fleet, async () => {
    const before = readState(fleet.statePath);
    const seen = await survey(fleet, to, () => to);
    const now = versionsNow(fleet, seen.facts, plainVersion);
    const state = stateForUpgrade(before, to, now, new Date().toISOString());
    const goesOn = before !== undefined && before.progress !== 'done';
    const rows = checkRows(seen);
    const wanted = goesOn ? lasting(rows) : rows;
    if (wanted.some(({ go }) => !go)) throw new CliError(`no go: ${noGo(wanted)}; "check" shows all of it`);
    await carryOut('upgrade', fleet, state, batchesOf(fleet, seen.first), () => to);
  });
}

async function rollback(fleet: Fleet, { dryRun, json }: FleetOptions): Promise<void> {
  await alone(fleet, async () => {
    const state = stateForRollback(readState(fleet.statePath));
    const goal: Wanted = ({ key }) => state.from[key];
    const seen = await survey(fleet, state.to, goal, true);
    const stays = new Map<string, string>();
    for (const { what, is, go, why } of checkRows(seen)) {
      if (!go && (is === 'disk' || is === 'takeover' || is === 'wire')) stays.set(what, `${is}: ${why}`);
    }
    for (const [what, why] of stays) say(`${what} does not go back: ${why}`);
    const wanted: Wanted = (unit) => (stays.has(unit.key) ? undefined : goal(unit));
    const batches = batchesOf(fleet, seen.first, true);
    if (dryRun === true) showSteps(batches, seen.facts, wanted, json === true);
    else await carryOut('rollback', fleet, state, batches, wanted);
    if (stays.size > 0) throw new CliError(`these stay at ${state.to}: ${[...stays.keys()].join(', ')}`);
  });
}

async function carryOut(
  doing: Doing,
  fleet: Fleet,
  state: FleetState,
  batches: readonly Batch[],
  wanted: Wanted,
): Promise<void> {
  ask(fleet.statePath, undefined);
  const rollout = new Rollout({ fleet, state, batches, wanted, by: state.to, say });
  let how: 'done' | 'aborted';
  try {
    how = await rollout.run();
  } catch (thrown) {
    const again =
      doing === 'upgrade' ? `"upgrade --to ${state.to}" goes on, "rollback" goes back` : '"rollback" goes on';
    throw new CliError(`${(thrown as Error).message}; stopped here: ${again}`, 1, { cause: thrown });
  }
  ask(fleet.statePath, undefined);
  const pause = longestPause(rollout.state);
  const waited =
    pause === undefined
      ? ''
      : `; longest pause of a client ${Math.round(pause.ms)} ms (${pause.client}, ${pause.why})`;
  if (how === 'aborted')
    throw new CliError(`aborted in order: "upgrade --to ${state.to}" goes on, "rollback" goes back${waited}`);
  const what = doing === 'upgrade' ? `upgrade to ${state.to}` : `rollback from ${state.to}`;
  say(`${what} is done, ${rollout.state.done.length} steps${waited}`);
}

async function status(fleet: Fleet, { json }: FleetOptions): Promise<void> {
  const state = readState(fleet.statePath);
  const isRunning = await isLocked(fleet.statePath);
  const facts = await look(fleet, state?.to ?? plainVersion(installedVersion()), unitsOf(fleet));
  const text =
    json === true
      ? JSON.stringify({ state: state ?? null, isRunning, hosts: Object.fromEntries(facts) })
      : stateText(fleet, state, isRunning, facts);
  process.stdout.write(`${text}\n`);
}

/** Says something to the command that runs, and if none does, to the state. */
async function tell(fleet: Fleet, verb: 'pause' | 'resume' | 'abort'): Promise<void> {
  const lock = await tryLock(fleet.statePath);
  try {
    if (lock === undefined) {
      ask(fleet.statePath, verb === 'resume' ? undefined : verb);
      const when = verb === 'resume' ? 'goes on' : 'stops before its next step';
      say(`the command that runs ${when}`);
      return;
    }
    const state = readState(fleet.statePath);
    const isOpen = state !== undefined && state.progress !== 'done' && state.progress !== 'aborted';
    if (verb !== 'abort' || !isOpen) throw new CliError('no upgrade of this fleet runs');
    // It was killed, or has failed: nothing goes on by itself.
    writeState(fleet.statePath, { ...state, progress: 'aborted' });
    say(`no command runs; the ${state.doing} counts as aborted`);
  } finally {
    lock?.close();
  }
}

async function alone(fleet: Fleet, work: () => Promise<void>): Promise<void> {
  const lock = await tryLock(fleet.statePath);
  if (lock === undefined)
    throw new CliError(
      `another command changes this fleet just now (${fleet.statePath}): wait, or "abort" it`,
    );
  try {
    await work();
  } finally {
    lock.close();
  }
}

function say(line: string): void {
  process.stdout.write(`holdfast: ${line}\n`);
}
