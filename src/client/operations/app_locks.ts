/**
 * Application locks: flock and fcntl. They live on the target; the client keeps what replay needs (app_lock_table.ts).
 *
 * If a lock must wait, the target answers at once with "not granted", and a CAST tells of the grant later. A lock that waits is
 * not an operation inside the gate: a controlled shutdown does not wait for it, and the client replays it with its sequence
 * number.
 */

import { errnoName, FsError } from '../../base/errno.js';
import type { Fh, Fid, LockHandle } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import type { MaybePromise } from '../../base/maybe_promise.js';
import { interruptible, onAbort } from '../../base/wait.js';
import { Cancel, Enqueue, type FlockRangeMessage, TestFlock, Unflock } from '../../wire/lock.js';
import type { ClientStateMessage } from '../../wire/mount_state.js';
import type { AppLock, AppLockKind, Caller } from '../api.js';
import type { ClientContext } from '../cache/context.js';
import type { WaitingLock } from '../session/app_lock_table.js';
import { ACROSS_SESSIONS, type TargetSession } from '../session/target_session.js';

const log = logger('client:app_locks');

/** A lock whose ENQUEUE was answered "not granted". */
interface Pending {
  readonly lock: WaitingLock;
  readonly granted: Promise<void>;
}

export class LockOperations {
  readonly #context: ClientContext;
  /** Locks that wait for calls which the process before this one had begun; this one begins them anew. */
  #orphans: Pending[] = [];

  constructor(context: ClientContext) {
    this.#context = context;
  }

