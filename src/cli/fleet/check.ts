/**
 * The preflight of an upgrade: from what was seen on the hosts, whether every version can meet every other one that it will see on the
 * way, and whether everything that has to go well is well. Pure functions.
 */

import { tooOld } from '../../wire/negotiate.js';
import { FEATURE } from '../../wire/session.js';
import type { Capabilities } from '../capabilities_run.js';
import { formatBytes } from '../format.js';
import { type Facts, type Installed, mountFact, plainVersion, type ServerFact, serverFact } from './facts.js';
import type { Client, Fleet, Target } from './file.js';
import { hostsOf, orderProblems, unitOfClient, unitOfTarget, unitsOf, type Wanted } from './plan.js';

export interface Row {
  readonly what: string;
  readonly is: string;
  readonly go: boolean;
  /** What was found, or why it does not go and what to do. */
  readonly why: string;
}

type UpServer = Extract<ServerFact, { readonly is: 'up' }>;

export interface Seen {
  readonly fleet: Fleet;
  readonly facts: Facts;
  readonly installed: Installed;
  readonly wanted: Wanted;
  /** Who goes first on the way up. */
  readonly first: 'servers' | 'clients';
  /** It is the way back: who goes first goes last. */
  readonly back?: boolean | undefined;
}

const SKEW_MAX_MS = 2000;
const ROOM_MIN_BYTES = 16 << 20;
/** Below that a target is about to be full: its clients may not be able to write what they still have. */
const META_FREE_MIN_BYTES = 4 << 20;
const DATA_FREE_MIN_SHARE = 0.01;
/** Without one of these programs would get other answers than before, or a crash on the way would cost more. Others cost speed. */
const KEPT_FEATURES = FEATURE.replay | FEATURE.holds | FEATURE.lockOffsets;

export function checkRows(seen: Seen): readonly Row[] {
  const { fleet } = seen;
  // A host that has conditions only needs no Holdfast.
  const isUsed = (name: string): boolean => unitsOf(fleet).some((unit) => hostsOf(unit).includes(name));
  return [
    ...fleet.hosts.flatMap(({ name }) => (isUsed(name) ? hostRows(seen, name) : [])),
    ...fleet.targets.flatMap((target) => targetRows(seen, target)),
    ...fleet.clients.flatMap((client) => clientRows(seen, client)),
    ...orderRows(seen),
  ];
}

/** @param problems of the conditions that are commands, one line each. */
export function conditionRows({ conditions }: Fleet, problems: readonly string[]): readonly Row[] {
  if (conditions.length === 0) return [];
  const go = problems.length === 0;
  return [
    { what: 'conditions', is: 'hold', go, why: go ? `${conditions.length} of them` : problems.join('; ') },
  ];
}

/** What a target or client of this host has now, and should have. */
function versionsOn({ fleet, facts, wanted }: Seen, host: string): readonly string[] {
  const versions: (string | undefined)[] = [];
  for (const target of fleet.targets) {
    for (const place of target.servers.filter((one) => one.host === host)) {
      versions.push(runs(serverFact(facts, host, place.listen)), wanted(unitOfTarget(target)));
    }
  }
  for (const client of fleet.clients.filter((one) => one.host === host)) {
    versions.push(runs(mountFact(facts, host, client.mountpoint)), wanted(unitOfClient(client)));
  }
  return [...new Set(versions.filter((one) => one !== undefined).map(plainVersion))].sort();
}

function runs(
  fact: { readonly is: 'up'; readonly version: string } | { readonly is: 'down' },
): string | undefined {
  return fact.is === 'up' ? fact.version : undefined;
}

