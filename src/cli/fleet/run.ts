/** The verbs of holdfast fleet (docs/FLEETS.md). */

import { printable } from '../../base/printable.js';
import { CliError } from '../failure.js';
import { installedVersion } from '../installed.js';
import { serveFleetPage } from '../live/fleet_page_run.js';
import { checkRows, conditionRows, firstOf, lasting, type Row, type Seen } from './check.js';
import { isVersion } from './decode.js';
import { type Facts, plainVersion } from './facts.js';
import { type Fleet, readFleet } from './file.js';
import { commandProblems } from './health.js';
import { look, lookAtVersions } from './observe.js';
import {
  type Batch,
  batchesOf,
  describeStep,
  hostsOf,
  stepsOf,
  unitsOf,
  versionsSeen,
  type Wanted,
} from './plan.js';
import { Rollout, versionsNow } from './rollout.js';
import {
  ask,
  type Doing,
  editedSince,
  type FleetState,
  isLocked,
  longestPause,
  lookers,
  readState,
  stateForRollback,
  stateForUpgrade,
  tryLock,
  writeState,
} from './state.js';
import { checkText, stateText } from './text.js';
import type { FleetOptions, Verb } from './verbs.js';
import { windowProblem } from './window.js';

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
  if (!isVersion(to) || to !== plainVersion(to))
    throw new CliError(`"${to}" is no version; give it as the folder has it: 0.3.0`, 2);
  return to;
}

/** Looks at everything that a decision needs. */
async function survey(
  fleet: Fleet,
  by: readonly string[],
  to: string,
  wanted: Wanted,
  back = false,
): Promise<Seen> {
  const units = unitsOf(fleet);
  const facts = await look(fleet, by, units);
  const versions = new Map<string, readonly string[]>();
  for (const unit of units) {
    const own = [...versionsSeen(unit, facts), to, wanted(unit)].filter((one) => one !== undefined);
    for (const host of hostsOf(unit)) {
      versions.set(host, [...new Set([...(versions.get(host) ?? []), ...own.map(plainVersion)])]);
    }
  }
  const installed = await lookAtVersions(fleet, versions, facts);
  return { fleet, facts, installed, wanted, first: firstOf(installed, to), back };
}

async function check(fleet: Fleet, to: string, { json }: FleetOptions): Promise<void> {
  const rows = await allRows(await survey(fleet, [to], to, () => to));
  const go = rows.every((row) => row.go);
  process.stdout.write(`${json === true ? JSON.stringify({ go, to, rows }) : checkText(rows, to)}\n`);
  if (!go) throw new CliError(`no go: ${noGo(rows)}`);
}

/** With the conditions that are commands: if one of them does not hold, nothing goes on after the first batch. */
async function allRows(seen: Seen): Promise<readonly Row[]> {
  return [...checkRows(seen), ...conditionRows(seen.fleet, await commandProblems(seen.fleet))];
}

function noGo(rows: readonly Row[]): string {
  const wrong = rows.filter(({ go }) => !go);
  const [first] = wrong;
  const more = wrong.length > 1 ? `, and ${wrong.length - 1} more` : '';
  return first === undefined ? '' : `${first.what}, ${first.is}: ${first.why}${more}`;
}

async function plan(fleet: Fleet, to: string, { json }: FleetOptions): Promise<void> {
  const seen = await survey(fleet, [to], to, () => to);
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
    checkWindow(fleet);
    const before = readState(fleet.statePath);
    const seen = await survey(fleet, lookers(before, to), to, () => to);
    const now = versionsNow(fleet, seen.facts, plainVersion);
    const state = stateForUpgrade(before, to, now, new Date().toISOString());
    const goesOn = before !== undefined && before.progress !== 'done';
    const rows = goesOn ? lasting(checkRows(seen)) : await allRows(seen);
    if (rows.some(({ go }) => !go)) throw new CliError(`no go: ${noGo(rows)}; "check" shows all of it`);
    for (const line of editedSince(
      state,
      unitsOf(fleet).map(({ key }) => key),
      fleet.statePath,
    ))
      say(line);
    await carryOut('upgrade', seen, state, () => to);
  });
}

