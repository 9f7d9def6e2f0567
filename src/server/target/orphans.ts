/**
 * Unlinked inodes. They are orphans while somebody has them open or the kernel of some client refers to them
 * (holds.ts); then the server destroys them.
 */

import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import type { Lifetime } from '../../base/lifetime.js';
import { logger } from '../../base/log.js';
import type { Fate } from '../../rules/inode_edits.js';
import type { Runtime } from '../../runtime/ports.js';
import type { TargetStore, Tx } from '../../storage/api.js';
import type { OpenTable } from '../export/open_table.js';

const log = logger('server');

/**
 * Number of inodes that one change destroys. Nothing else runs meanwhile, and the copies of the pages that the change
 * touches must fit a full meta device.
 */
export const DESTROYED_AT_ONCE = 16;

/** The parts of a target that decide whether an inode without a name lives on. */
export interface TargetInodes {
  readonly runtime: Runtime;
  readonly store: TargetStore;
  readonly opens: OpenTable;
  /** See holds.ts. */
  readonly holds: {
    asks(fid: Fid): boolean;
    isHeld(fid: Fid): boolean;
    destroyed(fid: Fid): void;
  };
  readonly recovering: boolean;
  readonly life: Lifetime;
}

/** Call it inside a change that takes the last name away; the change must carry out the result. */
export function fateOfNameless(target: TargetInodes, fid: Fid): Fate {
  // While clients recover, a client that has the inode open may still have to say so.
  if (target.recovering || target.opens.count(fid) > 0 || target.holds.asks(fid)) return 'orphan';
  target.holds.destroyed(fid);
  return 'destroyed';
}

/**
 * @param unused inodes that nobody has open any more. @returns those to destroy: they have no name, and no kernel
 *   refers to them. None while clients recover, because nobody can know it then.
 */
export function deadAmong(target: TargetInodes, unused: readonly Fid[]): Fid[] {
  if (target.recovering) return [];
  return unused.filter(
    (fid) => target.store.inode(fid)?.nlink === 0 && !target.holds.isHeld(fid) && !target.holds.asks(fid),
  );
}

/** @param released inodes that no kernel refers to any more. @returns those to destroy. */
export function deadOfReleased(target: TargetInodes, released: readonly Fid[]): Fid[] {
  if (target.recovering) return [];
  return released.filter((fid) => target.store.inode(fid)?.nlink === 0 && target.opens.count(fid) === 0);
}

export function destroyAll(target: TargetInodes, tx: Tx, dead: readonly Fid[]): void {
  for (const fid of dead) {
    tx.removeOrphan(fid);
    tx.destroyInode(fid);
    target.holds.destroyed(fid);
  }
}

/** After recovery: destroys every orphan that nobody opened again, unless a kernel refers to it. */
export function sweepOrphans(target: TargetInodes): void {
  void destroyInSteps(target, target.store.orphans(), (unused) => deadAmong(target, unused));
}

/**
 * Works between other events; on a nearly full meta device each step waits for the commits of the steps before it.
 * Resolves when it is done. If the target fails before, its next instance destroys the rest.
 * @param judge selects, of the inodes that nobody has open, those to destroy; without it, all of them.
 */
export async function destroyInSteps(
  target: TargetInodes,
  backlog: readonly Fid[],
  judge: (unused: readonly Fid[]) => readonly Fid[] = (unused) => unused,
): Promise<void> {
  try {
    for (let at = 0; at < backlog.length; at += DESTROYED_AT_ONCE) {
      if (at > 0) await new Promise<void>((resolve) => target.runtime.timers.soon(resolve));
      for (let wait = target.store.room(); wait !== undefined; wait = target.store.room()) await wait;
      if (target.life.isOver) return;
      const step = backlog.slice(at, at + DESTROYED_AT_ONCE);
      const batch = judge(step.filter((fid) => target.opens.count(fid) === 0));
      if (batch.length > 0) target.store.execute((tx) => destroyAll(target, tx, batch), { reserve: 'own' });
    }
  } catch (error) {
    if (!(error instanceof FsError)) throw error;
    log('destroying orphans stopped: %O', error);
  }
}