function hostRows(seen: Seen, host: string): readonly Row[] {
  const what = `host ${host}`;
  const versions = versionsOn(seen, host).map((version): Row => {
    const found = seen.installed.get(host)?.get(version);
    const is = `version ${version}`;
    if (found === undefined) return { what, is, go: false, why: 'not looked at' };
    if (typeof found === 'string') return { what, is, go: false, why: found };
    return { what, is, go: true, why: 'complete, and runs' };
  });
  const facts = seen.facts.get(host);
  if (facts === undefined || facts.is === 'away') {
    return [{ what, is: 'reachable', go: false, why: facts?.why ?? 'not looked at' }, ...versions];
  }
  const { skewMs, freeBytes, rootFreeBytes = freeBytes, keyProblems } = facts;
  return [
    { what, is: 'reachable', go: true, why: 'answers' },
    ...versions,
    {
      what,
      is: 'clock',
      go: skewMs <= SKEW_MAX_MS,
      why: skewMs <= SKEW_MAX_MS ? 'in step' : `differs by ${(skewMs / 1000).toFixed(1)} s; set it right`,
    },
    {
      what,
      is: 'room',
      go: Math.min(freeBytes, rootFreeBytes) >= ROOM_MIN_BYTES,
      why: `${formatBytes(freeBytes)} free for sockets and logs, ${formatBytes(rootFreeBytes)} where versions lie`,
    },
    {
      what,
      is: 'keys',
      go: keyProblems.length === 0,
      why: keyProblems.length === 0 ? 'valid' : keyProblems.join('; '),
    },
  ];
}

function targetRows(seen: Seen, target: Target): readonly Row[] {
  const what = `target ${target.label}`;
  const servers = target.servers.map(({ host, listen }) => ({
    host,
    fact: serverFact(seen.facts, host, listen),
  }));
  const active = servers.find(({ fact }) => fact.is === 'up' && fact.state !== 'standby');
  if (active === undefined || active.fact.is === 'down') {
    const why = servers
      .map(({ host, fact }) => `${host}: ${fact.is === 'down' ? fact.why : fact.state}`)
      .join('; ');
    return [{ what, is: 'served', go: false, why }];
  }
  const { fact, host } = active;
  const rows: Row[] = [
    {
      what,
      is: 'served',
      go: fact.state === 'active',
      why: `${fact.state} on ${host}, version ${fact.version}`,
    },
    {
      what,
      is: 'label',
      go: fact.label === target.label,
      why:
        fact.label === target.label ? fact.label : `${host} serves ${fact.label}: correct listen in the file`,
    },
    {
      what,
      is: 'recovery',
      go: !fact.isRecovering,
      why: fact.isRecovering ? 'under way: wait for its end' : 'none under way',
    },
  ];
  if (servers.length > 1 && !target.isManaged) {
    const other = servers.find((one) => one !== active);
    const isThere = other?.fact.is === 'up' && other.fact.state === 'standby';
    const state = other?.fact.is === 'up' ? other.fact.state : 'down';
    const why = isThere ? `on ${other?.host}` : `${other?.host} is ${state}: start it with --standby`;
    rows.push({ what, is: 'standby', go: isThere, why });
  }
  return [...rows, spaceRow(what, fact), diskRow(seen, target, fact)];
}

function spaceRow(what: string, { freeShare, metaFreeBytes }: UpServer): Row {
  const isFull =
    (freeShare !== undefined && freeShare < DATA_FREE_MIN_SHARE) ||
    (metaFreeBytes !== undefined && metaFreeBytes < META_FREE_MIN_BYTES);
  const data = freeShare === undefined ? 'not known' : `${Math.floor(freeShare * 100)} % free`;
  const meta = metaFreeBytes === undefined ? 'not known' : `${formatBytes(metaFreeBytes)} free`;
  const advice = isFull ? ': remove files, or grow the devices' : '';
  return { what, is: 'space', go: !isFull, why: `data ${data}, metadata ${meta}${advice}` };
}

