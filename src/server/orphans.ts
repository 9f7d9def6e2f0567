/** Unlinked inodes: orphans while somebody has them open, destroyed with the last handle. */

import type { Fid } from '../base/ids.js';
import { logger } from '../base/log.js';
import type { Inode, Tx } from '../storage/api.js';
import type { Target } from './target.js';

const log = logger('server');

/**
 * Inodes that one change destroys: nobody else runs meanwhile, and the copies of the pages that it touches must fit a full
 * meta device.
 */
export const DESTROYED_AT_ONCE = 16;

/** Inside a change that took the last name away. @returns the inode as it is now, with nlink 0. */
export function withoutNames(target: Target, tx: Tx, inode: Inode): Inode {
  const nameless: Inode = { ...inode, nlink: 0, parent: 0 };
  // Who has it open may still have to say so.
  if (target.recovering || target.opens.count(inode.fid) > 0) {
    tx.putInode(nameless);
    tx.putOrphan(inode.fid);
  } else {
    tx.destroyInode(inode.fid);
  }
  return nameless;
}

/** Of inodes that nobody has open any more, those without a name. While clients recover nobody can say so. */
export function deadAmong(target: Target, unused: readonly Fid[]): Fid[] {
  if (target.recovering) return [];
  return unused.filter((fid) => target.store.inode(fid)?.nlink === 0);
}

export function destroyAll(tx: Tx, dead: readonly Fid[]): void {
  for (const fid of dead) {
    tx.removeOrphan(fid);
    tx.destroyInode(fid);
  }
}

/** After recovery: whatever nobody opened again. */
export function sweepOrphans(target: Target): void {
  destroyInSteps(target, target.store.orphans());
}

/** Works between other events; on a meta device that is nearly full each step waits for the commits of those before it. */
export function destroyInSteps(target: Target, backlog: readonly Fid[]): void {
  const left = [...backlog];
  const step = (): void => {
    if (target.stopped || left.length === 0) return;
    const wait = target.store.room();
    if (wait !== undefined) {
      // When the target fails its next instance destroys what is left.
      wait.then(step).catch((error: unknown) => log('orphans stay: %O', error));
      return;
    }
    const batch = left.splice(0, DESTROYED_AT_ONCE).filter((fid) => target.opens.count(fid) === 0);
    if (batch.length > 0) target.store.execute((tx) => destroyAll(tx, batch), { reserve: 'own' });
    if (left.length > 0) target.runtime.timers.soon(step);
  };
  step();
}
