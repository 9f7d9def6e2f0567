/**
 * How a read or write of the kernel gets to work: it passes the gate, and gets a data lock.
 *
 * While it waits for either, it stands in FileState.held. The kernel may keep the folios of its range locked meanwhile. Then
 * lock_release.ts leaves the range out when it drops the kernel's pages. If it is too late for that, lock_release.ts serves
 * the request under the lock that is being given back.
 */

import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import type { MaybePromise } from '../../base/maybe_promise.js';
import { Deferred, interruptible } from '../../base/wait.js';
import type { CachedLock } from '../../dlm/api.js';
import { Enqueue } from '../../wire/lock.js';
import { Getattr } from '../../wire/meta.js';
import type { ReplyOf } from '../../wire/operation.js';
import type { Caller } from '../api.js';
import { needFreshHandle } from '../cache/beliefs.js';
import type { ClientContext } from '../cache/context.js';
import { type FileState, type Held, removeFrom } from '../cache/file_state.js';
import type { Handle } from '../cache/open_files.js';
import { callAs, isRefusal } from '../session/callers.js';
import { ACROSS_SESSIONS, type TargetSession } from '../session/target_session.js';
import type { FileUse } from './file_use.js';

/** One READ or WRITE. */
export interface Io extends FileUse {
  readonly handle: Handle | undefined;
  readonly mode: 'PR' | 'PW';
  readonly start: number;
  readonly end: number;
  readonly write: boolean;
  /** See Held. */
  readonly folios: boolean;
  /** Must be done before the client asks for the lock: it may wait on the target for another client that wants the lock. */
  readonly prepare?: (() => Promise<void>) | undefined;
}

/** A lock with a reference taken. */
interface Ready {
  readonly lock: CachedLock;
  /** The request passed the gate, and has to leave it. */
  readonly entered: boolean;
}

export class DataLocks {
  readonly #context: ClientContext;

  constructor(context: ClientContext) {
    this.#context = context;
  }

  /** A lock under which the client may serve a request of the kernel now. */
  usable(target: TargetSession, file: FileState, mode: 'PR' | 'PW'): CachedLock | undefined {
    const { locks } = target;
    return (
      locks.match('data', file.fid, mode, 0) ??
      (file.handingBack === 'serving' ? locks.find('data', file.fid, mode, 0) : undefined)
    );
  }

  /**
   * Calls run() under a data lock, inside the gate unless a drain has to let the request pass.
   * @param run gets a lock that stays until run() ends. The lock is weaker than asked for only when an invalidation is stuck.
   */
  async under<T>(io: Io, run: (lock: CachedLock) => Promise<T>): Promise<T> {
    const { target, file, life } = io;
    const { gate, locks } = target;
    // Across sessions: what the request holds when the session ends must be given back all the same.
    const { ready, crossed } = this.#readyNow(io) ?? (await ACROSS_SESSIONS.wait(this.#heldBack(io)));
    try {
      life.check();
      return await life.wait(run(ready.lock));
    } finally {
      locks.dropRef(ready.lock);
      if (ready.entered) gate.leave();
      if (crossed) this.#dropAfter(file, io.start, io.end);
    }
  }

