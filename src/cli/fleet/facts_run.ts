/** What a fleet command asks on a host: its servers, its mounts, its clock, its room and its keys. It changes nothing. */

import { existsSync, readdirSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import type { ClientStatus } from '../../client/api.js';
import { connectAdmin } from '../admin.js';
import { parseAddress } from '../common.js';
import { askControl, mountpointPath } from '../control.js';
import { describeFailure } from '../failure.js';
import { installedVersion, runtimeDir } from '../installed.js';
import { keyPathOf, readKeyFile } from '../key_file.js';
import { readStatus } from '../server_status.js';
import type { FactsWanted, HostAnswer, MountFact, ServerFact } from './facts.js';

/** @param text FactsWanted, in JSON. */
export async function facts(text: string): Promise<HostAnswer> {
  const { servers, mountpoints } = JSON.parse(text) as FactsWanted;
  const seenServers = await Promise.all(servers.map(async (at) => [at, await serverAt(at)] as const));
  const seenMounts = await Promise.all(mountpoints.map(async (at) => [at, await mountAt(at)] as const));
  const { bavail, bsize } = statfsSync(runtimeDir());
  return {
    version: installedVersion(),
    nowMs: Date.now(),
    freeBytes: bavail * bsize,
    servers: Object.fromEntries(seenServers),
    mounts: Object.fromEntries(seenMounts),
    keyProblems: keyProblems(),
  };
}

async function serverAt(address: string): Promise<ServerFact> {
  try {
    const admin = await connectAdmin(parseAddress(address));
    try {
      const status = await readStatus(admin.requester);
      const { state, softwareVersion: version, label, instance, recovery, diskFeatures } = status;
      const evicted = status.evicted.map(({ name, reason }) => `${name} (${reason})`);
      const freeShare = status.blocks > 0 ? status.blocksFree / status.blocks : undefined;
      const isRecovering = state === 'recovering' || recovery?.open === true;
      return { is: 'up', state, version, label, instance, isRecovering, evicted, diskFeatures, freeShare };
    } finally {
      admin.close();
    }
  } catch (thrown) {
    return { is: 'down', why: describeFailure(thrown).line };
  }
}

async function mountAt(path: string): Promise<MountFact> {
  try {
    const answer = await askControl(mountpointPath(path), { command: 'status' });
    if (answer === undefined) return { is: 'down', why: `no Holdfast client serves ${path}` };
    const { softwareVersion: version, targets, driver, takeover } = answer.data as ClientStatus;
    const [target] = targets;
    if (target === undefined) return { is: 'down', why: `${path} has no target` };
    const { label, importState, gate, dirtyBytes, evictions, pauses = [] } = target;
    return {
      is: 'up',
      version,
      label,
      importState,
      gate,
      canBeTakenOver: takeover !== false,
      driver: driver ?? 'unknown',
      dirtyBytes,
      evictions: evictions.length,
      pauses,
    };
  } catch (thrown) {
    return { is: 'down', why: describeFailure(thrown).line };
  }
}

function keyProblems(): string[] {
  const folder = join(keyPathOf('x'), '..');
  if (!existsSync(folder)) return [];
  const problems: string[] = [];
  for (const name of readdirSync(folder).filter((one) => one.endsWith('.key'))) {
    try {
      readKeyFile(join(folder, name));
    } catch (thrown) {
      problems.push(describeFailure(thrown).line);
    }
  }
  return problems;
}