  testLock(op: Caller, fh: Fh, lock: AppLock): MaybePromise<AppLock | undefined> {
    const { fid, life } = this.#context.handles.live(fh);
    const target = this.#context.targets.of(fid);
    return this.#context.pass(target, op, async () => {
      const request = { fid, flock: this.#rangeOf(target, lock) };
      const { reply } = await life.wait(target.call('operation', TestFlock, request, { signal: op.signal }));
      const { conflict } = reply;
      if (conflict === undefined) return undefined;
      // fcntl(2) shows a conflicting OFD lock as a POSIX lock.
      const kind = conflict.kind === 'ofd' ? 'posix' : conflict.kind;
      return { ...conflict, kind, end: conflict.end };
    });
  }

  setLock(op: Caller, fh: Fh, lock: AppLock, wait: boolean): MaybePromise<void> {
    const handle = this.#context.handles.live(fh);
    const { fid } = handle;
    const target = this.#context.targets.of(fid);
    const orphan = wait ? this.#adopt(fid, fh, lock) : undefined;
    if (orphan !== undefined) return this.#waitForGrant(op, target, orphan);
    const asked = this.#context.pass(
      target,
      op,
      () => {
        handle.life.check();
        return this.#enqueue(op, target, fid, this.#rangeOf(target, lock), wait, fh);
      },
      handle,
    );
    return Promise.resolve(asked).then((pending) =>
      pending === undefined ? undefined : this.#waitForGrant(op, target, pending),
    );
  }

  /** The process before this one had these locks in line. */
  takeOver(target: TargetSession, locks: ClientStateMessage['waiting']): void {
    for (const { fid, range, handle, sequence, fh } of locks)
      this.#orphans.push(waitFor(target, fid, range, handle, sequence, fh));
  }

  /** @returns the lock of this very call, if it is in line already. */
  #adopt(fid: Fid, fh: Fh, { kind, owner, exclusive, start, end }: AppLock): Pending | undefined {
    const found = this.#orphans.find(
      ({ lock: { range, ...lock } }) =>
        lock.fid === fid &&
        lock.fh === fh &&
        range.kind === kind &&
        range.owner === owner &&
        range.exclusive === exclusive &&
        range.start === start &&
        range.end === end,
    );
    if (found !== undefined) this.#orphans = this.#orphans.filter((orphan) => orphan !== found);
    return found;
  }

  /**
   * A server that is there answers at once, and the client must learn what it grants. If the caller is interrupted before the
   * answer, it stops waiting, and the client takes the lock back when the answer comes. @returns the lock if it waits.
   */
  async #enqueue(
    op: Caller,
    target: TargetSession,
    fid: Fid,
    range: FlockRangeMessage,
    wait: boolean,
    fh: Fh,
  ): Promise<Pending | undefined> {
    let pending: Pending | undefined;
    let isGivenUp = false;
    let isAnswered = false;
    const answered = target.appLocks.begin({ fid, range, to: range.exclusive ? 'exclusive' : 'shared' });
    const asked = target.call(
      'operation',
      Enqueue,
      { type: 'flock', fid, mode: range.exclusive ? 'EX' : 'PR', flock: range, wait },
      {
        apply: ({ reply }) => {
          answered();
          const sequence = reply.sequence ?? 0;
          if (isGivenUp) {
            // If the lock was granted, taking it back restores what it replaced. What flock(2) gave up to wait does not return.
            if (range.kind === 'flock' && !reply.granted) target.appLocks.release(fid, range);
            target.outgoing.whenOpen(() => this.#takeBack(target, fid, reply.handle));
            return;
          }
          // flock(2) gives up the lock it converts before it waits, and also when it then fails.
          if (range.kind === 'flock') target.appLocks.release(fid, range);
          if (reply.granted) target.appLocks.grant(fid, range, sequence, fh);
          else pending = waitFor(target, fid, range, reply.handle, sequence, fh);
          isAnswered = true;
        },
      },
    );
    const settled = asked
      .then(
        () => undefined,
        (error: unknown) => {
          if (range.kind === 'flock') target.appLocks.release(fid, range);
          throw error;
        },
      )
      .finally(answered);
    try {
      await ACROSS_SESSIONS.wait(interruptible(settled, op.signal));
    } catch (error) {
      // The signal came in the turn of the answer: what the answer entered in the table stands, or its wait is interrupted next.
      if (isAnswered) return pending;
      isGivenUp = true;
      throw error;
    }
    return pending;
  }

  async #waitForGrant(op: Caller, target: TargetSession, pending: Pending): Promise<void> {
    const { signal } = op;
    op.waitsForOwner?.();
    const interrupted = (): void => {
      const { handle } = pending.lock;
      // The lock was granted or has failed meanwhile: that stands.
      if (target.appLocks.stopWaiting(handle) === undefined) return;
      target.outgoing.whenOpen(() => this.#takeBack(target, pending.lock.fid, handle));
      pending.lock.failed(new FsError('EINTR', 'interrupted while waiting for a lock'));
    };
    if (signal.aborted) interrupted();
    const unlisten = onAbort(signal, interrupted);
    try {
      await ACROSS_SESSIONS.wait(
        this.#context.runtime.waits.during(() => 'lock of another owner', pending.granted),
      );
    } finally {
      unlisten();
    }
  }

  /** Ends a wait on the target. The target undoes a grant that crosses this CANCEL: the CAST of that grant finds no waiter. */
  #takeBack(target: TargetSession, fid: Fid, handle: LockHandle): void {
    this.#background(target.call('closing', Cancel, { handles: [handle] }), `cancel of a lock on ${fid}`);
  }

  /** A CAST came: the target has granted a waiting lock, or never will. */
  cast(target: TargetSession, handle: LockHandle, errno: number | undefined): void {
    const lock = target.appLocks.cast(handle);
    if (lock === undefined) {
      log('CAST for a lock that does not wait any more: %d', handle);
      return;
    }
    if (errno !== undefined && errno !== 0) {
      lock.failed(new FsError(errnoName(errno), 'the target refused a waiting lock'));
      return;
    }
    target.appLocks.grant(lock.fid, lock.range, lock.sequence, lock.fh);
    lock.granted();
  }

  unlock(op: Caller, fh: Fh, lock: AppLock): MaybePromise<void> {
    const handle = this.#context.handles.get(fh);
    // The target has dropped the locks with everything else.
    if (handle.gone) return undefined;
    const { fid } = handle;
    const target = this.#context.targets.of(fid);
    return this.#context.pass(
      target,
      op,
      async () => {
        const range = this.#rangeOf(target, lock);
        const answered = target.appLocks.begin({ fid, range, to: 'none' });
        const asked = target.call(
          'operation',
          Unflock,
          { fid, flock: range },
          { apply: () => target.appLocks.release(fid, range) },
        );
        // A caller that is interrupted before the answer stops waiting. The unlock takes effect all the same.
        await handle.life.wait(interruptible(asked.finally(answered), op.signal));
      },
      handle,
    );
  }

  /** The owner calls close(2): drops its POSIX locks on the file. Waits for the target only while its gate is open. */
  closed(target: TargetSession, fid: Fid, owner: string): Promise<void> | undefined {
    const held = target.appLocks.kindsOf(fid, owner);
    return held.includes('posix') ? this.#drop(target, fid, owner, 'posix') : undefined;
  }

  /** The last close of the open file description that this owner stands for: drops its locks. */
  released(target: TargetSession, fid: Fid, owner: string): void {
    for (const kind of target.appLocks.kindsOf(fid, owner)) void this.#drop(target, fid, owner, kind);
  }

  /** The table forgets the locks at once, so that the client does not replay them. */
  #drop(target: TargetSession, fid: Fid, owner: string, kind: AppLockKind): Promise<void> {
    const flock: FlockRangeMessage = { kind, owner, pid: 0, exclusive: false, start: 0 };
    target.appLocks.release(fid, flock);
    let sent: Promise<unknown> = Promise.resolve();
    target.outgoing.whenOpen(() => {
      sent = target.call('closing', Unflock, { fid, flock });
      this.#background(sent, `unlock of ${fid}`);
    });
    return Promise.race([sent.catch(() => undefined), target.gate.shut()]).then(() => undefined);
  }

  /** To be called inside the gate: another server may know other ranges. */
  #rangeOf(target: TargetSession, lock: AppLock): FlockRangeMessage {
    const { kind, owner, pid, exclusive, start, end } = lock;
    const { host } = this.#context.options;
    return target.lockRange({
      kind,
      owner,
      pid,
      exclusive,
      start,
      end,
      ...(kind === 'posix' ? { host } : {}),
    });
  }

  #background(answered: Promise<unknown>, what: string): void {
    answered.catch((error: unknown) => log('%s: %s', what, error));
  }
}

/** Enters a waiting lock in the table, in the turn in which the answer came: its CAST may be the next message. */
function waitFor(
  target: TargetSession,
  fid: Fid,
  range: FlockRangeMessage,
  handle: LockHandle,
  sequence: number,
  fh: Fh,
): Pending {
  let lock: WaitingLock | undefined;
  const granted = new Promise<void>((resolve, reject) => {
    lock = { fid, range, handle, sequence, fh, granted: resolve, failed: reject };
  });
  if (lock === undefined) throw new FsError('EIO', 'a promise did not start');
  target.appLocks.wait(lock);
  // The caller begins to wait a few microtasks later: a failure before that must not count as unhandled.
  granted.catch(() => undefined);
  return { lock, granted };
}
