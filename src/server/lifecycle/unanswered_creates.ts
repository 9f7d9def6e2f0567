/**
 * Files that a client made and opened without getting the answer. The handle is not in the client's table, so the
 * client does not replay the open; it will send the CREATE again, after recovery. If the file has no name (O_TMPFILE,
 * or another client has unlinked it since), only a handle keeps the server from destroying it when recovery ends. So
 * the server keeps a handle for the client until the client has its answer.
 */

import { O_PATH } from '../../base/attr.js';
import type { Fh, Fid, Xid } from '../../base/ids.js';
import { Create } from '../../wire/meta.js';
import type { ClientExport } from '../export/export.js';
import { deadAmong, destroyInSteps } from '../target/orphans.js';
import type { ServedTarget } from '../target/served_target.js';

/** A handle that no client uses: clients' handles count from 1. */
function handleOf(xid: Xid): Fh {
  return -xid as Fh;
}

/** Call it when the recovery window ends, before orphans are destroyed. */
export function keepUnanswered(target: ServedTarget, client: ClientExport): void {
  for (const { xid, opcode, fid } of client.durableAnswers.inheritedReplies()) {
    if (opcode !== Create.opcode || fid === 0 || target.store.inode(fid)?.nlink !== 0) continue;
    // It keeps the file, and lets nobody read it.
    target.opens.addAgain(client, handleOf(xid), fid, O_PATH);
    client.provisional.add(xid);
  }
}

/** Every reply to an xid below this has arrived at the client. */
export function dropAnswered(target: ServedTarget, client: ClientExport, below: number): void {
  const unused: Fid[] = [];
  for (const xid of client.provisional) {
    if (xid >= below) continue;
    client.provisional.delete(xid);
    const fid = target.opens.remove(client, handleOf(xid));
    if (fid !== undefined) unused.push(fid);
  }
  const dead = deadAmong(target, unused);
  void destroyInSteps(target, dead);
}
