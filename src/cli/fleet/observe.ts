/** Looks at the hosts of a fleet: what runs there, and what each version can do. */

import { dirname } from 'node:path';
import type { Capabilities } from '../capabilities_run.js';
import { decodeAnswer, decodeCapabilities } from './decode.js';
import { type Facts, type FactsWanted, type HostFacts, type Installed, plainVersion } from './facts.js';
import type { Fleet, Host } from './file.js';
import { hostsOf, type Unit } from './plan.js';
import { commandLine, lastObject, type Ran, runOn } from './runner.js';

/** At least: a host that is slow to serve is slow to answer too. */
const LOOK_MS = 30_000;
/** ssh(1): the exit status of ssh itself, when it has no connection. */
const SSH_FAILED = 255;
/** The most hosts that are looked at together. */
const AT_ONCE = 16;

export function rootOf(fleet: Fleet, version: string): string {
  return fleet.root.replaceAll('{version}', plainVersion(version));
}

export function programOf(fleet: Fleet, version: string): string {
  return `${rootOf(fleet, version)}/bin/holdfast`;
}

/** What is asked of a host about these units. */
function wantedOf(fleet: Fleet, units: readonly Unit[], { name: host, keys }: Host, by: string): FactsWanted {
  const servers = units.flatMap((unit) =>
    unit.is === 'target'
      ? unit.target.servers.filter((one) => one.host === host).map(({ listen }) => listen)
      : [],
  );
  const mountpoints = units.flatMap((unit) =>
    unit.is === 'client' && unit.client.host === host ? [unit.client.mountpoint] : [],
  );
  return { servers, mountpoints, keys, folder: dirname(rootOf(fleet, by)) };
}

/**
 * @param by versions whose program may look: on each host the first one that answers, because one may be missing or broken there.
 * @param units what is looked at.
 */
export async function look(fleet: Fleet, by: readonly string[], units: readonly Unit[]): Promise<Facts> {
  const names = new Set(units.flatMap(hostsOf));
  const hosts = fleet.hosts.filter(({ name }) => names.has(name));
  const seen = await each(hosts, async (host) => [host.name, await lookAt(fleet, host, by, units)] as const);
  return new Map(seen);
}

async function lookAt(
  fleet: Fleet,
  host: Host,
  by: readonly string[],
  units: readonly Unit[],
): Promise<HostFacts> {
  let away: HostFacts = { is: 'away', why: 'no version is known that could look' };
  for (const version of by) {
    const program = programOf(fleet, version);
    const wanted = JSON.stringify(wantedOf(fleet, units, host, version));
    const beforeMs = Date.now();
    const ran = await runOn(host, commandLine([program, 'fleet-facts', wanted]), lookMs(fleet));
    const afterMs = Date.now();
    const answer = ran.status === 0 ? decodeAnswer(lastObject(ran.stdout)) : undefined;
    if (answer !== undefined) {
      const skewMs = Math.max(0, beforeMs - answer.nowMs, answer.nowMs - afterMs);
      return { ...answer, is: 'there', skewMs };
    }
    const why = ran.status === 0 ? `${program} says something unexpected` : ran.why;
    if (away.is === 'away' && version === by[0]) away = { is: 'away', why };
    if (isUnreachable(ran)) return { is: 'away', why };
  }
  return away;
}

function lookMs({ startLimitMs }: Fleet): number {
  return Math.max(LOOK_MS, startLimitMs);
}

/** No other program will answer either: the runner did not end, or it is ssh and says so. */
function isUnreachable({ status }: Ran): boolean {
  return status === null || status === SSH_FAILED;
}

/** What each of these versions can do on each host that it is asked of. @param facts seen just now: whoever has looked has told it. */
export async function lookAtVersions(
  fleet: Fleet,
  versions: ReadonlyMap<string, readonly string[]>,
  facts: Facts,
): Promise<Installed> {
  const pairs = fleet.hosts.flatMap((host) =>
    (versions.get(host.name) ?? []).map((version) => ({ host, version })),
  );
  const found = await each(pairs, async ({ host, version }) => {
    const fact = facts.get(host.name);
    const told = fact?.is === 'there' ? fact.can : undefined;
    if (told !== undefined && plainVersion(told.version) === version) return { host, version, can: told };
    const program = programOf(fleet, version);
    const ran = await runOn(host, commandLine([program, 'capabilities', '--json']), lookMs(fleet));
    if (ran.status !== 0) return { host, version, can: `${program}: ${ran.why}` };
    const can = decodeCapabilities(lastObject(ran.stdout));
    if (can === undefined) return { host, version, can: `${program} says something unexpected` };
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

/** In the order of `all`, some at once. */
async function each<T, R>(all: readonly T[], work: (one: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (let at = 0; at < all.length; at += AT_ONCE) {
    results.push(...(await Promise.all(all.slice(at, at + AT_ONCE).map(work))));
  }
  return results;
}
