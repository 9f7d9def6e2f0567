/**
 * What a client does with its state when another instance of the target takes over: replay of operations, opens and
 * locks. import_state.ts has the order of the steps; eviction.ts has what an eviction does.
 *
 * A crash of the server costs no cache. Pages, attributes, names and dirty data stay, because the new instance grants the
 * locks over them again. Requests that were not answered wait in the requester until recovery is over.
 */

import { assert } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import type { Fid, LockHandle } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import type { CachedLock } from '../../dlm/api.js';
import type { CallOptions } from '../../rpc/api.js';
import { FLAG_RECOVERY } from '../../wire/header.js';
import { Enqueue, type FlockRangeMessage } from '../../wire/lock.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import { RecoveryDone, Replayed, ReplayLocks, ReplayOpens, ReplayTickets } from '../../wire/session.js';
import type { ClientContext } from '../cache/context.js';
import type { Handle } from '../cache/open_files.js';
import type { WriteBack } from '../io/write_back.js';
import type { GrantedLock, WaitingLock } from '../session/app_lock_table.js';
import type { TargetSession } from '../session/target_session.js';

const log = logger('client:recovery');

const REPLAY_BATCH = 5000;
/** Limit on replays sent and not answered. The target executes them one at a time, in one order with those of other clients. */
const REPLAYS_IN_FLIGHT = 512;
const REPLAY_BYTES_IN_FLIGHT = 8 << 20;
const RECOVERY_CALL = { flags: FLAG_RECOVERY, connectionOnly: true } as const;

/**
 * The client has something that another version of the server could not take over: a request whose effect the client does not
 * know, or data that is not on the server yet. Answered operations do not count: a server that stopped in order has committed
 * them (and lastTransno in CONNECT tells how far this client's answers go).
 */
export function hasMoreThanOpens(context: ClientContext, target: TargetSession): boolean {
  return (
    target.outgoing.inFlight('operation') + target.outgoing.inFlight('data') + target.changes.size > 0 ||
    context.dirtyBytes(target) > 0
  );
}

/** Another instance serves: what the client still had to say to the last one is void, and a drain is over. */
export function newInstance(context: ClientContext, target: TargetSession, replays: boolean): void {
  target.newInstance();
  // REPLAY_OPENS tells of all handles.
  for (const handle of replayedHandles(context, target)) handle.known = 'yes';
  target.gate.setDrain('no');
  if (replays) {
    target.locks.newInstance();
    return;
  }
  // The new instance takes no locks over, so the client forgets what its locks covered. The last one has committed everything.
  target.locksAreVoid();
  target.replays.clear();
  dropCaches(context, target);
  // Not awaited: the kernel may have to wait for requests that are parked until recovery is over.
  target.locks.forgetAll().catch((error: unknown) => log('%O', error));
}

/** Grant bytes that were paid for data that is dirty or under way: the target has promised space for that data. */
export function grantsInUse(context: ClientContext, target: TargetSession): number {
  let bytes = 0;
  for (const file of context.filesOf(target)) if (!file.isClean) bytes += file.pages.paidBytes;
  return bytes;
}

/** The new instance has promised space. Part of it pays for data that is dirty already. */
export function payAgain(context: ClientContext, target: TargetSession): void {
  target.grantBytes = Math.max(0, target.grantBytes - grantsInUse(context, target));
}

/** Proves what the replays that follow need. */
async function showTickets(target: TargetSession): Promise<void> {
  const tickets = target.tickets.all();
  const batches: Promise<unknown>[] = [];
  for (let at = 0; at < tickets.length; at += REPLAY_BATCH) {
    const batch = { tickets: tickets.slice(at, at + REPLAY_BATCH) };
    batches.push(target.call('session', ReplayTickets, batch, RECOVERY_CALL));
  }
  await Promise.all(batches);
}

/** Replays every operation that was answered and is not committed, in the order of execution. */
export async function replay(target: TargetSession): Promise<void> {
  if (target.squashesRoot) await showTickets(target);
  if (!target.replaysUsed) return;
  const { replays, requester } = target;
  const sent: { readonly answered: Promise<number>; readonly bytes: number }[] = [];
  let bytesInFlight = 0;
  const oldest = async (): Promise<void> => {
    const first = sent.shift();
    if (first === undefined) return;
    bytesInFlight -= first.bytes;
    await first.answered;
  };
  let count = 0;
  for (const request of replays.requests()) {
    const bytes = request.body.length + bulkBytes(request.bulk);
    while (
      sent.length >= REPLAYS_IN_FLIGHT ||
      (sent.length > 0 && bytesInFlight + bytes > REPLAY_BYTES_IN_FLIGHT)
    ) {
      await oldest();
    }
    const answered = requester.replay(request);
    // All replays fail together when the connection is lost, and oldest() awaits only one of them.
    answered.catch(() => undefined);
    sent.push({ answered, bytes });
    bytesInFlight += bytes;
    count += 1;
  }
  while (sent.length > 0) await oldest();
  await target.call('session', Replayed, {}, RECOVERY_CALL);
  log('replayed %d operations', count);
}

