/**
 * What a client does with its state when a server instance changes or throws it out: open replay, lock replay, and the
 * end of everything in an eviction. The order of the steps is the import's (import_state.ts).
 */

import { FsError } from '../base/errno.js';
import type { Fid } from '../base/ids.js';
import { logger } from '../base/log.js';
import { FLAG_RECOVERY } from '../wire/header.js';
import { Enqueue, type FlockRangeMessage } from '../wire/lock.js';
import { RecoveryDone, ReplayOpens } from '../wire/session.js';
import type { Core } from './core.js';
import type { Target } from './targets.js';
import type { WriteBack } from './write_back.js';

const log = logger('client:recovery');

const REPLAY_BATCH = 5000;
const RECOVERY_CALL = { flags: FLAG_RECOVERY, connectionOnly: true } as const;

/** Something that this client would have to send again besides opens and application locks. */
export function hasMoreThanOpens(core: Core, target: Target): boolean {
  return target.inFlight('operation') + target.inFlight('data') > 0 || core.dirtyBytes(target) > 0;
}

/** Another instance serves. Cache locks that were not given back are void: what they covered is forgotten. */
export function forgetLocks(core: Core, target: Target): void {
  target.forgetSession();
  target.gate.setDrain('no');
  dropCaches(core, target);
  // Not awaited: the kernel may have to wait for requests that are parked until recovery is over.
  target.locks.forgetAll().catch((error: unknown) => log('%O', error));
}

/** Every handle in the table, of unlinked files and directories too. A lost one answers EIO from now on. */
export async function replayOpens(core: Core, target: Target): Promise<void> {
  const handles = core.handles.ofTarget(target.index);
  const batches: Promise<void>[] = [];
  for (let at = 0; at < handles.length; at += REPLAY_BATCH) {
    const opens = handles.slice(at, at + REPLAY_BATCH).map(({ fid, fh, flags }) => ({ fid, fh, flags }));
    batches.push(
      target.call('session', ReplayOpens, { opens }, RECOVERY_CALL).then(({ reply }) => {
        for (const fh of reply.lost) {
          const handle = core.handles.peek(fh);
          if (handle === undefined) continue;
          log('handle %d on inode %d is lost', fh, handle.fid);
          handle.dead = new FsError('EIO', 'the file was lost while the server was away');
        }
      }),
    );
  }
  await Promise.all(batches);
  log('replayed %d opens', handles.length);
}

/** Granted locks first, in the order they were granted, then those that wait, in theirs. */
export async function replayLocks(target: Target): Promise<void> {
  const granted = [...target.appLocks.granted()].sort((a, b) => a.sequence - b.sequence);
  const { appLocks } = target;
  const waiting = appLocks.replayWaiting();
  const replays = granted.map(({ fid, range, sequence }) =>
    target
      .call('session', Enqueue, replayOf(fid, range, sequence, false), RECOVERY_CALL)
      .then(() => undefined)
      .catch((error: unknown) => {
        if (isLostConnection(error)) throw error;
        log('lock of %s on %d is lost: %s', range.owner, fid, error);
        target.appLocks.release(fid, range);
      }),
  );
  for (const lock of waiting) {
    replays.push(
      target
        .call('session', Enqueue, replayOf(lock.fid, lock.range, lock.sequence, true), {
          ...RECOVERY_CALL,
          apply: ({ reply }) => {
            appLocks.replayAnswered(lock);
            // Interrupted meanwhile: nobody waits for it.
            if (target.appLocks.stopWaiting(lock.handle) === undefined) {
              target.cancel([reply.handle]);
              return;
            }
            lock.handle = reply.handle;
            if (reply.granted) {
              target.appLocks.grant(lock.fid, lock.range, lock.sequence);
              lock.granted();
            } else {
              target.appLocks.wait(lock);
            }
          },
        })
        .then(() => undefined)
        .catch((error: unknown) => {
          if (isLostConnection(error)) throw error;
          appLocks.replayAnswered(lock);
          target.appLocks.stopWaiting(lock.handle);
          lock.failed(error instanceof FsError ? error : new FsError('EIO'));
        }),
    );
  }
  await Promise.all(replays);
  log('replayed %d locks, %d of them waiting', granted.length + waiting.length, waiting.length);
}

export async function sayRecovered(target: Target): Promise<void> {
  await target.call('session', RecoveryDone, {}, RECOVERY_CALL);
}

/**
 * Everything that the target held for this client is void. Handles answer EIO from now on, calls in flight fail, dirty
 * pages are lost and reported once by each handle that may have written them. The caller connects again as new.
 */
export function dropEverything(core: Core, target: Target, writeBack: WriteBack, reason: string): void {
  const dirty = core.dirtyBytes(target);
  log('evicted: %s; %d dirty bytes lost', reason, dirty);
  core.options.onState?.(`evicted: ${reason}`);
  const error = new FsError('EIO', `this client was evicted: ${reason}`);
  const dead = new Set(core.handles.ofTarget(target.index));
  for (const handle of dead) {
    handle.dead = error;
    if ((core.files.get(handle.fid)?.unwrittenBytes ?? 0) > 0) {
      core.handles.writeFailed(handle.fid, error);
    }
  }
  target.forgetSession();
  target.grantBytes = 0;
  target.lastStatfs = undefined;
  target.gate.setDrain('no');
  target.requester.failAll(error);
  target.gate.rejectTagged((tag) => dead.has(tag as never), error);
  target.appLocks.clear(error);
  for (const file of core.filesOf(target)) {
    core.dropPages(target, file);
    writeBack.dropped(file);
  }
  dropCaches(core, target);
  target.grantBytes = 0;
  // Not awaited: new operations need not wait for the kernel to forget old ones.
  target.locks.forgetAll().catch((cause: unknown) => log('%O', cause));
}

/** Attributes, names and clean pages: true only under locks that are gone. */
function dropCaches(core: Core, target: Target): void {
  core.names.clear();
  core.attrs.clear();
  for (const file of core.filesOf(target)) {
    file.sizeKnown = false;
    if (file.isClean) file.pages.dropAll();
  }
}

function replayOf(fid: Fid, range: FlockRangeMessage, sequence: number, wait: boolean) {
  return { type: 'flock', fid, mode: range.exclusive ? 'EX' : 'PR', flock: range, wait, sequence } as const;
}

function isLostConnection(error: unknown): boolean {
  return error instanceof FsError && error.code === 'ENOTCONN';
}
