/**
 * What a client holds for one target: its calls, locks, gate, FIDs and grants. A FID's high bits say which target it
 * lives on, and nothing here or above assumes that there is one.
 *
 * Calls are counted by kind until their reply, also when their caller was interrupted: a drain waits for all of them.
 *   operation  of a caller that passed the gate
 *   data       READ and WRITE of the page cache: what a drain depends on
 *   closing    CLOSE, CANCEL, UNFLOCK, GET_FIDS: a drain waits for them too, but another instance need not hear of them
 *   session    what the connection itself needs, and what is void without it
 */

import { assert } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import { type Fh, type Fid, type LockHandle, type TargetUuid, targetIndexOf } from '../../base/ids.js';
import { Lifetime } from '../../base/lifetime.js';
import { logger } from '../../base/log.js';
import { CountDown, interruptible } from '../../base/wait.js';
import type { LockClientCallbacks } from '../../dlm/api.js';
import { LockClient } from '../../dlm/lock_client.js';
import type { Answer, CallOptions } from '../../rpc/api.js';
import { Requester } from '../../rpc/requester.js';
import type { Clock, Timers } from '../../runtime/ports.js';
import { Cancel, type FlockRangeMessage, rangeFor } from '../../wire/lock.js';
import {
  Close,
  Create,
  Getattr,
  Getxattr,
  Link,
  Listxattr,
  Lookup,
  Readlink,
  Removexattr,
  Rename,
  Setattr,
  Setxattr,
  Statfs,
  type StatfsMessage,
  Unlink,
} from '../../wire/meta.js';
import type { Operation } from '../../wire/operation.js';
import { type ConnectReply, FEATURE, GetFids, Ping } from '../../wire/session.js';
import { AppLocks } from './app_lock_table.js';
import { FidPool } from './fid_pool.js';
import { Gate } from './gate.js';
import type { ClientIdentity } from './identity.js';
import type { KeptMemory } from './kept_memory.js';
import { ReplayList } from './replay_list.js';

const log = logger('client:target');

/** Short beside what anyone notices of an unlinked file's space. */
const CLOSE_DELAY_MS = 5;
const CLOSES_AT_ONCE = 512;

export type CallKind = 'operation' | 'data' | 'closing' | 'session';

/** Cache locks held on one target. Each keeps a little memory on both sides. */
const LOCKS_MAX = 100_000;
/** Handles in one CLOSE or CANCEL. */
const HANDLES_MAX = 10_000;

/** Of these nothing is left to do when another instance takes over: what they would end it does not have. */
const VOID_AFTER_RESTART = new Set<number>([Close.opcode, Cancel.opcode, Ping.opcode]);
/** What only reads changes nothing by being asked again of a target that has thrown this client out. */
const ASKED_AGAIN = new Set<number>([
  Lookup.opcode,
  Getattr.opcode,
  Readlink.opcode,
  Getxattr.opcode,
  Listxattr.opcode,
  Statfs.opcode,
  GetFids.opcode,
]);
/** These use no handle: if they were not sent yet, they can as well be sent by the client that comes back. */
const SENT_LATER = new Set<number>([
  Create.opcode,
  Link.opcode,
  Unlink.opcode,
  Rename.opcode,
  Setattr.opcode,
  Setxattr.opcode,
  Removexattr.opcode,
]);
/** Remembered for `holdfast status`. */
const EVICTIONS_MAX = 8;

/** This client was thrown out by the target. */
export interface Eviction {
  readonly atMs: number;
  readonly reason: string;
  /** Written by applications, and not by then on the target. */
  readonly lostBytes: number;
  /** Answered by the target, and not known to be committed: whether they are lost depends on why this happened. */
  readonly uncommitted: number;
}

/** What programs were told, and is lost. */
export interface Loss {
  /** Written by programs, and not by then on the target. */
  readonly bytes: number;
  /** Answered by the target, and not known to be committed. */
  readonly operations: number;
  readonly why: string;
}

