/**
 * What a check of a target finds, and what of it can be repaired.
 *
 * A finding is one line about one thing. One that can be repaired without guessing brings its repair: a change of
 * records, applied in a transaction that leaves the target consistent, whatever else is still wrong with it. Repairs have
 * stages, because some are only known when others are done (a link count, when names are); one round of a check applies
 * those of one stage, and the next round looks again.
 *
 * Memory is bounded: of what is found in great numbers, lines beyond a limit are counted only.
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
  | 'checksum';

/** In the order they are made. */
export const REPAIR_STAGES = ['counters', 'records', 'lost+found', 'links', 'space'] as const;
export type RepairStage = (typeof REPAIR_STAGES)[number];

export interface Repair {
  readonly stage: RepairStage;
  /** What was done, as the end of a line: 'set to 2'. */
  readonly done: string;
  apply(tx: RepairTx): void;
}

export interface Finding {
  readonly kind: FindingKind;
  readonly text: string;
  /** The inode it is about. */
  readonly fid?: Fid;
  readonly repair?: Repair;
}

/** What was looked at. */
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
  /** Blocks of which content and checksum were compared. */
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
    checksums: 0,
  };
}

export interface ReportedFinding {
  readonly kind: FindingKind;
  /** One line. */
  readonly text: string;
  readonly fid?: Fid;
  /** One path of the inode, where it is known. */
  readonly path?: string;
  readonly repairable: boolean;
  /** What was done about it; absent: it was left. */
  readonly repaired?: string;
}

export interface FsckReport {
  /** Absent when it cannot be read. */
  readonly superblock: Superblock | undefined;
  readonly counts: FsckCounts;
  /** Those that were repaired first, in order; then those that were left. At most FINDINGS_KEPT of either. */
  readonly findings: readonly ReportedFinding[];
  /** All of them, also those beyond what is kept. */
  readonly repaired: number;
  readonly left: number;
  /** Of what was left, what --repair would repair. */
  readonly repairable: number;
  /** Records that got a checksum. */
  readonly checksumsAdded?: number;
  /** The meta device had no room for all of them. */
  readonly checksumsLackRoom?: boolean;
  /** Rounds of checking that it took: 1 unless something was repaired. */
  readonly rounds: number;
}

/** Lines kept for the report, and repairs kept for a round. */
export const FINDINGS_KEPT = 10_000;

/** The findings of one round. */
export class Findings {
  readonly kept: Finding[] = [];
  count = 0;
  repairable = 0;
  /** Of the first stage that has any. */
  #stage: RepairStage | undefined;
  #repairs: Finding[] = [];
  #isHopeless = false;

  /** Something is lost that repairs need: what is found from now on is left. */
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

  /** What this round may repair: all of one stage, as far as it was kept. */
  get repairs(): readonly Finding[] {
    return this.#repairs;
  }
}
