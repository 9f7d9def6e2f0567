/**
 * The findings of a check of a target, and the repairs.
 *
 * A finding is one line about one thing. If it can be repaired without guessing, it brings its repair: a change of
 * records, applied in a transaction that leaves the target consistent, whatever else is still wrong with it. Repairs
 * have stages, because fsck only knows some of them when others are done (a link count, when names are done). One round
 * of a check applies the repairs of one stage, and the next round checks again.
 *
 * Memory is bounded: beyond a limit fsck only counts findings, without keeping their lines.
 */

import type { Fid } from '../../base/ids.js';
import type { Superblock } from '../api.js';
import type { RepairTx } from './repair.js';

/** What is wrong. Stable: scripts read it (docs/OPERATIONS.md). */
export type FindingKind =
  | 'superblock'
  | 'data-header'
  | 'page'
  | 'free-list'
  | 'redo-log'
  | 'unknown-record'
  | 'damaged-record'
  | 'counter'
  | 'inode'
  | 'name'
  | 'position'
  | 'dangling-name'
  | 'directory'
  | 'parent'
  | 'cycle'
  | 'link-count'
  | 'nameless'
  | 'orphan'
  | 'doomed'
  | 'xattr'
  | 'symlink'
  | 'inline-data'
  | 'content'
  | 'shared-block'
  | 'space'
  | 'block-count'
  | 'size'
  | 'client'
  | 'reply'
  | 'access'
  | 'checksum';

/** In the order in which fsck applies them. */
export const REPAIR_STAGES = ['counters', 'records', 'lost+found', 'links', 'space'] as const;
export type RepairStage = (typeof REPAIR_STAGES)[number];

export interface Repair {
  readonly stage: RepairStage;
  /** The repair in words, as the end of a line: 'set to 2'. */
  readonly done: string;
  apply(tx: RepairTx): void;
}

export interface Finding {
  readonly kind: FindingKind;
  readonly text: string;
  /** The inode that the finding is about. */
  readonly fid?: Fid;
  readonly repair?: Repair;
}

/** Counts of what the check looked at. */
export interface FsckCounts {
  pages: number;
  inodes: number;
  directories: number;
  names: number;
  xattrs: number;
  symlinks: number;
  inlineFiles: number;
  blockMaps: number;
  blocks: number;
  orphans: number;
  doomed: number;
  clients: number;
  replies: number;
  /** Entries of the access table, whole or not. */
  access: number;
  /** Blocks whose content was compared with the checksum. */
  checksums: number;
}

export function noCounts(): FsckCounts {
  return {
    pages: 0,
    inodes: 0,
    directories: 0,
    names: 0,
    xattrs: 0,
    symlinks: 0,
    inlineFiles: 0,
    blockMaps: 0,
    blocks: 0,
    orphans: 0,
    doomed: 0,
    clients: 0,
    replies: 0,
    access: 0,
    checksums: 0,
  };
}

export interface ReportedFinding {
  readonly kind: FindingKind;
  /** One line. */
  readonly text: string;
  readonly fid?: Fid;
  /** One path of the inode, if fsck knows one. */
  readonly path?: string;
  readonly repairable: boolean;
  /** What fsck did about it; absent: it left it. */
  readonly repaired?: string;
}

export interface FsckReport {
  /** Absent if the superblock cannot be read. */
  readonly superblock: Superblock | undefined;
  readonly counts: FsckCounts;
  /** Findings that were repaired first, in order; then those that were left. At most FINDINGS_KEPT of each. */
  readonly findings: readonly ReportedFinding[];
  /** Numbers of all findings, also of those beyond what is kept. */
  readonly repaired: number;
  readonly left: number;
  /** Number of left findings that --repair would repair. */
  readonly repairable: number;
  /** Number of records that got a checksum. */
  readonly checksumsAdded?: number;
  /** The meta device had no room for checksums of all records. */
  readonly checksumsLackRoom?: boolean;
  /** Number of rounds: 1 unless something was repaired. */
  readonly rounds: number;
}

/** Lines kept for the report, and repairs kept for a round. */
export const FINDINGS_KEPT = 10_000;

/** The findings of one round. */
export class Findings {
  readonly kept: Finding[] = [];
  count = 0;
  repairable = 0;
  /** The first stage that has any repairs. */
  #stage: RepairStage | undefined;
  #repairs: Finding[] = [];
  #isHopeless = false;

  /** Something is lost that repairs need: fsck does not repair the findings from now on. */
  giveUp(): void {
    this.#isHopeless = true;
  }

  add(finding: Finding): void {
    this.count++;
    const { kind, text, fid, repair } = finding;
    const kept = this.#isHopeless ? { kind, text, ...(fid === undefined ? {} : { fid }) } : finding;
    if (this.kept.length < FINDINGS_KEPT) this.kept.push(kept);
    if (repair === undefined || this.#isHopeless) return;
    this.repairable++;
    const order =
      this.#stage === undefined
        ? -1
        : REPAIR_STAGES.indexOf(repair.stage) - REPAIR_STAGES.indexOf(this.#stage);
    if (order < 0) {
      this.#stage = repair.stage;
      this.#repairs = [finding];
    } else if (order === 0 && this.#repairs.length < FINDINGS_KEPT) {
      this.#repairs.push(finding);
    }
  }

  /** The repairs of this round: all of one stage, as far as they were kept. */
  get repairs(): readonly Finding[] {
    return this.#repairs;
  }
}
