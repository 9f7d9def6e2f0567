/**
 * What must happen before a cache lock goes back to the target: one function for each kind. docs/LOCKING.md has the
 * rules; this file has the order.
 *
 * The hard part is the kernel's pages. Dropping them waits for folios that are locked under an unanswered READ or WRITE,
 * so a request of the kernel must never wait for a lock while an invalidation waits for that request:
 * - While the pages are dropped the first time ('serving'), the kernel's requests are still served under the lock.
 * - Then ('holding') new ones wait for the next lock. What was served meanwhile may have stayed in the kernel and is
 *   dropped once more, leaving out ranges under requests that are held back: a READ brings new pages under the new
 *   lock, and what a held WRITE leaves in the kernel is dropped after its answer (FileState.held, operations/data.ts).
 * - A request that is caught in between after all (it came while the invalidation was already at its folios) is served
 *   when the invalidation has not come through for a while.
 *
 * A release goes on when the session ends: what the kernel has under the lock must be dropped all the same.
 */

import type { Fid } from '../../base/ids.js';
import { IntervalSet, type Range } from '../../base/interval_set.js';
import type { MaybePromise } from '../../base/maybe_promise.js';
import { Deferred } from '../../base/wait.js';
import type { CachedLock } from '../../dlm/api.js';
import { BIT_ATTR, BIT_UPDATE } from '../../wire/lock.js';
import type { ClientContext } from '../cache/context.js';
import type { FileState } from '../cache/file_state.js';
import { ACROSS_SESSIONS, type TargetSession } from '../session/target_session.js';
import type { WriteBack } from './write_back.js';

/** An invalidation usually takes microseconds. One that takes this long waits for a request that we hold back. */
const STUCK_MS = 5;
/** The kernel drops, and waits for, whole pages. */
const PAGE_BYTES = 4096;
const FILE_END = Number.MAX_SAFE_INTEGER;

/** The LockClient's release callback. */
export function releaseLock(
  context: ClientContext,
  writeBack: WriteBack,
  target: TargetSession,
  lock: CachedLock,
): MaybePromise<void> {
  if (lock.fid === 0) return undefined;
  if (lock.type === 'inode') return releaseInode(context, target, lock.fid, lock.bits);
  const file = context.files.of(lock.fid);
  return handBackAtOnce(context, target, file, lock)
    ? undefined
    : releaseData(context, writeBack, target, file, lock);
}

/** Attributes, and names under UPDATE, are not believed from this moment on: match() does not find the lock. */
function releaseInode(
  context: ClientContext,
  target: TargetSession,
  fid: Fid,
  bits: number,
): MaybePromise<void> {
  let names: Promise<void> | undefined;
  if ((bits & BIT_UPDATE) !== 0 && target.locks.match('inode', fid, 'PR', BIT_UPDATE) === undefined) {
    context.names.drop(fid);
    names = context.kernel.dropNames();
  }
  const attrBits = bits & (BIT_ATTR | BIT_UPDATE);
  if (target.locks.match('inode', fid, 'PR', attrBits) !== undefined) return names;
  context.attrs.delete(fid);
  const attrs = context.kernel.dropAttrs(fid);
  return names === undefined ? attrs : names.then(() => attrs);
}

/**
 * A file that nobody uses at this moment, with nothing dirty, and of which the kernel has nothing: a drain has thousands
 * of them, and none costs a promise.
 */
function handBackAtOnce(
  context: ClientContext,
  target: TargetSession,
  file: FileState,
  lock: CachedLock,
): boolean {
  const { fid } = file;
  if (file.handingBack !== 'no' || file.held.length > 0 || !file.isClean) return false;
  if (target.locks.unused(lock) !== undefined || context.kernel.keeps(fid)) return false;
  if (target.locks.isLast(lock)) {
    context.dropPages(target, file);
    file.sizeKnown = false;
  }
  context.kernel.dropAttrs(fid);
  return true;
}

