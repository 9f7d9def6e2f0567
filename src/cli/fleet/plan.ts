/**
 * What is left to do, from a fleet's file and what was seen on its hosts. Pure functions.
 *
 * Nothing here remembers anything: a step that is done is not in the plan, because what it brings about is seen. So a command that was
 * killed, or has stopped, goes on by looking again. Invariant of the order in a pair: the active server is shut down only while the
 * other host has a standby of the version that is wanted.
 */

import type { Requires } from '../../wire/negotiate.js';
import { type Facts, mountFact, plainVersion, type ServerFact, serverFact } from './facts.js';
import type { Client, Fleet, Group, ServerPlace, Target } from './file.js';

export type Step =
  | {
      /** ready: of a pair that a cluster manager has: the host may serve, in this version. */
      readonly do: 'start' | 'endStandby' | 'shutdown' | 'ready';
      readonly target: Target;
      readonly place: ServerPlace;
      readonly version: string;
    }
  | { readonly do: 'takeover'; readonly client: Client; readonly version: string };

export type ServerStep = Exclude<Step, { readonly do: 'takeover' }>;

/** What is upgraded as a whole: whoever stops, stops before or after it. */
export type Unit =
  | { readonly is: 'target'; readonly key: string; readonly target: Target }
  | { readonly is: 'client'; readonly key: string; readonly client: Client };

/** Units that may go at once. */
export interface Batch {
  readonly group: Group;
  readonly units: readonly Unit[];
  /** It is the first of its group, and there was a group before. */
  readonly beginsGroup: boolean;
}

/** The version that a unit should have; undefined: it stays as it is. */
export type Wanted = (unit: Unit) => string | undefined;

export function unitOfTarget(target: Target): Unit {
  return { is: 'target', key: `target ${target.label}`, target };
}

export function unitOfClient(client: Client): Unit {
  return { is: 'client', key: `client ${client.host}:${client.mountpoint}`, client };
}

export function hostsOf(unit: Unit): readonly string[] {
  return unit.is === 'target' ? unit.target.servers.map(({ host }) => host) : [unit.client.host];
}

/** In the order of the file. */
export function unitsOf({ targets, clients }: Fleet): readonly Unit[] {
  return [...targets.map(unitOfTarget), ...clients.map(unitOfClient)];
}

/**
 * Group by group, and in each group those who go first before the others; targets one by one, clients as many at once as the group says.
 * @param back the other way round, for a rollback.
 */
export function batchesOf(
  fleet: Fleet,
  first: Requires['first'] = 'servers',
  back = false,
): readonly Batch[] {
  const upwards = fleet.groups.flatMap((group) => {
    const targets = fleet.targets.filter((one) => one.group === group.name).map((one) => [unitOfTarget(one)]);
    const clients = fleet.clients.filter((one) => one.group === group.name).map(unitOfClient);
    const chunks = chunked(clients, group.atOnce);
    const all = first === 'servers' ? [...targets, ...chunks] : [...chunks, ...targets];
    return all.map((units) => ({ group, units }));
  });
  const ordered = back ? upwards.toReversed() : upwards;
  return ordered.map((batch, at) => ({
    ...batch,
    beginsGroup: at > 0 && ordered[at - 1]?.group.name !== batch.group.name,
  }));
}

function chunked<T>(all: readonly T[], size: number): T[][] {
  const chunks: T[][] = [];
  for (let at = 0; at < all.length; at += size) chunks.push(all.slice(at, at + size));
  return chunks;
}

/** @returns what in the order of the groups does not let those go first who have to: one line each. */
export function orderProblems(fleet: Fleet, first: Requires['first'] = 'servers'): readonly string[] {
  const rank = (group: string): number => fleet.groups.findIndex(({ name }) => name === group);
  return fleet.clients.flatMap(({ host, mountpoint, target: label, group }) => {
    const target = fleet.targets.find((one) => one.label === label);
    if (target === undefined) return [];
    const [own, its] = [rank(group), rank(target.group)];
    if (first === 'servers' ? own >= its : own <= its) return [];
    const [early, late] = first === 'servers' ? [group, target.group] : [target.group, group];
    return [
      `${host}:${mountpoint} is in group ${group} and its target ${label} in ${target.group}; ${first} go first, so ` +
        `group ${early} has to come after ${late}`,
    ];
  });
}

/** What is left to do for the unit, in order. */
export function stepsOf(unit: Unit, facts: Facts, version: string): readonly Step[] {
  if (unit.is === 'target') return targetSteps(unit.target, facts, version);
  const { client } = unit;
  const seen = mountFact(facts, client.host, client.mountpoint);
  const isDone = seen.is === 'up' && isVersion(seen.version, version);
  return isDone ? [] : [{ do: 'takeover', client, version }];
}

function targetSteps(target: Target, facts: Facts, version: string): readonly Step[] {
  const seen = target.servers.map((place) => ({ place, fact: serverFact(facts, place.host, place.listen) }));
  const step = (kind: ServerStep['do'], place: ServerPlace): Step => ({
    do: kind,
    target,
    place,
    version,
  });
  const active = seen.find(({ fact }) => hasTarget(fact));
  const others = seen.filter((one) => one !== active);
  /** What gives the host a standby of the version. */
  const renewed = ({ place, fact }: (typeof seen)[number]): Step[] => {
    if (target.isManaged) return isInUse(facts, place, version) ? [] : [step('ready', place)];
    if (fact.is === 'down') return [step('start', place)];
    return isVersion(fact.version, version) ? [] : [step('endStandby', place), step('start', place)];
  };
  // Nobody serves: a standby of the version takes the target, and so does the first that starts.
  if (active === undefined) return others.flatMap(renewed);
  const isNew = active.fact.is === 'up' && isVersion(active.fact.version, version);
  if (isNew) return others.flatMap(renewed);
  const last = target.isManaged ? 'ready' : 'start';
  return [...others.flatMap(renewed), step('shutdown', active.place), step(last, active.place)];
}

