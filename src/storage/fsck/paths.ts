/**
 * Paths for findings: tell people which file a finding is about. Inodes of files do not say which directory holds them.
 * So two more scans of all names find one name of each file, and then the names of the directories above.
 */

import { type Fid, type Name, ROOT_FID } from '../../base/ids.js';
import { fidKey, KEY, readU64 } from '../format/keys.js';
import { isInodeLength } from '../format/records.js';
import { RepairTx, readableName } from './repair.js';
import type { ReportedFinding } from './report.js';
import { type FsckContext, isSoundKey, scanType } from './scan.js';

/** Most inodes that get a path. */
const NAMED_MAX = 1000;
const DEPTH_MAX = 4096;

interface Place {
  readonly parent: Fid;
  readonly name: string;
}
type Places = Map<number, Place>;

/** @returns the findings; a finding about an inode gets the path of one of its names, if there is one. */
export async function nameFindings(
  context: FsckContext,
  findings: readonly ReportedFinding[],
): Promise<ReportedFinding[]> {
  const wanted = new Set<number>();
  for (const { fid } of findings) if (fid !== undefined && wanted.size < NAMED_MAX) wanted.add(fid);
  if (wanted.size === 0) return [...findings];
  const places: Places = new Map();
  await findNames(context, wanted, places);
  const above = new Set<number>();
  for (const { parent } of places.values()) addWayUp(context, parent, above);
  await findNames(context, above, places);
  return findings.map((finding) => {
    const path = finding.fid === undefined ? undefined : pathOf(finding.fid, places);
    return path === undefined ? finding : { ...finding, path };
  });
}

async function findNames(context: FsckContext, wanted: ReadonlySet<number>, places: Places): Promise<void> {
  await scanType(context, KEY.direntByName, ({ key, value }) => {
    if (!isSoundKey(key)) return;
    const name = key.toString('latin1', 9) as Name;
    const fid = readableName(name, value)?.fid;
    if (fid === undefined || !wanted.has(fid) || places.has(fid)) return;
    places.set(fid, { parent: readU64(key, 1) as Fid, name });
  });
}

/** Adds the directory and all directories above it, by the parents that their inodes name. */
function addWayUp({ db }: FsckContext, directory: Fid, into: Set<number>): void {
  const tx = new RepairTx(db);
  for (let at: number = directory; at !== 0 && at !== ROOT_FID && !into.has(at); ) {
    into.add(at);
    const value = tx.get(fidKey(KEY.inode, at as Fid));
    at =
      value === undefined || !isInodeLength(value.length) || value[0] !== 1
        ? 0
        : (tx.inode(at as Fid)?.parent ?? 0);
  }
}

/** The path as text: bytes that are not UTF-8 are lost. @returns undefined if the way up does not end at the root. */
function pathOf(fid: Fid, places: Places): string | undefined {
  const names: string[] = [];
  for (let at = fid; at !== ROOT_FID; ) {
    const place = places.get(at);
    if (place === undefined || names.length === DEPTH_MAX) return undefined;
    names.unshift(place.name);
    at = place.parent;
  }
  return Buffer.from(`/${names.join('/')}`, 'latin1').toString('utf8');
}