function bulkBytes(bulk: readonly Uint8Array[] | undefined): number {
  let bytes = 0;
  if (bulk !== undefined) for (const chunk of bulk) bytes += chunk.length;
  return bytes;
}

/** Without those on inodes that the target may not have yet: they are covered, and stay so until the target has the inode. */
function replayedHandles(context: ClientContext, target: TargetSession): Handle[] {
  return context.handles.ofTarget(target.index).filter(({ fid }) => !target.changes.isBorn(fid));
}

/** Replays every handle in the table, also of unlinked files and of directories. A lost handle answers EIO from now on. */
export async function replayOpens(context: ClientContext, target: TargetSession): Promise<void> {
  const handles = replayedHandles(context, target);
  const batches: Promise<void>[] = [];
  for (let at = 0; at < handles.length; at += REPLAY_BATCH) {
    const opens = handles.slice(at, at + REPLAY_BATCH).map(({ fid, fh, flags }) => ({ fid, fh, flags }));
    batches.push(
      target.call('session', ReplayOpens, { opens }, RECOVERY_CALL).then(({ reply }) => {
        context.handles.lost(reply.lost);
      }),
    );
  }
  await Promise.all(batches);
  log('replayed %d opens', handles.length);
}

/** Replays cache locks and application locks. Granted application locks go first, in their order, then the waiting ones. */
export async function replayLocks(
  context: ClientContext,
  target: TargetSession,
  writeBack: WriteBack,
): Promise<void> {
  const granted = [...target.appLocks.granted()].sort((a, b) => a.sequence - b.sequence);
  const waiting = target.appLocks.replayWaiting();
  await Promise.all([
    replayCacheLocks(context, target, writeBack),
    ...granted.map((lock) => replayGranted(context, target, lock)),
    ...waiting.map((lock) => replayWaiting(target, lock)),
  ]);
  log('replayed %d application locks, %d of them waiting', granted.length + waiting.length, waiting.length);
}

/** Includes locks that are being given back: what they cover may not be flushed yet. They go back when recovery is over. */
async function replayCacheLocks(
  context: ClientContext,
  target: TargetSession,
  writeBack: WriteBack,
): Promise<void> {
  if (!target.replaysUsed) return;
  const locks = target.locks.toReplay();
  let refused = 0;
  const batches: Promise<unknown>[] = [];
  for (let at = 0; at < locks.length; at += REPLAY_BATCH) {
    const batch = locks.slice(at, at + REPLAY_BATCH);
    const asked = target.call(
      'session',
      ReplayLocks,
      { locks: batch.map(replayedLock) },
      {
        ...RECOVERY_CALL,
        apply: ({ reply }) => {
          if (reply.handles.length !== batch.length)
            throw new FsError('EPROTO', 'not a handle for each lock');
          for (const [index, lock] of batch.entries()) {
            const handle = reply.handles[index] ?? 0;
            if (handle !== 0) {
              target.locks.granted(lock, handle as LockHandle);
              continue;
            }
            refused += 1;
            lockRefused(context, target, writeBack, lock);
          }
        },
      },
    );
    batches.push(asked);
  }
  await Promise.all(batches);
  log('replayed %d cache locks, %d of them refused', locks.length, refused);
}

function replayedLock({ fid, type, mode, bits }: CachedLock) {
  // The LockClient keeps no others.
  assert(fid !== 0 && (type === 'inode' || type === 'data'), 'not a cache lock');
  assert(mode === 'PR' || mode === 'PW' || mode === 'EX', 'a cache lock is PR, PW or EX');
  return { fid, type, mode, bits };
}