export interface TargetSessionOptions {
  readonly runtime: { readonly timers: Timers; readonly clock: Clock };
  readonly kept: KeptMemory;
  /** Cache locks. Default 100,000. */
  readonly maxLocks?: number | undefined;
}

export class TargetSession {
  readonly requester: Requester;
  /** What the target would have to execute again after a crash. */
  readonly replays: ReplayList;
  readonly gate: Gate;
  readonly appLocks = new AppLocks();
  readonly locks: LockClient;
  readonly fids: FidPool;
  /** -1 until the first CONNECT was answered. */
  index = -1;
  label = '';
  instance = 0;
  serverVersion = '';
  targetUuid: TargetUuid | undefined;
  /** Bytes that the target promised to find room for. */
  grantBytes = 0;
  /** What both sides can do: FEATURE bits. */
  features = 0;
  /** The server asks before it destroys an inode without a name. */
  holdsUsed = false;
  /** No grants in the protocol with this server: it finds room, or does not, at each WRITE. */
  grantsUsed = true;
  /** Handles of the active lock: one, or two for a moment when a connection broke at the wrong time. */
  readonly activeHandles = new Set<LockHandle>();
  /** This client as the target knows it, until the target evicts it. Handles, and what is under way, live in it. */
  session = new Lifetime();
  /** What cache locks keep true: until an eviction, or an instance that takes no locks over. */
  cover = new Lifetime(this.session);
  /** The instance that serves. What it promised, and what it asked for, is void with it. */
  serving = new Lifetime(this.session);
  lastStatfs: StatfsMessage | undefined;
  /** Extended attributes of the root, as last seen; undefined: never seen. */
  rootXattrs: Map<string, Uint8Array> | undefined;
  /** The last ones, newest last. */
  readonly evictions: Eviction[] = [];
  /** Set while an unmount is under way: no handle is left to report a loss by. */
  losses: Loss[] | undefined;
  /** Application locks that a new instance did not grant again. */
  lostAppLocks = 0;
  readonly #timers: Timers;
  readonly #calls: Record<CallKind, CountDown> = {
    operation: new CountDown(),
    data: new CountDown(),
    closing: new CountDown(),
    session: new CountDown(),
  };
  #closes: Fh[] = [];
  /** Inodes without a name that the kernel has forgotten. They go with the closes. */
  #released: Fid[] = [];
  #closing = false;
  #deferred: (() => void)[] = [];

  constructor(
    { runtime, kept, maxLocks = LOCKS_MAX }: TargetSessionOptions,
    { nextXid }: Pick<ClientIdentity, 'nextXid'>,
    locks: LockClientCallbacks,
  ) {
    this.#timers = runtime.timers;
    this.gate = new Gate(runtime.clock);
    this.replays = new ReplayList(kept);
    this.requester = new Requester({ firstXid: nextXid, observer: this.replays });
    this.locks = new LockClient({ callbacks: locks, maxLocks });
    this.fids = new FidPool(async () => (await this.call('closing', GetFids, {})).reply);
  }

  /** @throws FsError of the reply, EIO when the client was evicted meanwhile, EINTR when the signal aborts first. */
  call<Q, R>(
    kind: CallKind,
    operation: Operation<Q, R>,
    request: Q,
    options: CallOptions<R> = {},
  ): Promise<Answer<R>> {
    const { signal, ...rest } = options;
    this.#calls[kind].add();
    const answered = this.requester.call(operation, request, rest);
    const done = (): void => this.#calls[kind].done();
    answered.then(done, done);
    return signal === undefined ? answered : interruptible(answered, signal);
  }

  inFlight(kind: CallKind): number {
    return this.#calls[kind].count;
  }

  /** Resolves when no call of these kinds is in flight. */
  async idle(...kinds: CallKind[]): Promise<void> {
    const counts = kinds.map((kind) => this.#calls[kind]);
    while (counts.some(({ count }) => count > 0)) await Promise.all(counts.map((count) => count.zero()));
  }

  /** This client may go on as if nothing had happened when the target crashes and comes back. */
  get replaysUsed(): boolean {
    return this.replays.enabled;
  }

  /** Takes what CONNECT said of the target. */
  adopt(reply: ConnectReply): void {
    this.index = reply.targetIndex ?? 0;
    this.label = reply.label ?? '';
    this.instance = reply.instance ?? 0;
    this.serverVersion = reply.softwareVersion;
    this.targetUuid = reply.targetUuid;
    this.features = reply.features;
    this.grantsUsed = (reply.features & FEATURE.grants) !== 0;
    this.holdsUsed = (reply.features & FEATURE.holds) !== 0;
    this.replays.enabled = (reply.features & FEATURE.replay) !== 0;
    if (reply.lastCommitted !== undefined) this.replays.committed(reply.lastCommitted);
    this.grantBytes += reply.grantBytes ?? 0;
    if (reply.fids !== undefined) this.fids.add(reply.fids);
  }

  /**
   * A change that takes space, and does not know how much. Where the target has none that is not promised, it is sent once
   * more with what was promised to this client and is not used.
   * @param send `takes` is for its apply: how much of what was offered the target took.
   */
  async takingSpace<R>(
    send: (offer: { readonly grantOffered?: number; takes(bytes: number | undefined): void }) => Promise<R>,
  ): Promise<R> {
    try {
      return await send({ takes: () => undefined });
    } catch (error) {
      if (!(error instanceof FsError) || error.code !== 'ENOSPC' || this.grantBytes === 0) throw error;
    }
    const offered = this.grantBytes;
    const { serving } = this;
    let taken = 0;
    this.grantBytes = 0;
    try {
      return await send({
        grantOffered: offered,
        takes: (bytes = 0) => {
          taken = bytes;
        },
      });
    } finally {
      // Another instance has promised anew.
      if (!serving.isOver) this.grantBytes += offered - taken;
    }
  }

  /**
   * The range as the target is told of it.
   * @throws FsError EOVERFLOW (fcntl(2)) when the server is from before FEATURE.lockOffsets and knows no such place.
   */
  lockRange(range: FlockRangeMessage): FlockRangeMessage {
    const said = rangeFor(this.features, range);
    if (said.start !== range.start)
      throw new FsError('EOVERFLOW', 'the server knows no lock offset of 2^53 or above');
    return said;
  }

  /** Gives locks back. Failure means that they are gone already. */
  cancel(handles: readonly LockHandle[]): void {
    for (let at = 0; at < handles.length; at += HANDLES_MAX) {
      this.#background(
        this.call('closing', Cancel, { handles: handles.slice(at, at + HANDLES_MAX) }),
        'CANCEL',
      );
    }
  }

  /**
   * The handle is closed. Nobody waits for the target to hear of it, so closes collect for a moment: one message for
   * many files, where each would cost as much as the create that comes next.
   */
  close(fh: Fh): void {
    this.#closes.push(fh);
    this.#closeSoon();
  }

  /** The kernel has forgotten an inode that this client holds. */
  release(fid: Fid): void {
    this.#released.push(fid);
    this.#closeSoon();
  }

  #closeSoon(): void {
    if (this.#closes.length + this.#released.length >= CLOSES_AT_ONCE) {
      this.sendCloses();
      return;
    }
    if (this.#closing) return;
    this.#closing = true;
    this.#timers.after(CLOSE_DELAY_MS, () => {
      this.#closing = false;
      this.sendCloses();
    });
  }

  /** Closes go out unless the gate is closed: then the target learns of them when it opens, or need not. */
  sendCloses(): void {
    const fhs = this.#closes;
    const released = this.#released;
    if (fhs.length + released.length === 0 || this.gate.state === 'CLOSED') return;
    this.#closes = [];
    this.#released = [];
    for (let at = 0; at < Math.max(fhs.length, released.length); at += HANDLES_MAX) {
      const end = at + HANDLES_MAX;
      const some = at < released.length ? released.slice(at, end) : undefined;
      this.#background(this.call('closing', Close, { fhs: fhs.slice(at, end), released: some }), 'CLOSE');
    }
  }

  /**
   * Runs it now, or when the gate opens again while the same instance serves; never if another one takes over, which
   * learns from the replay what is left.
   */
  whenOpen(send: () => void): void {
    if (this.gate.state === 'CLOSED') this.#deferred.push(send);
    else send();
  }

  /** The gate has opened. */
  sendDeferred(): void {
    this.sendCloses();
    for (const send of this.#deferred.splice(0)) send();
  }

  /** Another instance serves: what ends something that it does not have is void. */
  newInstance(): void {
    const why = new FsError('ECANCELED', 'another instance of the target serves');
    this.serving.end(why);
    this.serving = new Lifetime(this.session);
    this.#forgetSession();
    this.appLocks.newInstance();
    this.requester.failAll(why, (operation) => VOID_AFTER_RESTART.has(operation.opcode));
  }

  /** The new instance has taken no cache locks over. */
  locksAreVoid(): void {
    this.cover.end(new FsError('ECANCELED', 'the new instance of the target takes no locks over'));
    this.cover = new Lifetime(this.session);
  }

  /** The target has thrown this client out, which is another one from now on. Calls end, but for those that need not. */
  evicted(error: FsError, eviction: Eviction): void {
    this.evictions.push(eviction);
    const { lostBytes, uncommitted } = eviction;
    if (lostBytes > 0 || uncommitted > 0) {
      this.losses?.push({ bytes: lostBytes, operations: uncommitted, why: error.message });
    }
    if (this.evictions.length > EVICTIONS_MAX) this.evictions.shift();
    this.session.end(error);
    this.session = new Lifetime();
    this.cover = new Lifetime(this.session);
    this.serving = new Lifetime(this.session);
    this.#forgetSession();
    this.replays.clear();
    this.lastStatfs = undefined;
    this.requester.renew(error, ({ opcode }, wasSent) => {
      return ASKED_AGAIN.has(opcode) || (!wasSent && SENT_LATER.has(opcode));
    });
  }

  #forgetSession(): void {
    this.#closes = [];
    // Another instance asks about what it has without a name.
    this.#released = [];
    this.#deferred = [];
    this.activeHandles.clear();
    this.fids.clear();
    this.grantBytes = 0;
  }

  #background(answered: Promise<unknown>, what: string): void {
    answered.catch((error: unknown) => log('%s: %s', what, error));
  }

  /** Of all that it has, and that each call under way is counted once. */
  checkInvariants(): void {
    this.requester.checkInvariants();
    this.replays.checkInvariants();
    this.gate.checkInvariants();
    this.appLocks.checkInvariants();
    this.locks.checkInvariants();
    this.fids.checkInvariants();
    assert(this.grantBytes >= 0, `a grant of ${this.grantBytes} bytes`);
    let counted = 0;
    for (const { count } of Object.values(this.#calls)) counted += count;
    const { inFlight } = this.requester;
    assert(counted >= inFlight, `${inFlight} calls are under way, counted ${counted}`);
  }
}

/** For an operation by name, or one that drops what is not true any more: the session that comes next goes on with it. */
export const ACROSS_SESSIONS = new Lifetime();

/** The targets of a filesystem, by the index in their FIDs. */
export class Targets {
  readonly #targets: TargetSession[] = [];

  add(target: TargetSession): void {
    this.#targets.push(target);
  }

  /** @throws FsError ENXIO for a FID of a target that this client does not know. */
  of(fid: Fid): TargetSession {
    const index = targetIndexOf(fid);
    for (const target of this.#targets) if (target.index === index) return target;
    throw new FsError('ENXIO', `no target ${index}`);
  }

  all(): readonly TargetSession[] {
    return this.#targets;
  }
}
