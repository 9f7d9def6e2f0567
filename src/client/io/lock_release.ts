/**
 * What must happen before a cache lock goes back to the target: one function for each kind. docs/LOCKING.md has the
 * rules; this file has the order.
 *
 * The hard part is the kernel's pages. Dropping them waits for folios that are locked under an unanswered READ or WRITE,
 * so a request of the kernel must never wait for a lock while an invalidation waits for that request:
 * - While the client drops the pages the first time ('serving'), it still serves the kernel's requests under the lock.
 * - Then ('holding') new requests wait for the next lock. The kernel may have kept what the client served meanwhile, so the
 *   client drops that once more. It leaves out ranges under requests that it holds back: a READ brings new pages under the new
 *   lock, and what a held WRITE leaves in the kernel is dropped after its answer (FileState.held, io_lock.ts).
 * - A request may be caught in between all the same (it came while the invalidation was already at its folios). The client
 *   serves it when the invalidation has not ended for a while.
 *
 * A release goes on after the session has ended: the client must drop what the kernel has under the lock all the same.
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

/** From this moment on the client does not believe attributes, and names under UPDATE: match() does not find the lock. */
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
 * Gives the lock back without a promise if nobody uses it at this moment, nothing of the file is dirty, and the kernel has
 * nothing of it. A drain has thousands of such files. @returns false for any other file.
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
    // If another lock, not called back, covers the same, this one only waits for its users. Until they are done, the other lock
    // may be called back too.
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
  // Flushes first, so that few dirty mapped pages are left: the kernel brings those one at a time.
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
  // Flushes what the invalidation brought back.
  await ACROSS_SESSIONS.wait(writeBack.flush(target, file));
  // If another lock is left, it keeps what is here, and its own release drops that. The other lock may be in use: if a read
  // under it found the size forgotten, it would have to ask the target, and could wait there for a client that wants the lock.
  if (target.locks.isLast(lock)) {
    context.dropPages(target, file);
    file.sizeKnown = false;
  }
  await ACROSS_SESSIONS.wait(context.kernel.dropAttrs(file.fid));
  // An answer that came meanwhile told the size under this lock. The client must not believe it under its next lock, before
  // which others write: an append would go where the end was.
  if (target.locks.isLast(lock)) file.sizeKnown = false;
}

const wholeFile: Range = { start: 0, end: FILE_END };

/** The ranges, without the parts under requests that are held back. */
function without(ranges: readonly Range[], file: FileState): Range[] {
  const left = new IntervalSet();
  for (const { start, end } of ranges) left.add(start, end);
  for (const held of file.held) {
    // This request locks no folio and brings no page, so what the kernel has there must go: it is old for all other readers.
    if (!held.folios) continue;
    const start = Math.floor(held.start / PAGE_BYTES) * PAGE_BYTES;
    const end = Math.ceil(held.end / PAGE_BYTES) * PAGE_BYTES;
    if (left.remove(start, end) > 0) held.crossed = true;
  }
  return [...left];
}

/**
 * Drops the kernel's pages, and serves held requests that turn out to be in the way. A mapping may have dirtied pages under PR
 * just before a truncate began to wait for PW. The kernel cannot write them back before the truncate is done, so the client
 * drops them after it.
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