function isInUse(facts: Facts, { host }: ServerPlace, version: string): boolean {
  const fact = facts.get(host);
  return fact?.is === 'there' && fact.inUse !== undefined && isVersion(fact.inUse, version);
}

/** It has the target, or is about to give it up. */
function hasTarget(fact: ServerFact): boolean {
  return fact.is === 'up' && fact.state !== 'standby' && fact.state !== 'stopped';
}

function isVersion(version: string, wanted: string): boolean {
  return plainVersion(version) === plainVersion(wanted);
}

/** Whether what the step brings about is seen. */
export function isDone(step: Step, facts: Facts): boolean {
  if (step.do === 'takeover') {
    const { client, version } = step;
    const seen = mountFact(facts, client.host, client.mountpoint);
    return (
      seen.is === 'up' &&
      isVersion(seen.version, version) &&
      seen.importState === 'FULL' &&
      seen.gate === 'OPEN'
    );
  }
  const { target, place, version } = step;
  const own = serverFact(facts, place.host, place.listen);
  if (step.do === 'ready') return isInUse(facts, place, version);
  if (step.do === 'start') {
    if (own.is === 'down' || !isVersion(own.version, version)) return false;
    const others = target.servers.filter((one) => one !== place);
    const isServed = others.some((one) => isActive(serverFact(facts, one.host, one.listen)));
    return isActive(own) || (own.state === 'standby' && isServed);
  }
  if (own.is === 'up' && !isVersion(own.version, version)) return false;
  if (step.do === 'endStandby') return true;
  const heir = target.servers.find((one) => one !== place);
  return heir === undefined || isActive(serverFact(facts, heir.host, heir.listen));
}

/**
 * What brings a target's server or standby back after a step that failed: starts of the version that ran before it, one of which has to
 * succeed. None: somebody serves, and no standby is missing that the version could be.
 * @param version undefined: it is not known.
 */
export function fallbackStarts(
  step: ServerStep,
  facts: Facts,
  version: string | undefined,
): readonly ServerStep[] {
  const { target } = step;
  if (version === undefined || isVersion(version, step.version)) return [];
  const isDown = ({ host, listen }: ServerPlace): boolean =>
    facts.get(host)?.is === 'there' && serverFact(facts, host, listen).is === 'down';
  const start = (place: ServerPlace): ServerStep => ({
    do: 'start',
    target,
    place,
    version,
  });
  const active = target.servers
    .map(({ host, listen }) => serverFact(facts, host, listen))
    .find((fact) => hasTarget(fact));
  // A standby of another version could not take the target after a crash: it would refuse.
  if (active?.is === 'up' && target.isManaged) return [];
  if (active?.is === 'up')
    return isVersion(active.version, version) && isDown(step.place) ? [start(step.place)] : [];
  const others = target.servers.filter((place) => place !== step.place);
  return [step.place, ...others].filter(isDown).map(start);
}

export function isServedBy({ host, listen }: ServerPlace, facts: Facts): boolean {
  return isActive(serverFact(facts, host, listen));
}

/** One line for people, of a step that is not done: what there is instead. */
export function describeSeen(step: Step, facts: Facts): string {
  if (step.do === 'takeover') {
    const fact = mountFact(facts, step.client.host, step.client.mountpoint);
    if (fact.is === 'down') return fact.why;
    return `version ${fact.version}, connection ${fact.importState}, gate ${fact.gate}`;
  }
  const servers = step.target.servers.map(({ host, listen }) => {
    const fact = serverFact(facts, host, listen);
    return `${host} ${fact.is === 'down' ? `is down (${fact.why})` : `is ${fact.state}, version ${fact.version}`}`;
  });
  return servers.join(', ');
}

function isActive(fact: ServerFact): boolean {
  return fact.is === 'up' && fact.state === 'active';
}

/** One line for people. */
export function describeStep(step: Step): string {
  if (step.do === 'takeover')
    return `${step.client.host}: ${step.version} takes over ${step.client.mountpoint}`;
  const { target, place, version } = step;
  const isPair = target.servers.length > 1;
  switch (step.do) {
    case 'start':
      return `${place.host}: start ${version} for ${target.label}${isPair ? ', with its partner as the other' : ''}`;
    case 'ready':
      return `${place.host}: may serve ${target.label}, with ${version}`;
    case 'endStandby':
      return `${place.host}: end the standby of ${target.label}`;
    case 'shutdown':
      return `${place.host}: shut the server of ${target.label} down${isPair ? '; its partner takes the target' : ''}`;
  }
}

/** Names a step in the state file. */
export function stepKey(step: Step): string {
  const where =
    step.do === 'takeover'
      ? `${step.client.host}:${step.client.mountpoint}`
      : `${step.place.host} ${step.target.label}`;
  return `${step.do} ${where} ${step.version}`;
}

/** The versions of the unit that were seen. */
export function versionsSeen(unit: Unit, facts: Facts): readonly string[] {
  const versions =
    unit.is === 'target'
      ? unit.target.servers.map(({ host, listen }) => serverFact(facts, host, listen))
      : [mountFact(facts, unit.client.host, unit.client.mountpoint)];
  return [...new Set(versions.flatMap((fact) => (fact.is === 'up' ? [plainVersion(fact.version)] : [])))];
}