/** Every version that serves the target on the way has to know what is on its disks. */
function diskRow(seen: Seen, target: Target, fact: UpServer): Row {
  const what = `target ${target.label}`;
  const is = 'disk';
  const { diskFeatures } = fact;
  const wanted = seen.wanted(unitOfTarget(target));
  const missing = target.servers.filter(
    ({ host }) => wanted !== undefined && capabilitiesOn(seen, host, wanted).length === 0,
  );
  if (missing.length > 0)
    return {
      what,
      is,
      go: false,
      why: `${wanted} is missing on ${missing.map(({ host }) => host).join(', ')}`,
    };
  if (diskFeatures === undefined)
    return { what, is, go: true, why: `version ${fact.version} does not say its features; not compared` };
  const unknown = target.servers.flatMap(({ host }) =>
    capabilitiesOn(seen, host, wanted)
      .filter(({ disk }) => (diskFeatures & ~disk.incompatible) !== 0)
      .map(({ version }) => version),
  );
  const older = target.servers.flatMap(({ host }) => {
    const [now] = capabilitiesOn(seen, host, fact.version);
    const lower = capabilitiesOn(seen, host, wanted).filter(
      ({ disk }) => now !== undefined && disk.format < now.disk.format,
    );
    return lower.map(
      ({ version, disk }) => `${version} has disk format ${disk.format}, ${now?.version} has a later one`,
    );
  });
  if (older.length > 0) return { what, is, go: false, why: [...new Set(older)].join('; ') };
  if (unknown.length === 0)
    return {
      what,
      is,
      go: true,
      why: `features 0x${diskFeatures.toString(16)} are known${oneWay(seen, target, fact)}`,
    };
  const bits = `0x${diskFeatures.toString(16)}`;
  return {
    what,
    is,
    go: false,
    why: `${[...new Set(unknown)].join(', ')} does not know all features in use (${bits})`,
  };
}

/** The version that is wanted may give the disk what the one before does not know. That is no reason not to go. */
function oneWay(seen: Seen, target: Target, fact: UpServer): string {
  if (seen.back === true) return '';
  const wanted = seen.wanted(unitOfTarget(target));
  for (const { host } of target.servers) {
    const [now] = capabilitiesOn(seen, host, fact.version);
    const [next] = capabilitiesOn(seen, host, wanted);
    const more =
      now === undefined || next === undefined ? 0 : next.disk.incompatible & ~now.disk.incompatible;
    if (more !== 0)
      return `; if ${next?.version} begins to use 0x${(more >>> 0).toString(16)}, there is no way back to ${now?.version}`;
  }
  return '';
}

function capabilitiesOn(
  { installed }: Seen,
  host: string,
  version: string | undefined,
): readonly Capabilities[] {
  const found = version === undefined ? undefined : installed.get(host)?.get(plainVersion(version));
  return found === undefined || typeof found === 'string' ? [] : [found];
}

function clientRows(seen: Seen, client: Client): readonly Row[] {
  const what = `client ${client.host}:${client.mountpoint}`;
  const fact = mountFact(seen.facts, client.host, client.mountpoint);
  if (fact.is === 'down') return [{ what, is: 'mounted', go: false, why: fact.why }];
  const isWell = fact.importState === 'FULL' && fact.gate === 'OPEN';
  const drains = isWell && fact.canBeTakenOver;
  const notDrained = fact.canBeTakenOver
    ? `connection ${fact.importState}, gate ${fact.gate}: wait until the server is back`
    : `driver=${fact.driver} cannot be taken over: unmount, and mount again`;
  return [
    {
      what,
      is: 'mounted',
      go: fact.label === client.target,
      why:
        fact.label === client.target
          ? `version ${fact.version}`
          : `it mounts ${fact.label}, not ${client.target}`,
    },
    { what, is: 'drains', go: drains, why: drains ? `${formatBytes(fact.dirtyBytes)} to write` : notDrained },
    takeoverRow(seen, client, fact.version),
    ...wireRows(seen, client, fact.version),
  ];
}

function takeoverRow(seen: Seen, client: Client, now: string): Row {
  const what = `client ${client.host}:${client.mountpoint}`;
  const [from] = capabilitiesOn(seen, client.host, now);
  const [to] = capabilitiesOn(seen, client.host, seen.wanted(unitOfClient(client)));
  if (from === undefined || to === undefined)
    return { what, is: 'takeover', go: false, why: 'a version is missing there' };
  const go = from.mountState.some((version) => to.mountState.includes(version));
  const why = go
    ? 'both know MountState'
    : `${to.version} knows no MountState of ${from.version}: unmount, and mount again`;
  return { what, is: 'takeover', go, why };
}

