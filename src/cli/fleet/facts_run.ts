/** What a fleet command asks on a host: its servers, its mounts, its clock, its room and its keys. It changes nothing. */

import { X509Certificate } from 'node:crypto';
import { existsSync, lstatSync, readdirSync, readFileSync, statfsSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { packageRoot } from '../../../native/binding.js';
import type { ClientStatus } from '../../client/api.js';
import { Metrics } from '../../wire/admin.js';
import { type AdminConnection, connectAdmin } from '../admin.js';
import { capabilities } from '../capabilities_run.js';
import { parseAddress } from '../common.js';
import { askControl, mountpointPath } from '../control.js';
import { CliError, describeFailure } from '../failure.js';
import { installedVersion, runtimeDir } from '../installed.js';
import { checkPrivateKey, keyPathOf, readKeyFile } from '../key_file.js';
import { readStatus } from '../server_status.js';
import { isPacked, linkBeside, treeInUse } from '../side_by_side.js';
import type { FactsWanted, HostAnswer, MountFact, ServerFact } from './facts.js';

/** A certificate that ends sooner is a problem: it may end while the upgrade is under way, or soon after. */
const CERTIFICATE_LEFT_MS = 7 * 24 * 3_600_000;
/** Far more than a chain of certificates has. */
const PROOF_MAX_BYTES = 1 << 20;
const META_FREE = /^holdfast_storage_meta_free_bytes(?:\{[^}]*\})? (\S+)$/m;

/** @param text FactsWanted, in JSON. */
export async function facts(text: string): Promise<HostAnswer> {
  const { servers, mountpoints, keys = [], folder } = JSON.parse(text) as FactsWanted;
  const seenServers = await Promise.all(servers.map(async (at) => [at, await serverAt(at)] as const));
  const seenMounts = await Promise.all(mountpoints.map(async (at) => [at, await mountAt(at)] as const));
  return {
    version: installedVersion(),
    can: capabilities(),
    nowMs: Date.now(),
    freeBytes: freeBytesAt(runtimeDir()),
    inUse: versionInUse(),
    rootFreeBytes: folder === undefined ? undefined : freeBytesAt(folder),
    servers: Object.fromEntries(seenServers),
    mounts: Object.fromEntries(seenMounts),
    keyProblems: keyProblems(keys),
  };
}

function versionInUse(): string | undefined {
  const link = linkBeside(packageRoot());
  // Something else of that name is none of our business here.
  if (lstatSync(link, { throwIfNoEntry: false })?.isSymbolicLink() !== true) return undefined;
  const tree = treeInUse(link);
  return tree === undefined || !isPacked(tree) ? undefined : installedVersion(tree);
}

/** Of a folder that may not be there yet. */
function freeBytesAt(folder: string): number {
  let there = folder;
  while (!existsSync(there)) there = dirname(there);
  const { bavail, bsize } = statfsSync(there);
  return bavail * bsize;
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
      const metaFreeBytes = state === 'active' ? await metaFreeOf(admin) : undefined;
      const space = { freeShare, metaFreeBytes };
      return { is: 'up', state, version, label, instance, isRecovering, evicted, diskFeatures, ...space };
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

/** @returns undefined: an earlier version, which ends the connection for the question. */
async function metaFreeOf({ requester }: AdminConnection): Promise<number | undefined> {
  const answer = await requester.call(Metrics, {}).catch(() => undefined);
  if (answer === undefined) return undefined;
  const [, number] = META_FREE.exec(Buffer.from(answer.bulk).toString()) ?? [];
  return number === undefined ? undefined : Number(number);
}

/** Of the keys in the usual folder, and of those that the fleet's file names. */
function keyProblems(named: readonly string[]): string[] {
  const folder = dirname(keyPathOf('x'));
  const names = existsSync(folder) ? readdirSync(folder).filter((one) => one.endsWith('.key')) : [];
  const problems: string[] = [];
  for (const path of new Set([...names.map((name) => join(folder, name)), ...named])) {
    try {
      checkProof(path, named.includes(path));
    } catch (thrown) {
      problems.push(describeFailure(thrown).line);
    }
  }
  return problems;
}

/** @throws Error: it is not there, or no file of a few lines. */
function proofText(path: string): string {
  const { size } = statSync(path);
  if (size > PROOF_MAX_BYTES) throw new CliError(`${path} is no file of a key or a certificate`);
  return readFileSync(path, 'utf8');
}

/** @throws Error: the file is not there, not what it should be, may be read by others, or ends soon. */
function checkProof(path: string, isNamed: boolean): void {
  const text = isNamed ? proofText(path) : '';
  if (text.includes('-----BEGIN CERTIFICATE-----')) {
    const leftMs = Date.parse(new X509Certificate(text).validTo) - Date.now();
    if (leftMs < 0) throw new CliError(`${path} has ended: renew the certificate`);
    if (leftMs < CERTIFICATE_LEFT_MS)
      throw new CliError(`${path} ends within ${Math.ceil(leftMs / 3_600_000)} hours: renew the certificate`);
  } else if (/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(text)) checkPrivateKey(path);
  else readKeyFile(path);
}
