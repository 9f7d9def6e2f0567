/** What the page of a fleet shows, in words: from its file, what its hosts have said, and the state of its upgrade. Pure functions. */

import { printable } from '../../base/printable.js';
import {
  type Facts,
  type MountFact,
  mountFact,
  plainVersion,
  type ServerFact,
  serverFact,
} from '../fleet/facts.js';
import type { Client, Fleet, Target } from '../fleet/file.js';
import { type FleetState, longestPause, type Progress as UpgradeProgress } from '../fleet/state.js';
import { SERVER_STATES, type StateWords } from './server_states.js';
import type { FleetPageView, FleetStep, Head, NodeRow, Tone, VersionShare } from './shapes.js';
import { timeText } from './words.js';

export interface FleetSeen {
  readonly fleet: Fleet;
  /** Name of the file, without its folder. */
  readonly name: string;
  readonly state: FleetState | undefined;
  /** A command that changes the fleet runs. */
  readonly isRunning: boolean;
  /** Undefined: nobody has looked yet. */
  readonly facts: Facts | undefined;
  /** How long ago the hosts have answered. */
  readonly seenMs: number;
  /** Milliseconds since 1970. */
  readonly nowMs: number;
  /** Why the state cannot be read. */
  readonly problem?: string | undefined;
}

const STEPS_SHOWN = 100;
const PAUSES_SHOWN = 20;

export function fleetView(seen: FleetSeen): FleetPageView {
  const { fleet, facts, state, seenMs } = seen;
  const steps = stepsOf(seen);
  const groups = fleet.groups.map(({ name, after }) => ({
    name,
    text: after.length === 0 ? '' : `after ${after.join(', ')}`,
    nodes: [
      ...fleet.targets.filter(({ group }) => group === name).flatMap((target) => serverRows(target, facts)),
      ...fleet.clients.filter(({ group }) => group === name).map((client) => clientRow(client, facts)),
    ],
  }));
  return {
    ...headOf(seen, steps),
    versions: versionsOf(
      groups.flatMap(({ nodes }) => nodes),
      state,
    ),
    groups,
    steps,
    stepsText: stepsText(state, steps),
    pauses: pausesOf(state),
    pausesText: pausesText(state),
    seenText:
      facts === undefined
        ? 'The hosts have not answered yet.'
        : `The hosts answered ${timeText(seenMs)} ago.`,
  };
}

function serverRows({ label, servers }: Target, facts: Facts | undefined): NodeRow[] {
  return servers.map(({ host, listen }) => {
    const fact: ServerFact =
      facts === undefined ? { is: 'down', why: 'not looked at yet' } : serverFact(facts, host, listen);
    const row = { key: `server ${label} ${host}`, kind: 'server', name: label, host: `${host} ${listen}` };
    if (fact.is === 'down') return { ...row, ...absent(fact.why, facts) };
    const { text, tone } = stateWords(fact.state);
    const evicted = fact.evicted.length > 0 ? `, has evicted ${fact.evicted.length}` : '';
    return {
      ...row,
      version: printable(plainVersion(fact.version)),
      state: `${fact.isRecovering ? 'recovering' : text}${evicted}`,
      tone: fact.isRecovering ? 'busy' : evicted === '' ? tone : 'bad',
    };
  });
}

/** A host of another version may name a state that this one does not know. */
function stateWords(state: string): StateWords {
  const known: Readonly<Record<string, StateWords>> = SERVER_STATES;
  return known[state] ?? { text: state, tone: 'idle' };
}

function clientRow({ host, mountpoint }: Client, facts: Facts | undefined): NodeRow {
  const fact: MountFact =
    facts === undefined ? { is: 'down', why: 'not looked at yet' } : mountFact(facts, host, mountpoint);
  const row = { key: `client ${host} ${mountpoint}`, kind: 'client', name: mountpoint, host };
  if (fact.is === 'down') return { ...row, ...absent(fact.why, facts) };
  const version = printable(plainVersion(fact.version));
  if (fact.evictions > 0) return { ...row, version, state: 'was evicted', tone: 'bad' };
  const isWell = fact.importState === 'FULL' && fact.gate === 'OPEN';
  if (isWell) return { ...row, version, state: 'connected', tone: 'good' };
  const isDraining = fact.gate === 'DRAINING';
  return { ...row, version, state: isDraining ? 'draining' : 'waits for its server', tone: 'busy' };
}