async function releaseData(
  context: ClientContext,
  writeBack: WriteBack,
  target: TargetSession,
  file: FileState,
  lock: CachedLock,
): Promise<void> {
  for (;;) {
    // One after the other: PR and PW may be called back together.
    while (file.handingBack !== 'no') await ACROSS_SESSIONS.wait(file.handedBack);
    // Another lock, not called back, covers the same. It may be called back before those who use this one are done.
    if (target.locks.match('data', file.fid, lock.mode, 0) === undefined) break;
    const unused = target.locks.unused(lock);
    if (unused === undefined) return;
    await ACROSS_SESSIONS.wait(unused);
  }
  const done = new Deferred<void>();
  file.handedBack = done.promise;
  try {
    await ACROSS_SESSIONS.wait(handBack(context, writeBack, target, file, lock));
  } finally {
    file.handingBack = 'no';
    done.resolve();
  }
}

async function handBack(
  context: ClientContext,
  writeBack: WriteBack,
  target: TargetSession,
  file: FileState,
  lock: CachedLock,
): Promise<void> {
  const { cover } = target;
  file.handingBack = 'serving';
  file.delivered = [];
  // First, so that few dirty mapped pages are left: the kernel brings those one at a time.
  await ACROSS_SESSIONS.wait(writeBack.flush(target, file));
  const ranges = file.held.length === 0 ? undefined : without([wholeFile], file);
  await ACROSS_SESSIONS.wait(dropPages(context, target, file, ranges));
  file.handingBack = 'holding';
  await ACROSS_SESSIONS.wait(target.locks.unused(lock));
  for (;;) {
    const again = without(file.delivered, file);
    file.delivered = [];
    if (again.length === 0 || cover.isOver) break;
    await ACROSS_SESSIONS.wait(dropPages(context, target, file, again));
    await ACROSS_SESSIONS.wait(target.locks.unused(lock));
  }
  // What the invalidation brought back.
  await ACROSS_SESSIONS.wait(writeBack.flush(target, file));
  // Another lock keeps what is here, and if it was called back too, its own release drops it. It may be in use: a read
  // under it that found the size forgotten would have to ask the target, and could wait there for whoever wants the lock.
  if (target.locks.isLast(lock)) {
    context.dropPages(target, file);
    file.sizeKnown = false;
  }
  await ACROSS_SESSIONS.wait(context.kernel.dropAttrs(file.fid));
  // An answer that came meanwhile told the size under this lock. It must not be believed under the next one, before which
  // others write: an append would go where the end was.
  if (target.locks.isLast(lock)) file.sizeKnown = false;
}

const wholeFile: Range = { start: 0, end: FILE_END };

/** The ranges without those under requests that are held back. */
function without(ranges: readonly Range[], file: FileState): Range[] {
  const left = new IntervalSet();
  for (const { start, end } of ranges) left.add(start, end);
  for (const held of file.held) {
    // No folio of it is locked, and it will bring no page: what is cached there is old for everybody else.
    if (!held.folios) continue;
    const start = Math.floor(held.start / PAGE_BYTES) * PAGE_BYTES;
    const end = Math.ceil(held.end / PAGE_BYTES) * PAGE_BYTES;
    if (left.remove(start, end) > 0) held.crossed = true;
  }
  return [...left];
}

/**
 * Drops the kernel's pages, and serves held requests that turn out to be in the way. Pages that a mapping dirtied under
 * PR, just before a truncate began to wait for PW, cannot come before the truncate is done: they are dropped after it.
 */
async function dropPages(
  context: ClientContext,
  target: TargetSession,
  file: FileState,
  ranges: readonly Range[] | undefined,
): Promise<void> {
  if (ranges?.length === 0) return;
  const dropped = context.kernel.dropPages(file.fid, ranges);
  if (dropped === undefined) return;
  const { timers } = context.runtime;
  const passed = new Deferred<void>();
  const unstick = (): void => {
    const lock = target.locks.find('data', file.fid, 'PW', 0) ?? target.locks.find('data', file.fid, 'PR', 0);
    if (lock !== undefined) for (const held of [...file.held]) held.serve(lock);
    if (file.waitsToCut) {
      file.cutCrossed = true;
      passed.resolve();
    }
    timer = timers.after(STUCK_MS, unstick);
  };
  let timer = timers.after(STUCK_MS, unstick);
  try {
    await ACROSS_SESSIONS.wait(Promise.race([dropped, passed.promise]));
  } finally {
    timer.cancel();
  }
}
