/**
 * What a fleet command has seen of its hosts. `holdfast fleet-facts` (facts_run.ts) says it on each host, in JSON: a later version
 * may add fields.
 */

import type { Pause } from '../../client/api.js';
import type { ServerStateName } from '../../wire/admin.js';
import type { Capabilities } from '../capabilities_run.js';

/** What the command asks of one host. */
export interface FactsWanted {
  /** HOST:PORT of servers. */
  readonly servers: readonly string[];
  readonly mountpoints: readonly string[];
  /** Files of keys and certificates. */
  readonly keys?: readonly string[] | undefined;
  /** The folder where versions lie. */
  readonly folder?: string | undefined;
}

export type ServerFact =
  | { readonly is: 'down'; readonly why: string }
  | {
      readonly is: 'up';
      readonly state: ServerStateName;
      readonly version: string;
      readonly label: string;
      readonly instance: number;
      readonly isRecovering: boolean;
      /** Clients that this instance has evicted. */
      readonly evicted: readonly string[];
      readonly diskFeatures?: number | undefined;
      /** Of the data device, and bytes that metadata may still use. */
      readonly freeShare?: number | undefined;
      readonly metaFreeBytes?: number | undefined;
    };

export type MountFact =
  | { readonly is: 'down'; readonly why: string }
  | {
      readonly is: 'up';
      readonly version: string;
      readonly label: string;
      readonly importState: string;
      readonly gate: string;
      readonly canBeTakenOver: boolean;
      readonly driver: string;
      readonly dirtyBytes: number;
      readonly evictions: number;
      readonly pauses: readonly Pause[];
    };

export interface HostAnswer {
  /** Of the version that has looked. */
  readonly version: string;
  /** What this version can do; absent: it is an earlier one. */
  readonly can?: Capabilities | undefined;
  /** Milliseconds since 1970. */
  readonly nowMs: number;
  /** Free bytes where the processes have their sockets and logs. */
  readonly freeBytes: number;
  /** The version that the link beside the versions leads to; absent: there is no such link, or an earlier version has looked. */
  readonly inUse?: string | undefined;
  /** Free bytes where versions lie. */
  readonly rootFreeBytes?: number | undefined;
  readonly servers: Readonly<Record<string, ServerFact>>;
  readonly mounts: Readonly<Record<string, MountFact>>;
  /** What is wrong with files of keys and certificates. */
  readonly keyProblems: readonly string[];
}

export type HostFacts =
  | { readonly is: 'away'; readonly why: string }
  /** skewMs: how far its clock is from ours, at least. */
  | (HostAnswer & { readonly is: 'there'; readonly skewMs: number });

/** By the names of hosts. */
export type Facts = ReadonlyMap<string, HostFacts>;

/** By host and version. A text: why the version cannot be used there. */
export type Installed = ReadonlyMap<string, ReadonlyMap<string, Capabilities | string>>;

/** Without the digest. */
export function plainVersion(version: string): string {
  return version.replace(/\+.*/, '');
}

export function serverFact(facts: Facts, host: string, listen: string): ServerFact {
  const seen = facts.get(host);
  if (seen === undefined) return { is: 'down', why: 'not looked at' };
  if (seen.is === 'away') return { is: 'down', why: seen.why };
  return seen.servers[listen] ?? { is: 'down', why: 'not looked at' };
}

export function mountFact(facts: Facts, host: string, mountpoint: string): MountFact {
  const seen = facts.get(host);
  if (seen === undefined) return { is: 'down', why: 'not looked at' };
  if (seen.is === 'away') return { is: 'down', why: seen.why };
  return seen.mounts[mountpoint] ?? { is: 'down', why: 'not looked at' };
}
