/**
 * Lock modes, and which of them conflict.
 *
 * The matrix is Lustre's (and VMS's before it):
 *
 *        EX  PW  PR  CW  CR  NL
 *   EX    -   -   -   -   -   +
 *   PW    -   -   -   -   +   +
 *   PR    -   -   +   -   +   +
 *   CW    -   -   -   +   +   +
 *   CR    -   +   +   +   +   +
 *   NL    +   +   +   +   +   +
 *
 * Two locks of one resource conflict if their modes conflict and if, by the policy of the resource's type, what they
 * cover overlaps. Everything here is a pure function of the two claims.
 */

import { assertNever } from '../base/assert.js';
import type { LockSpec, Mode } from './api.js';

const EX = 1;
const PW = 2;
const PR = 4;
const CW = 8;
const CR = 16;
const NL = 32;

/** One bit for each mode, so that one AND finds a conflict. */
export const MODE_BIT: Readonly<Record<Mode, number>> = { EX, PW, PR, CW, CR, NL };

/** Bits of the modes that a mode excludes. */
export const CONFLICT_MASK: Readonly<Record<Mode, number>> = {
  EX: EX | PW | PR | CW | CR,
  PW: EX | PW | PR | CW,
  PR: EX | PW | CW,
  CW: EX | PW | PR,
  CR: EX,
  NL: 0,
};

/** Weakest first: joinModes() takes the first that is strong enough. */
const WEAKEST_FIRST: readonly Mode[] = ['NL', 'CR', 'CW', 'PR', 'PW', 'EX'];

export function modesConflict(a: Mode, b: Mode): boolean {
  return (CONFLICT_MASK[a] & MODE_BIT[b]) !== 0;
}

/** Whether a holder of `held` may do what `wanted` allows: `held` excludes at least the modes that `wanted` excludes. */
export function modeCovers(held: Mode, wanted: Mode): boolean {
  return (CONFLICT_MASK[wanted] & ~CONFLICT_MASK[held]) === 0;
}

/** The weakest mode that covers both. */
export function joinModes(a: Mode, b: Mode): Mode {
  for (const mode of WEAKEST_FIRST) {
    if (modeCovers(mode, a) && modeCovers(mode, b)) return mode;
  }
  return 'EX';
}

/** Modes that any number of holders share with each other, whatever else they cover. */
export function isShared(mode: Mode): boolean {
  return mode === 'PR' || mode === 'CR' || mode === 'NL';
}

/** Whether two locks on one resource overlap, whatever their modes. */
export type Overlap = (a: LockSpec, b: LockSpec) => boolean;

const always: Overlap = () => true;
const inodebits: Overlap = (a, b) => (a.bits & b.bits) !== 0;

/**
 * The policy of a type. Locks of type active always overlap. So do data locks, which cover the whole file: for real
 * extents, add a function here and a range to LockSpec; no other code depends on it.
 */
export function overlapOf(type: LockSpec['type']): Overlap {
  switch (type) {
    case 'active':
    case 'data':
      return always;
    case 'inode':
      return inodebits;
    default:
      return assertNever(type);
  }
}

/**
 * Data before inodes: a client may need a long time to give a data lock back, and may first have to finish a truncate
 * of its own (docs/LOCKING.md, "Truncates"), which must find the inode free.
 */
const TYPE_RANK: Readonly<Record<LockSpec['type'], number>> = { active: 0, data: 1, inode: 2 };

/** The order in which an operation takes its locks: type, then FID. So two operations cannot wait for each other. */
export function compareSpecs(a: LockSpec, b: LockSpec): number {
  return TYPE_RANK[a.type] - TYPE_RANK[b.type] || a.fid - b.fid;
}

/** The specs sorted by compareSpecs, at most one for each resource: specs of one resource are joined. */
export function inLockOrder(specs: readonly LockSpec[]): readonly LockSpec[] {
  const sorted = [...specs].sort(compareSpecs);
  const merged: LockSpec[] = [];
  for (const spec of sorted) {
    const last = merged.at(-1);
    if (last !== undefined && compareSpecs(last, spec) === 0) {
      merged[merged.length - 1] = {
        type: spec.type,
        fid: spec.fid,
        mode: joinModes(last.mode, spec.mode),
        bits: last.bits | spec.bits,
      };
    } else {
      merged.push(spec);
    }
  }
  return merged;
}