function absent(why: string, facts: Facts | undefined): Pick<NodeRow, 'version' | 'state' | 'tone'> {
  return { version: undefined, state: printable(why), tone: facts === undefined ? 'idle' : 'bad' };
}

function versionsOf(nodes: readonly NodeRow[], state: FleetState | undefined): VersionShare[] {
  const counts = new Map<string, number>();
  for (const { version = 'not known' } of nodes) counts.set(version, (counts.get(version) ?? 0) + 1);
  return [...counts]
    .map(([version, count]) => ({
      version,
      count,
      share: count / nodes.length,
      isNew: state !== undefined && plainVersion(state.to) === version,
    }))
    .sort((a, b) => (a.version < b.version ? -1 : 1));
}

interface Timed {
  readonly text: string;
  readonly fromMs: number;
  readonly toMs: number;
  readonly isDone: boolean;
}

function stepsOf({ state, isRunning, nowMs }: FleetSeen): FleetStep[] {
  if (state === undefined) return [];
  const { plan, progress } = state;
  const planMs = plan === undefined ? 0 : Date.parse(plan.at);
  const groups = new Map((plan?.steps ?? []).map(({ text, group }) => [text, group]));
  const done = state.done.map(({ at, text, ms }): Timed => {
    const toMs = Date.parse(at);
    return { text, fromMs: toMs - ms, toMs, isDone: true };
  });
  const running = (isRunning ? (state.begun ?? []) : []).map(
    ({ at, text }): Timed => ({ text, fromMs: Date.parse(at), toMs: nowMs, isDone: false }),
  );
  // Steps of commands before this one may be of another day: they have no place in its time.
  const ofNow = [...done.filter(({ toMs }) => toMs >= planMs), ...running];
  const beganMs = Math.min(...ofNow.map(({ fromMs }) => fromMs));
  const spanMs = Math.max(1, ...ofNow.map(({ toMs }) => toMs - beganMs));
  const timed = [...done, ...running].map((step, at): FleetStep => {
    const { text, fromMs, toMs, isDone } = step;
    const part = (ms: number): number => Math.min(1, Math.max(0, (ms - beganMs) / spanMs));
    return {
      key: `${at} ${text}`,
      group: groups.get(text) ?? '',
      text: printable(text),
      is: isDone ? 'done' : 'running',
      began: clockText(fromMs),
      took: timeText(toMs - fromMs),
      bar: ofNow.includes(step) ? { from: part(fromMs), to: part(toMs) } : undefined,
    };
  });
  const left = unfinished(plan?.steps ?? [], ofNow);
  const toCome = left.map(({ text, group }, at): FleetStep => {
    const is = progress === 'done' ? 'not needed' : 'to come';
    return {
      key: `left ${at} ${text}`,
      group,
      text: printable(text),
      is,
      began: '',
      took: '',
      bar: undefined,
    };
  });
  return [...timed.slice(-STEPS_SHOWN), ...toCome.slice(0, STEPS_SHOWN)];
}

/** Each step that was done or has begun crosses out one of the plan. */
function unfinished<S extends { readonly text: string }>(plan: readonly S[], begun: readonly Timed[]): S[] {
  const texts = begun.map(({ text }) => text);
  return plan.filter(({ text }) => {
    const at = texts.indexOf(text);
    if (at >= 0) texts.splice(at, 1);
    return at < 0;
  });
}

/** Time of day, in that of the machine that runs the command. */
function clockText(ms: number): string {
  const date = new Date(ms);
  return [date.getHours(), date.getMinutes(), date.getSeconds()]
    .map((part) => String(part).padStart(2, '0'))
    .join(':');
}