/** The client, as it is and as it will be, with each server of its target, as it is and as it will be. */
function wireRows(seen: Seen, client: Client, now: string): readonly Row[] {
  const target = seen.fleet.targets.find(({ label }) => label === client.target);
  if (target === undefined) return [];
  const what = `client ${client.host}:${client.mountpoint}`;
  const ofClient = [now, seen.wanted(unitOfClient(client))].flatMap((version) =>
    capabilitiesOn(seen, client.host, version),
  );
  const problems = new Set<string>();
  const losses = new Set<string>();
  let isLess = false;
  for (const { host, listen } of target.servers) {
    const running = runs(serverFact(seen.facts, host, listen));
    const ofServer = [running, seen.wanted(unitOfTarget(target))].flatMap((version) =>
      capabilitiesOn(seen, host, version),
    );
    const common = commonFeatures(ofClient[0], ofServer[0]);
    for (const server of ofServer) {
      for (const one of ofClient.filter((own) => isOnWay(seen, own, server))) {
        const problem = meets(one, server);
        if (problem !== undefined) problems.add(problem);
        const lost = common & ~commonFeatures(one, server);
        if ((lost & KEPT_FEATURES) !== 0) isLess = true;
        if (lost !== 0)
          losses.add(
            `client ${one.version} and server ${server.version} have not in common: ${featureNames(lost)}`,
          );
      }
    }
  }
  const text = (lines: ReadonlySet<string>, none: string): string =>
    lines.size === 0 ? none : [...lines].join('; ');
  return [
    {
      what,
      is: 'wire',
      go: problems.size === 0,
      why: text(problems, 'all versions on the way speak with each other'),
    },
    { what, is: 'features', go: !isLess, why: text(losses, 'none is lost on the way') },
  ];
}

function commonFeatures(client: Capabilities | undefined, server: Capabilities | undefined): number {
  return client === undefined || server === undefined ? 0 : client.features & server.features;
}

function featureNames(bits: number): string {
  const known = Object.entries(FEATURE).filter(([, bit]) => (bits & bit) !== 0);
  const rest = known.reduce((left, [, bit]) => left & ~bit, bits) >>> 0;
  return [...known.map(([name]) => name), ...(rest === 0 ? [] : [`0x${rest.toString(16)}`])].join(', ');
}

/** Whether two of these versions meet on the way. */
function isOnWay(seen: Seen, client: Capabilities, server: Capabilities): boolean {
  // Whoever goes first has the version that is wanted, or neither has it, when two meet.
  const serversFirst = (seen.first === 'servers') !== (seen.back === true);
  const [early, late] = serversFirst ? [server, client] : [client, server];
  return early.version === late.version || goal(seen, early.version) || !goal(seen, late.version);
}

/** @returns why these two do not speak with each other; undefined: they do. */
function meets(client: Capabilities, server: Capabilities): string | undefined {
  if (client.protocol.max < server.protocol.min || server.protocol.max < client.protocol.min) {
    return `client ${client.version} and server ${server.version} have no protocol in common`;
  }
  return (
    tooOld(server.requires.lowestPeer, { is: 'client', softwareVersion: client.version }, server.version) ??
    tooOld(client.requires.lowestPeer, { is: 'server', softwareVersion: server.version }, client.version)
  );
}

function goal({ fleet, wanted }: Seen, version: string): boolean {
  const units = [...fleet.targets.map(unitOfTarget), ...fleet.clients.map(unitOfClient)];
  return units.some((unit) => {
    const its = wanted(unit);
    return its !== undefined && plainVersion(its) === plainVersion(version);
  });
}

/** Who goes first on the way to this version, as it says itself. */
export function firstOf(installed: Installed, to: string): 'servers' | 'clients' {
  for (const versions of installed.values()) {
    const found = versions.get(plainVersion(to));
    if (found !== undefined && typeof found !== 'string') return found.requires.first ?? 'servers';
  }
  return 'servers';
}

/** What does not depend on the moment: a command that goes on after a failure asks for these only. */
const LASTING = ['reachable', 'clock', 'disk', 'takeover', 'wire', 'features', 'of groups'];

export function lasting(rows: readonly Row[]): readonly Row[] {
  return rows.filter(({ is }) => LASTING.includes(is) || is.startsWith('version '));
}

function orderRows({ fleet, first, back }: Seen): readonly Row[] {
  if (back === true) return [];
  const problems = orderProblems(fleet, first);
  const why = problems.length === 0 ? `${first} go first` : problems.join('; ');
  return [{ what: 'order', is: 'of groups', go: problems.length === 0, why }];
}