async function rollback(fleet: Fleet, { dryRun, json }: FleetOptions): Promise<void> {
  await alone(fleet, async () => {
    const state = stateForRollback(readState(fleet.statePath));
    if (dryRun !== true) checkWindow(fleet);
    const goal: Wanted = ({ key }) => state.from[key];
    const keys = unitsOf(fleet).map(({ key }) => key);
    for (const line of editedSince(state, keys, fleet.statePath)) say(line);
    const seen = await survey(fleet, lookers(state, state.to), state.to, goal, true);
    const stays = new Map<string, string>();
    for (const { what, is, go, why } of checkRows(seen)) {
      if (!go && (is === 'disk' || is === 'takeover' || is === 'wire')) stays.set(what, `${is}: ${why}`);
    }
    for (const [what, why] of stays) say(`${what} does not go back: ${why}`);
    const wanted: Wanted = (unit) => (stays.has(unit.key) ? undefined : goal(unit));
    if (dryRun === true) showSteps(batchesOf(fleet, seen.first, true), seen.facts, wanted, json === true);
    else await carryOut('rollback', seen, state, wanted);
    if (stays.size > 0) throw new CliError(`these stay at ${state.to}: ${[...stays.keys()].join(', ')}`);
  });
}

/** @throws CliError: outside of the window nothing begins, and nothing is remembered. */
function checkWindow({ window }: Fleet): void {
  const problem = windowProblem(window, new Date());
  if (problem !== undefined) throw new CliError(problem);
}

async function carryOut(
  doing: Doing,
  { fleet, facts, first }: Seen,
  state: FleetState,
  wanted: Wanted,
): Promise<void> {
  const by = lookers(state, state.to);
  const batches = batchesOf(fleet, first, doing === 'rollback');
  const rollout = new Rollout({ fleet, state, facts, batches, wanted, by, say });
  let how: 'done' | 'aborted';
  const release = abortAtSignals(fleet);
  try {
    how = await rollout.run();
  } catch (thrown) {
    const again =
      doing === 'upgrade' ? `"upgrade --to ${state.to}" goes on, "rollback" goes back` : '"rollback" goes on';
    throw new CliError(`${(thrown as Error).message}; stopped here: ${again}`, 1, { cause: thrown });
  } finally {
    release();
  }
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

/**
 * The first signal asks for an abort in order, the second ends this process at once; both are safe. Whoever reads the output may go
 * away too: the work goes on, and the state has all of it. @returns what ends this.
 */
function abortAtSignals({ statePath }: Fleet): () => void {
  const names = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  const heard = (name: NodeJS.Signals): void => {
    for (const one of names) process.removeListener(one, heard);
    ask(statePath, 'abort');
    say(`${name}: ends before its next batch; at a second signal at once`);
  };
  for (const one of names) process.on(one, heard);
  const others = process.stdout.listeners('error');
  const unread = (error: NodeJS.ErrnoException): void => {
    if (error.code !== 'EPIPE') throw error;
  };
  process.stdout.removeAllListeners('error').on('error', unread);
  return () => {
    for (const one of names) process.removeListener(one, heard);
    process.stdout.removeListener('error', unread);
    for (const one of others) process.stdout.on('error', one as (error: Error) => void);
  };
}

async function status(fleet: Fleet, { json }: FleetOptions): Promise<void> {
  const state = readState(fleet.statePath);
  const isRunning = await isLocked(fleet.statePath);
  const own = plainVersion(installedVersion());
  const by = state === undefined ? [own] : [...new Set([...lookers(state, state.to), own])];
  const facts = await look(fleet, by, unitsOf(fleet));
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
    // What somebody has asked of a command before this one. From here on it is asked of this one.
    ask(fleet.statePath, undefined);
    await work();
  } finally {
    ask(fleet.statePath, undefined);
    lock.close();
  }
}

function say(line: string): void {
  process.stdout.write(`holdfast: ${printable(line)}\n`);
}