const TONES: Readonly<Record<UpgradeProgress, Tone>> = {
  running: 'busy',
  paused: 'idle',
  aborted: 'idle',
  failed: 'bad',
  done: 'good',
};

function headOf({ name, state, isRunning, problem, nowMs }: FleetSeen, steps: readonly FleetStep[]): Head {
  const title = printable(name);
  if (problem !== undefined)
    return { title, state: 'not known', tone: 'bad', ...same(printable(problem)), progress: undefined };
  if (state === undefined)
    return {
      title,
      state: 'idle',
      tone: 'idle',
      ...same('No upgrade of this fleet is known'),
      progress: undefined,
    };
  const { doing, to, progress } = state;
  const what = `${doing === 'upgrade' ? 'Upgrade to' : 'Rollback from'} ${printable(to)}`;
  const isLeft = !isRunning && (progress === 'running' || progress === 'paused');
  const [text, since] = sentence(state, isLeft, nowMs);
  const counted = steps.filter(({ is }) => is !== 'not needed');
  const done = counted.filter(({ is }) => is === 'done').length;
  return {
    title,
    state: isLeft ? 'stopped' : progress,
    tone: isLeft ? 'bad' : TONES[progress],
    headline: `${what}: ${text}${since}.`,
    announcement: `${what}: ${text}`,
    progress: { text: `${done} of ${counted.length} steps done`, done, of: counted.length },
  };
}

function same(text: string): Pick<Head, 'headline' | 'announcement'> {
  return { headline: `${text}.`, announcement: text };
}

function sentence(state: FleetState, isLeft: boolean, nowMs: number): readonly [text: string, since: string] {
  const { progress, begun = [], failure = '', doing, to } = state;
  if (isLeft) return ['its command was killed; run it again to go on', ''];
  switch (progress) {
    case 'running': {
      const [first] = begun;
      if (first === undefined) return ['looking at the hosts', ''];
      const text = begun.map((one) => printable(one.text)).join(', ');
      const sinceMs = nowMs - Math.min(...begun.map(({ at }) => Date.parse(at)));
      return [text, `, since ${timeText(sinceMs)}`];
    }
    case 'paused':
      return ['paused; "resume" goes on, "abort" ends it', ''];
    case 'aborted':
      return [`aborted; "upgrade --to ${printable(to)}" goes on, "rollback" goes back`, ''];
    case 'failed':
      return [`stopped: ${printable(failure)}`, ''];
    case 'done': {
      const pause = longestPause(state);
      const waited = pause === undefined ? '' : `; the longest pause of a program was ${timeText(pause.ms)}`;
      return [`${doing === 'upgrade' ? 'done' : 'done, everything is back'}${waited}`, ''];
    }
  }
}

function stepsText(state: FleetState | undefined, steps: readonly FleetStep[]): string {
  if (state === undefined) return 'No steps: "upgrade --to VERSION" begins one.';
  if (steps.length === 0) return 'No steps.';
  return state.plan === undefined
    ? 'What is still to come is not known: the command is of an earlier version.'
    : '';
}

function pausesOf(state: FleetState | undefined): FleetPageView['pauses'] {
  const longest = state === undefined ? undefined : longestPause(state);
  if (state === undefined || longest === undefined) return [];
  return state.pauses
    .map(({ client, ms, why }, at) => ({
      key: `${at} ${client}`,
      client: printable(client.replace(/^client /, '')),
      why: why === 'takeover' ? 'takeover of the client' : `new server of ${printable(why)}`,
      took: timeText(ms),
      share: longest.ms > 0 ? ms / longest.ms : 0,
      ms,
    }))
    .toSorted((a, b) => b.ms - a.ms)
    .slice(0, PAUSES_SHOWN)
    .map(({ ms: _ms, ...pause }) => pause);
}

function pausesText(state: FleetState | undefined): string {
  const count = state?.pauses.length ?? 0;
  if (count === 0) return 'None so far.';
  return count > PAUSES_SHOWN ? `The longest ${PAUSES_SHOWN} of ${count}.` : '';
}
