/**
 * The target has evicted this client: all that the target held for it is void, and it begins again as a new client.
 *
 * No caller waits for ever, and nothing is lost silently:
 * - handles answer EIO until they are closed; each handle whose file lost data reports it once, by fsync or close;
 * - calls under way fail with EIO, except those that only read names and attributes, and those that use no handle and
 *   were not sent: the new session answers them;
 * - application locks are gone, each with a line in the log, and calls that wait for one fail;
 * - the client does not write pages that a mapping dirtied over what others have written since (operations/data.ts).
 */

import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import { Batch } from '../../wire/batch.js';
import { Write } from '../../wire/data.js';
import type { ClientContext } from '../cache/context.js';
import type { WriteBack } from '../io/write_back.js';
import type { TargetSession } from '../session/target_session.js';
import { dropCaches, sayLockLost } from './replay.js';

const log = logger('client:eviction');

/** The caller connects again as new. */
export function dropEverything(
  context: ClientContext,
  target: TargetSession,
  writeBack: WriteBack,
  reason: string,
): void {
  const lostBytes = context.dirtyBytes(target);
  const uncommitted = target.replays.operations + target.changes.size;
  log('evicted: %s; %d dirty bytes lost, %d operations uncommitted', reason, lostBytes, uncommitted);
  context.options.onState?.(
    `evicted: ${reason}; ${lostBytes} bytes not written are lost, ${uncommitted} operations may be lost`,
    'evicted',
  );
  const error = new FsError('EIO', `this client was evicted: ${reason}`);
  const dead = new Set(context.handles.ofTarget(target.index));
  for (const handle of dead) handle.gone = true;
  for (const fid of unsafe(context, target)) context.handles.writeFailed(fid, error);
  target.evicted(error, { atMs: context.runtime.clock.nowMs(), reason, lostBytes, uncommitted });
  target.gate.setDrain('no');
  target.gate.rejectTagged((tag) => dead.has(tag as never), error);
  for (const lock of target.appLocks.granted()) sayLockLost(context, lock);
  target.appLocks.clear(error);
  for (const file of context.filesOf(target)) {
    context.dropPages(target, file);
    writeBack.dropped(file);
  }
  dropCaches(context, target);
  target.grantBytes = 0;
  // Not awaited: new operations need not wait until the kernel has forgotten what the old locks covered.
  target.locks.forgetAll().catch((cause: unknown) => log('%O', cause));
}

/**
 * Files and directories whose changes may be lost. Either the target does not have them, or it answered them and may not have
 * made them durable: they are gone if it crashes.
 */
function unsafe(context: ClientContext, target: TargetSession): Set<Fid> {
  const fids = new Set<Fid>();
  for (const file of context.filesOf(target)) if (file.unwrittenBytes > 0) fids.add(file.fid);
  for (const { fid } of target.replays.requestsOf(Write)) fids.add(fid);
  for (const { operations } of target.replays.requestsOf(Batch)) {
    for (const { create, content } of operations) {
      if (create !== undefined) fids.add(create.fid);
      if (content !== undefined) fids.add(content.fid);
    }
  }
  for (const fid of target.changes.touched()) fids.add(fid);
  return fids;
}