  /** Calls run() under a data lock, for an operation that is inside the gate already and holds no folios. */
  async locked<T>(use: FileUse, mode: 'PR' | 'PW', run: () => Promise<T>): Promise<T> {
    const { life, target } = use;
    const lock = await ACROSS_SESSIONS.wait(this.#acquire(use, mode));
    try {
      life.check();
      return await life.wait(run());
    } finally {
      target.locks.dropRef(lock);
    }
  }

  /** Runs, one at a time, operations that change a file as a whole and keep writes out meanwhile. */
  async exclusively<T>({ op, life, target, file }: FileUse, run: () => Promise<T>): Promise<T> {
    life.check();
    file.exclusives += 1;
    const ended = (): void => {
      file.exclusives -= 1;
      this.#context.forgetFileIfUnused(target, file);
    };
    try {
      while (file.exclusive !== undefined) await life.wait(interruptible(file.exclusive, op.signal));
    } catch (error) {
      ended();
      throw error;
    }
    const done = new Deferred<void>();
    file.exclusive = done.promise;
    // The file stays exclusive until run() has ended, whether the caller still waits or not.
    const result = run().finally(() => {
      file.exclusive = undefined;
      done.resolve();
      ended();
    });
    return interruptible(result, op.signal);
  }

  /**
   * Calls run() under PW for a truncate. The kernel writes no page of the file back until it has the truncate's answer
   * (FUSE_NOWRITE), so an invalidation of dirty pages waits for the truncate. Therefore the truncate must not wait on the target
   * for a client that waits for a lock of ours. With PW in hand it does not (docs/LOCKING.md, "Truncates").
   */
  async truncateUnderLock<T>(use: FileUse, sizeBytes: number, run: () => Promise<T>): Promise<T> {
    const { life, target, file } = use;
    let lock: CachedLock;
    file.waitsToCut = true;
    try {
      lock = await ACROSS_SESSIONS.wait(this.#acquire(use, 'PW'));
    } finally {
      file.waitsToCut = false;
    }
    try {
      life.check();
      return await life.wait(this.#withNewSize(file, sizeBytes, run));
    } finally {
      target.locks.dropRef(lock);
      if (file.cutCrossed) {
        file.cutCrossed = false;
        this.#dropAfter(file, 0, Number.MAX_SAFE_INTEGER);
      }
    }
  }

  /**
   * Reads find the new size from the beginning of the truncate on. This client drops the pages that are cut off before the
   * target cuts the file, and a read in between would show zeros that nobody wrote.
   */
  async #withNewSize<T>(file: FileState, sizeBytes: number, run: () => Promise<T>): Promise<T> {
    const before = file.sizeBytes;
    if (!file.sizeKnown || sizeBytes >= before) return run();
    file.sizeBytes = sizeBytes;
    try {
      return await ACROSS_SESSIONS.wait(run());
    } catch (error) {
      // The target did not cut the file, or the client cannot know: a later answer brings the size.
      if (file.sizeBytes === sizeBytes) file.sizeBytes = before;
      void this.#context.kernel.dropAttrs(file.fid);
      throw error;
    }
  }

  /** Asks for the size under a lock whose grant did not bring it. */
  async learnSize({ op, life, target, file }: FileUse): Promise<void> {
    while (!file.sizeKnown) {
      const asked = target.call(
        'data',
        Getattr,
        { fid: file.fid, want: 0 },
        { apply: ({ reply }) => this.#context.beliefs.applyAttr(target, reply.attr) },
      );
      await life.wait(interruptible(asked, op.signal));
      if (!target.locks.holds('data', file.fid)) throw new FsError('EIO', 'the data lock was lost');
    }
  }

  /** Drops what a request leaves in the kernel, once its answer is there. Nothing waits for the drop. */
  #dropAfter(file: FileState, start: number, end: number): void {
    this.#context.runtime.timers.soon(() => void this.#context.kernel.dropPages(file.fid, [{ start, end }]));
  }

  #readyNow(io: Io): { ready: Ready; crossed: boolean } | undefined {
    const { gate, locks } = io.target;
    if (!gate.isOpen && !gate.isDraining) return undefined;
    if (io.prepare !== undefined || (io.write && io.file.exclusive !== undefined)) return undefined;
    const lock = this.usable(io.target, io.file, io.mode);
    if (lock === undefined) return undefined;
    const entered = gate.isOpen;
    if (entered) gate.enter(io.op);
    locks.addRef(lock);
    return { ready: { lock, entered }, crossed: false };
  }

  async #heldBack(io: Io): Promise<{ ready: Ready; crossed: boolean }> {
    const { target, file } = io;
    let settled = false;
    const held: Held = {
      start: io.start,
      end: io.end,
      write: io.write,
      folios: io.folios,
      crossed: false,
      serve: () => undefined,
    };
    file.held.push(held);
    try {
      const ready = await ACROSS_SESSIONS.wait(
        new Promise<Ready>((resolve, reject) => {
          held.serve = (lock) => {
            if (settled) return;
            settled = true;
            target.locks.addRef(lock);
            resolve({ lock, entered: false });
          };
          this.#enterAndLock(io).then(
            (usual) => {
              if (settled) {
                target.locks.dropRef(usual.lock);
                target.gate.leave();
                return;
              }
              settled = true;
              resolve(usual);
            },
            (error: unknown) => {
              if (settled) return;
              settled = true;
              reject(error);
            },
          );
        }),
      );
      return { ready, crossed: io.write && held.crossed };
    } finally {
      settled = true;
      removeFrom(file.held, held);
      this.#context.forgetFileIfUnused(target, file);
    }
  }

  async #enterAndLock(io: Io): Promise<Ready> {
    const { op, life, target, file, handle, mode, write } = io;
    // Across sessions: a request that has passed the gate must leave it.
    const wait = target.gate.enter(op, handle);
    if (wait !== undefined) await ACROSS_SESSIONS.wait(wait);
    try {
      life.check();
      if (io.prepare !== undefined) await life.wait(io.prepare());
      for (;;) {
        // Never with a lock in hand: the operation that has the file may wait on the target for a client that wants that lock.
        while (write && file.exclusive !== undefined) {
          await life.wait(interruptible(file.exclusive, op.signal));
        }
        const lock = await ACROSS_SESSIONS.wait(this.#acquire(io, mode));
        if (!write || file.exclusive === undefined) return { lock, entered: true };
        target.locks.dropRef(lock);
      }
    } catch (error) {
      target.gate.leave();
      throw error;
    }
  }

  /** @returns a lock with a reference for the caller. */
  #acquire(use: FileUse, mode: 'PR' | 'PW'): MaybePromise<CachedLock> {
    const { target, file } = use;
    const lock = this.usable(target, file, mode);
    if (lock === undefined) return this.#acquireLater(use, mode);
    target.locks.addRef(lock);
    return lock;
  }

  async #acquireLater({ op, target, file }: FileUse, mode: 'PR' | 'PW'): Promise<CachedLock> {
    const underWay = file.enqueues[mode];
    const enqueued =
      underWay === undefined
        ? this.#enqueue(op, target, file, mode)
        : this.#joined(underWay, op, target, file, mode);
    const mine = enqueued.then((lock) => {
      target.locks.addRef(lock);
      return lock;
    });
    try {
      return await ACROSS_SESSIONS.wait(interruptible(mine, op.signal));
    } catch (error) {
      // The lock stays, but this caller's reference goes.
      mine.then(
        (lock) => target.locks.dropRef(lock),
        () => undefined,
      );
      throw error;
    }
  }

  /** Waits for the ENQUEUE of another caller. What the target refuses that user, it may grant this one. */
  #joined(
    underWay: Promise<CachedLock>,
    op: Caller,
    target: TargetSession,
    file: FileState,
    mode: 'PR' | 'PW',
  ): Promise<CachedLock> {
    if (!target.squashesRoot) return underWay;
    return underWay.catch((error: unknown) => {
      if (!isRefusal(error)) throw error;
      return file.enqueues[mode] ?? this.#enqueue(op, target, file, mode);
    });
  }

  /** Callers that want the same lock wait for one ENQUEUE. */
  #enqueue(op: Caller, target: TargetSession, file: FileState, mode: 'PR' | 'PW'): Promise<CachedLock> {
    const { fid } = file;
    let lock: CachedLock | undefined;
    const enqueued = callAs(
      target,
      op,
      this.#context.options.groupsOf,
      Enqueue,
      { type: 'data', fid, mode },
      {
        kind: 'operation',
        apply: ({ reply }) => {
          file.enqueues[mode] = undefined;
          checkEnqueued(target, fid, reply);
          lock = target.locks.add({ type: 'data', fid, mode, bits: 0, handle: reply.handle });
          // A BAST may follow at once: the lock stays at least until the callers that wait for it have used it.
          target.locks.addRef(lock);
          if (reply.attr !== undefined) this.#context.beliefs.applyAttr(target, reply.attr);
        },
      },
    ).then(() => {
      if (lock === undefined) throw new FsError('EIO', 'a lock was granted and not added');
      return lock;
    });
    file.enqueues[mode] = enqueued;
    enqueued.then(
      (granted) => this.#context.runtime.timers.soon(() => target.locks.dropRef(granted)),
      () => {
        file.enqueues[mode] = undefined;
        this.#context.forgetFileIfUnused(target, file);
      },
    );
    return enqueued;
  }
}

/** @throws FsError EPROTO when the reply is not the grant of this lock. */
function checkEnqueued(target: TargetSession, fid: Fid, reply: ReplyOf<typeof Enqueue>): void {
  if (!reply.granted) throw new FsError('EPROTO', `the server answered an ENQUEUE for ${fid} without a lock`);
  if (reply.attr !== undefined && reply.attr.fid !== fid) {
    throw new FsError(
      'EPROTO',
      `the server answered an ENQUEUE for ${fid} with attributes of ${reply.attr.fid}`,
    );
  }
  needFreshHandle(target, reply.handle);
}
