/**
 * What hosts answer, decoded: a host may run another version, another program, or be in the hands of somebody else. A version that a
 * host names becomes a part of paths on other hosts, so it has the letters of a version and nothing else.
 */

import type { Capabilities } from '../capabilities_run.js';
import type { HostAnswer, MountFact, ServerFact } from './facts.js';

type Table = Readonly<Record<string, unknown>>;

const VERSION = /^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$/;

export function isVersion(value: unknown): value is string {
  return typeof value === 'string' && VERSION.test(value);
}

/** @returns undefined if it is no answer of `holdfast fleet-facts`. */
export function decodeAnswer(value: unknown): HostAnswer | undefined {
  if (!isTable(value)) return undefined;
  const { version, can, nowMs, freeBytes, servers, mounts, keyProblems } = value;
  const isRight =
    isVersion(version) &&
    (can === undefined || decodeCapabilities(can) !== undefined) &&
    isNumber(nowMs) &&
    isNumber(freeBytes) &&
    isTexts(keyProblems) &&
    isTable(servers) &&
    Object.values(servers).every(isServerFact) &&
    isTable(mounts) &&
    Object.values(mounts).every(isMountFact);
  return isRight ? (value as unknown as HostAnswer) : undefined;
}

/** @returns undefined if it is no answer of `holdfast capabilities --json`. */
export function decodeCapabilities(value: unknown): Capabilities | undefined {
  if (!isTable(value)) return undefined;
  const { version, protocol, features, disk, mountState, requires } = value;
  const isRight =
    isVersion(version) &&
    isTable(protocol) &&
    isNumber(protocol.min) &&
    isNumber(protocol.max) &&
    isNumber(features) &&
    isTable(disk) &&
    isNumber(disk.format) &&
    isNumber(disk.incompatible) &&
    Array.isArray(mountState) &&
    mountState.every(isNumber) &&
    isTable(requires);
  return isRight ? (value as unknown as Capabilities) : undefined;
}

function isServerFact(value: unknown): value is ServerFact {
  if (!isTable(value)) return false;
  if (value.is === 'down') return typeof value.why === 'string';
  return (
    value.is === 'up' &&
    isVersion(value.version) &&
    typeof value.state === 'string' &&
    typeof value.label === 'string' &&
    isNumber(value.instance) &&
    isTexts(value.evicted)
  );
}

function isMountFact(value: unknown): value is MountFact {
  if (!isTable(value)) return false;
  if (value.is === 'down') return typeof value.why === 'string';
  return (
    value.is === 'up' &&
    isVersion(value.version) &&
    typeof value.label === 'string' &&
    typeof value.importState === 'string' &&
    typeof value.gate === 'string' &&
    isNumber(value.dirtyBytes) &&
    Array.isArray(value.pauses) &&
    value.pauses.every((one) => isTable(one) && isNumber(one.ms) && isNumber(one.agoMs))
  );
}

export function isTable(value: unknown): value is Table {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}

function isTexts(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((one) => typeof one === 'string');
}