/** Another client has the lock, so what it covers is not true any more. Dirty data must not go over that client's data. */
export function lockRefused(
  context: ClientContext,
  target: TargetSession,
  writeBack: WriteBack,
  lock: CachedLock,
): void {
  log('%s %s lock on %d was not granted again', lock.type, lock.mode, lock.fid);
  const file = lock.type === 'data' && lock.fid !== 0 ? context.files.get(lock.fid) : undefined;
  if (file !== undefined && lock.mode === 'PW' && !file.isClean) {
    const error = new FsError('EIO', 'the lock under which this was written is lost');
    context.writeFailed(file, error);
    const lost = context.dropPages(target, file);
    target.losses?.push({ bytes: lost, operations: 0, why: error.message });
    writeBack.dropped(file);
    context.options.onState?.(
      `${lost} bytes written to inode ${file.fid} are lost: its lock was not granted again`,
      'data-lost',
    );
  }
  target.locks.forget(lock);
}

async function replayGranted(
  context: ClientContext,
  target: TargetSession,
  lock: { readonly fid: Fid } & GrantedLock,
): Promise<void> {
  const { fid, range, sequence, fh } = lock;
  try {
    await target.call('session', Enqueue, replayOf(target, fid, range, sequence, false), RECOVERY_CALL);
  } catch (error) {
    if (isLostConnection(error)) throw error;
    log('lock of %s on %d is lost: %s', range.owner, fid, error);
    target.appLocks.release(fid, range);
    target.lostAppLocks += 1;
    const handle = context.handles.peek(fh);
    if (handle === undefined) return;
    // A program that believes it holds the lock must not go on reading and writing.
    handle.life.end(new FsError('EIO', 'a lock that was taken through this descriptor is lost'));
    sayLockLost(context, lock);
  }
}

export function sayLockLost(
  context: ClientContext,
  { fid, range }: { readonly fid: Fid } & GrantedLock,
): void {
  const text = `a ${range.kind} lock of process ${range.pid} on inode ${fid} is lost`;
  context.options.onState?.(text, 'lock-lost');
}

function replayWaiting(target: TargetSession, lock: WaitingLock): Promise<void> {
  const request = replayOf(target, lock.fid, lock.range, lock.sequence, true);
  return enqueueWaiting(target, lock, 'session', request, RECOVERY_CALL);
}

/** Asks for a lock that waits, at the end of the line. The caller has taken the old place back. */
export function enqueueAgain(target: TargetSession, lock: WaitingLock): Promise<void> {
  const request = { ...replayOf(target, lock.fid, lock.range, lock.sequence, true), sequence: undefined };
  return enqueueWaiting(target, lock, 'closing', request, {});
}

async function enqueueWaiting(
  target: TargetSession,
  lock: WaitingLock,
  kind: 'session' | 'closing',
  request: RequestOf<typeof Enqueue>,
  options: Omit<CallOptions<ReplyOf<typeof Enqueue>>, 'apply'>,
): Promise<void> {
  const { appLocks } = target;
  try {
    await target.call(kind, Enqueue, request, {
      ...options,
      apply: ({ reply }) => {
        appLocks.replayAnswered(lock);
        // The caller was interrupted meanwhile: nobody waits for the lock.
        if (appLocks.stopWaiting(lock.handle) === undefined) {
          target.outgoing.cancel([reply.handle]);
          return;
        }
        lock.handle = reply.handle;
        if (reply.granted) {
          appLocks.grant(lock.fid, lock.range, lock.sequence, lock.fh);
          lock.granted();
        } else {
          appLocks.wait(lock);
        }
      },
    });
  } catch (error) {
    if (isLostConnection(error)) throw error;
    appLocks.replayAnswered(lock);
    appLocks.stopWaiting(lock.handle);
    lock.failed(error instanceof FsError ? error : new FsError('EIO'));
  }
}

export async function sayRecovered(target: TargetSession): Promise<void> {
  await target.call('session', RecoveryDone, {}, RECOVERY_CALL);
}

/** Drops attributes, names and clean pages: they were true only under locks that are gone. */
export function dropCaches(context: ClientContext, target: TargetSession): void {
  context.names.clear();
  context.attrs.clear();
  for (const file of context.filesOf(target)) {
    file.sizeKnown = false;
    if (file.isClean) file.pages.dropAll();
  }
}

function replayOf(
  target: TargetSession,
  fid: Fid,
  range: FlockRangeMessage,
  sequence: number,
  wait: boolean,
) {
  const flock = target.lockRange(range);
  return { type: 'flock', fid, mode: range.exclusive ? 'EX' : 'PR', flock, wait, sequence } as const;
}

function isLostConnection(error: unknown): boolean {
  return error instanceof FsError && error.code === 'ENOTCONN';
}
