/**
 * Membership: one target of a client with all that drives it. It has a method for each thing that the target's server asks
 * (ServerRequests) and that the lock client wants done (LockClientCallbacks), and passes it on to the session, the import, the
 * drain or an operation class.
 *
 * It handles what the server asks in the order of the server's frames.
 */

import { FsError } from '../base/errno.js';
import type { Fid, LockHandle, Transno } from '../base/ids.js';
import type { MaybePromise } from '../base/maybe_promise.js';
import type { CachedLock, LockClientCallbacks } from '../dlm/api.js';
import type { Frame, Link } from '../rpc/api.js';
import { Service } from '../rpc/service.js';
import { OperationTimes } from '../runtime/operation_times.js';
import type { Histogram, Runtime } from '../runtime/ports.js';
import { Bast, Cast, Glimpse, Gone, Nameless } from '../wire/lock.js';
import type { ReplyOf, RequestOf } from '../wire/operation.js';
import { operationName } from '../wire/operations.js';
import { Evicted } from '../wire/session.js';
import type { ClientContext } from './cache/context.js';
import { releaseLock } from './io/lock_release.js';
import type { WriteBack } from './io/write_back.js';
import { Drain } from './lifecycle/drain.js';
import { Import, type ImportEvents, type ImportOwner } from './lifecycle/import.js';
import { lockRefused } from './lifecycle/replay.js';
import type { LockOperations } from './operations/app_locks.js';
import type { DataOperations } from './operations/data.js';
import type { HeldInodes } from './operations/held_inodes.js';
import type { LocalOpens } from './operations/local_opens.js';
import type { ClientIdentity } from './session/identity.js';
import { OWN_BITS } from './session/own_directories.js';
import { TargetSession } from './session/target_session.js';

const NO_TRANSNO = 0 as Transno;
const EMPTY = { reply: {} } as const;

/** Answers what a server asks. */
export interface ServerRequests {
  bast(notice: RequestOf<typeof Bast>): void;
  cast(notice: RequestOf<typeof Cast>): void;
  glimpse(request: RequestOf<typeof Glimpse>): ReplyOf<typeof Glimpse>;
  nameless(request: RequestOf<typeof Nameless>): Promise<ReplyOf<typeof Nameless>>;
  inodesGone(notice: RequestOf<typeof Gone>): void;
  evicted(notice: RequestOf<typeof Evicted>): void;
}

function serverRequestService(runtime: Runtime): Service<ServerRequests> {
  const times = new OperationTimes(runtime, {
    prefix: 'client_callback',
    of: 'answers to what the server asks',
    nameOf: operationName,
  });
  const service = new Service<ServerRequests>({}, times);
  service.on(Bast, (member, notice) => {
    member.bast(notice);
    return EMPTY;
  });
  service.on(Cast, (member, notice) => {
    member.cast(notice);
    return EMPTY;
  });
  service.on(Glimpse, (member, request) => ({ reply: member.glimpse(request) }));
  service.on(Nameless, async (member, request) => ({ reply: await member.nameless(request) }));
  service.on(Gone, (member, notice) => {
    member.inodesGone(notice);
    return EMPTY;
  });
  service.on(Evicted, (member, notice) => {
    member.evicted(notice);
    return EMPTY;
  });
  return service;
}

export interface MembershipParts {
  readonly context: ClientContext;
  readonly writeBack: WriteBack;
  readonly data: DataOperations;
  readonly appLocks: LockOperations;
  readonly held: HeldInodes;
  readonly localOpens: LocalOpens;
}

export class Membership implements ServerRequests, LockClientCallbacks, ImportOwner {
  readonly target: TargetSession;
  readonly connection: Import;
  readonly drain: Drain;
  readonly #parts: MembershipParts;
  readonly #service: Service<ServerRequests>;
  readonly #releaseSeconds: Histogram;

