/**
 * Exact size and times of a file that a client is writing into its cache. The server asks the holder of the PW data lock
 * (GLIMPSE); the holder keeps its lock. If the holder does not answer in time, the server evicts it, as if it had ignored a
 * BAST; then the store has the exact values.
 */

import { blocksOfUnwritten, compareTime, isRegular } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { MaybePromise } from '../../base/maybe_promise.js';
import type { HeldLock } from '../../dlm/api.js';
import { needInode } from '../../rules/checks.js';
import type { Inode } from '../../storage/api.js';
import { Glimpse } from '../../wire/lock.js';
import type { ClientExport } from '../export/export.js';
import { evict } from '../target/eviction.js';
import type { ServedCall } from '../target/served_call.js';
import type { ServedTarget } from '../target/served_target.js';

/** True if another client may have dirty pages of the file: then the store's attributes are not exact. */
export function hasOtherWriter(call: ServedCall, inode: Inode): boolean {
  return isRegular(inode.mode) && call.target.locks.dataWriter(inode.fid, call.client.uuid) !== undefined;
}

/** @throws FsError ESTALE when the inode went away meanwhile. */
export function exactInode(call: ServedCall, inode: Inode): MaybePromise<Inode> {
  if (!isRegular(inode.mode)) return inode;
  const { target } = call;
  const holder = target.locks.dataWriter(inode.fid, call.client.uuid);
  const client = holder === undefined ? undefined : target.exports.get(holder.client);
  if (holder === undefined || client === undefined) return inode;
  return ask(target, client, holder, inode);
}

async function ask(
  target: ServedTarget,
  client: ClientExport,
  holder: HeldLock,
  inode: Inode,
): Promise<Inode> {
  const timer = target.time.after(target.options.lockTimeoutMs, () =>
    evict(target, client, `it did not answer a glimpse within ${target.options.lockTimeoutMs} ms`, 'lock'),
  );
  let exact: Inode | undefined;
  try {
    const answer = client.requester.call(
      Glimpse,
      { handle: holder.handle, fid: inode.fid },
      {
        // Merges in the turn of the reply frame: a WRITE and a CANCEL may follow it in the same turn.
        apply: ({ reply }) => {
          const stored = target.store.inode(inode.fid);
          if (stored === undefined) return;
          const ctime = reply.ctime ?? stored.ctime;
          exact = {
            ...stored,
            sizeBytes: reply.sizeBytes,
            mtime: reply.mtime,
            ctime: compareTime(ctime, stored.ctime) > 0 ? ctime : stored.ctime,
            blocks: Math.max(stored.blocks, blocksOfUnwritten(reply.dirtyBytes ?? 0)),
          };
        },
      },
    );
    await target.runtime.waits.during(() => `answer of ${client.name}`, answer);
  } catch (error) {
    // ENOENT: the holder has just flushed and given the lock back. Evicted: the pages that it had not flushed are lost.
    if (!(error instanceof FsError)) throw error;
  } finally {
    timer.cancel();
  }
  return exact ?? needInode(target.store, inode.fid);
}
