/** Unlinked inodes: orphans while somebody has them open, destroyed with the last handle. */

import type { Fid } from '../base/ids.js';
import type { Inode, Tx } from '../storage/api.js';
import type { Target } from './target.js';

/** Of a backlog at once: each destruction is short, but nobody else runs meanwhile. */
const BATCH = 256;

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

/** After recovery: whatever nobody opened again. Works in batches between other events. */
export function sweepOrphans(target: Target): void {
  const backlog = target.store.orphans();
  const step = (): void => {
    if (target.stopped) return;
    const batch = backlog.splice(0, BATCH).filter((fid) => target.opens.count(fid) === 0);
    if (batch.length > 0) target.store.execute((tx) => destroyAll(tx, batch), { reserve: true });
    if (backlog.length > 0) target.runtime.timers.soon(step);
  };
  step();
}