  constructor(parts: MembershipParts, identity: ClientIdentity, events: ImportEvents) {
    const { context, writeBack } = parts;
    this.#parts = parts;
    const { runtime, kept, options } = context;
    this.#service = serverRequestService(runtime);
    this.#releaseSeconds = runtime.metrics.histogram(
      'holdfast_client_release_seconds',
      'Time until a cache lock that goes back is clean: its data is written, and the caches are dropped',
    );
    const { maxLocks, syncMetadata } = options;
    const writesNamesBack = syncMetadata !== true;
    this.target = new TargetSession({ runtime, kept, maxLocks, writesNamesBack }, identity, this);
    this.target.changes.host = {
      contentOf: (fid) => writeBack.takeWhole(this.target, fid),
      isOpenToWrite: (fid) => context.handles.isOpenToWrite(fid),
      granted: (lock, handle) => this.target.locks.granted(lock, handle),
      refused: (lock) => lockRefused(context, this.target, writeBack, lock),
    };
    this.connection = new Import(context, this.target, writeBack, identity, events, this);
    this.drain = new Drain(context, this.target, writeBack, this.connection);
    context.targets.add(this.target);
  }

  // ImportOwner.

  incoming(link: Link, frame: Frame): void {
    this.#service.dispatch(this, link, frame, { lastCommitted: () => NO_TRANSNO });
  }

  // ServerRequests.

  bast({ handle, type }: RequestOf<typeof Bast>): void {
    if (type !== 'active') {
      this.target.locks.called(handle);
      return;
    }
    // The client may not have seen the grant of this handle yet.
    this.target.activeHandles.add(handle);
    this.drain.start();
  }

  cast({ handle, errno }: RequestOf<typeof Cast>): void {
    this.#parts.appLocks.cast(this.target, handle, errno);
  }

  glimpse({ fid }: RequestOf<typeof Glimpse>): ReplyOf<typeof Glimpse> {
    const seen = this.#parts.data.glimpse(this.target, fid);
    if (seen === undefined) throw new FsError('ENOENT', 'the lock was given back');
    return seen;
  }

  async nameless({ fids }: RequestOf<typeof Nameless>): Promise<ReplyOf<typeof Nameless>> {
    return { held: await this.#parts.held.nameless(fids) };
  }

  inodesGone({ fids }: RequestOf<typeof Gone>): void {
    for (const fid of fids) this.#parts.held.gone(this.target, fid);
  }

  evicted({ reason }: RequestOf<typeof Evicted>): void {
    this.connection.evicted(reason);
  }

  // LockClientCallbacks.

  release(lock: CachedLock): MaybePromise<void> {
    const { clock } = this.#parts.context.runtime;
    const beganMs = clock.nowMs();
    const released = this.#settleAndRelease(lock);
    if (released === undefined) this.#releaseSeconds.observe((clock.nowMs() - beganMs) / 1000);
    else {
      const observe = (): void => this.#releaseSeconds.observe((clock.nowMs() - beganMs) / 1000);
      released.then(observe, observe);
    }
    return released;
  }

  #settleAndRelease(lock: CachedLock): MaybePromise<void> {
    if (lock.type !== 'inode' || lock.fid === 0) return this.#release(lock);
    const { own, changes } = this.target;
    own.released(lock);
    // What the client has changed under the lock must be at the target before another client gets the lock. Under the own lock of a
    // directory that is more than the directory: what is in it too, wherever it has come from.
    const isOfDirectory = lock.mode === 'EX' && lock.bits === OWN_BITS;
    const settled = isOfDirectory && changes.size > 0 ? changes.flushed() : changes.settled(lock.fid);
    return settled === undefined ? this.#release(lock) : settled.then(() => this.#release(lock));
  }

  #release(lock: CachedLock): MaybePromise<void> {
    // Another lock may cover the handles: an own lock goes back alone.
    if (
      lock.type === 'inode' &&
      lock.fid !== 0 &&
      this.target.locks.match('inode', lock.fid, 'PR', lock.bits) === undefined
    )
      this.#parts.localOpens.uncovered(this.target, lock.fid);
    return releaseLock(this.#parts.context, this.#parts.writeBack, this.target, lock);
  }

  gone(type: 'inode' | 'data', fid: Fid): void {
    if (type === 'data') this.#parts.context.uncovered(this.target, fid);
    // Without a lock the client knows no attributes that it could change.
    else this.target.own.forget(fid);
  }

  cancel(handles: readonly LockHandle[]): void {
    this.#parts.localOpens.report(this.target);
    this.target.outgoing.cancel(handles);
  }
}
