/** Looks at the hosts of a fleet: what runs there, and what each version can do. */

import type { Capabilities } from '../capabilities_run.js';
import {
  type Facts,
  type FactsWanted,
  type HostAnswer,
  type HostFacts,
  type Installed,
  plainVersion,
} from './facts.js';
import type { Fleet, Host } from './file.js';
import type { Unit } from './plan.js';
import { commandLine, runOn } from './runner.js';

const LOOK_MS = 30_000;
/** The most hosts that are looked at together. */
const AT_ONCE = 16;

export function rootOf(fleet: Fleet, version: string): string {
  return fleet.root.replaceAll('{version}', plainVersion(version));
}

export function programOf(fleet: Fleet, version: string): string {
  return `${rootOf(fleet, version)}/bin/holdfast`;
}

/** What is asked of a host about these units. */
function wantedOf(units: readonly Unit[], host: string): FactsWanted {
  const servers = units.flatMap((unit) =>
    unit.is === 'target'
      ? unit.target.servers.filter((one) => one.host === host).map(({ listen }) => listen)
      : [],
  );
  const mountpoints = units.flatMap((unit) =>
    unit.is === 'client' && unit.client.host === host ? [unit.client.mountpoint] : [],
  );
  return { servers, mountpoints };
}

export function hostsOf(unit: Unit): readonly string[] {
  return unit.is === 'target' ? unit.target.servers.map(({ host }) => host) : [unit.client.host];
}

/** @param by the version whose program looks. @param units what is looked at. */
export async function look(fleet: Fleet, by: string, units: readonly Unit[]): Promise<Facts> {
  const names = new Set(units.flatMap(hostsOf));
  const hosts = fleet.hosts.filter(({ name }) => names.has(name));
  const seen = await each(hosts, async (host) => [host.name, await lookAt(fleet, host, by, units)] as const);
  return new Map(seen);
}

async function lookAt(fleet: Fleet, host: Host, by: string, units: readonly Unit[]): Promise<HostFacts> {
  const wanted = JSON.stringify(wantedOf(units, host.name));
  const beforeMs = Date.now();
  const ran = await runOn(host, commandLine([programOf(fleet, by), 'fleet-facts', wanted]), LOOK_MS);
  const afterMs = Date.now();
  if (ran.status !== 0) return { is: 'away', why: ran.why };
  const answer = parsed<HostAnswer>(ran.stdout);
  if (answer === undefined) return { is: 'away', why: `${programOf(fleet, by)} says something unexpected` };
  const skewMs = Math.max(0, beforeMs - answer.nowMs, answer.nowMs - afterMs);
  return { ...answer, is: 'there', skewMs };
}

/** What each of these versions can do on each host that it is asked of. */
export async function lookAtVersions(
  fleet: Fleet,
  versions: ReadonlyMap<string, readonly string[]>,
): Promise<Installed> {
  const pairs = fleet.hosts.flatMap((host) =>
    (versions.get(host.name) ?? []).map((version) => ({ host, version })),
  );
  const found = await each(pairs, async ({ host, version }) => {
    const program = programOf(fleet, version);
    const ran = await runOn(host, commandLine([program, 'capabilities', '--json']), LOOK_MS);
    if (ran.status !== 0) return { host, version, can: `${program}: ${ran.why}` };
    const can = parsed<Capabilities>(ran.stdout);
    if (can?.protocol === undefined) return { host, version, can: `${program} says something unexpected` };
    if (plainVersion(can.version) !== version)
      return { host, version, can: `${program} is version ${can.version}` };
    return { host, version, can };
  });
  const installed = new Map<string, Map<string, Capabilities | string>>();
  for (const { host, version, can } of found) {
    const ofHost = installed.get(host.name) ?? new Map<string, Capabilities | string>();
    installed.set(host.name, ofHost.set(version, can));
  }
  return installed;
}

function parsed<T>(text: string): T | undefined {
  try {
    return JSON.parse(text) as T;
  } catch {
    // A shell that greets, or no program of ours: the caller says whose answer it was.
    return undefined;
  }
}

/** In the order of `all`, some at once. */
async function each<T, R>(all: readonly T[], work: (one: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (let at = 0; at < all.length; at += AT_ONCE) {
    results.push(...(await Promise.all(all.slice(at, at + AT_ONCE).map(work))));
  }
  return results;
}
