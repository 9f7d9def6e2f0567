/**
 * What a client holds for one target: what it sends, its locks, gate, FIDs and grants. The high bits of a FID say on which
 * target the object lives. Nothing here or above assumes that there is only one target.
 */

import { assert } from '../../base/assert.js';
import { compareTime, type Timespec } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import { type Fid, type LockHandle, type TargetUuid, targetIndexOf } from '../../base/ids.js';
import { Lifetime } from '../../base/lifetime.js';
import type { LockClientCallbacks } from '../../dlm/api.js';
import { LockClient } from '../../dlm/lock_client.js';
import type { Answer, CallOptions } from '../../rpc/api.js';
import { Requester } from '../../rpc/requester.js';
import { OperationTimes } from '../../runtime/operation_times.js';
import { type Clock, type Metrics, NO_WAITS, type Timers, type Waits } from '../../runtime/ports.js';
import { Batch } from '../../wire/batch.js';
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
import { operationName } from '../../wire/operations.js';
import { type ConnectReply, FEATURE, GetFids, Ping, ReplayOpens } from '../../wire/session.js';
import { AppLocks } from './app_lock_table.js';
import { ChangeLog } from './change_log.js';
import { FidPool } from './fid_pool.js';
import { Gate } from './gate.js';
import type { ClientIdentity } from './identity.js';
import type { KeptMemory } from './kept_memory.js';
import { type CallKind, Outgoing } from './outgoing.js';
import { OwnDirectories } from './own_directories.js';
import { ReplayList } from './replay_list.js';
import { Tickets } from './tickets.js';

/** Limit on the cache locks held on one target. Each takes a little memory on the client and on the server. */
const LOCKS_MAX = 100_000;

/** A restart makes these calls moot: the new instance has no handle or lock for them to end, and hears of all opens. */
const VOID_AFTER_RESTART = new Set<number>([Close.opcode, Cancel.opcode, Ping.opcode, ReplayOpens.opcode]);
/** These calls only read: after an eviction, the client can send them again in its new session. */
const ASKED_AGAIN = new Set<number>([
  Lookup.opcode,
  Getattr.opcode,
  Readlink.opcode,
  Getxattr.opcode,
  Listxattr.opcode,
  Statfs.opcode,
  GetFids.opcode,
]);
/** These calls use no handle: if one was not sent before an eviction, the client can send it in its new session. */
const SENT_LATER = new Set<number>([
  Create.opcode,
  Link.opcode,
  Unlink.opcode,
  Rename.opcode,
  Setattr.opcode,
  Setxattr.opcode,
  Removexattr.opcode,
]);
/** Number of evictions that the client remembers for `holdfast status`. */
const EVICTIONS_MAX = 8;

/** The target has evicted this client. */
export interface Eviction {
  readonly atMs: number;
  readonly reason: string;
  /** Bytes that applications wrote and that were not on the target by then. */
  readonly lostBytes: number;
  /** Operations that the target answered, and that are not known to be committed. The cause decides whether they are lost. */
  readonly uncommitted: number;
}

/** What is lost although programs were told of success. */
export interface Loss {
  /** Bytes that programs wrote and that were not on the target by then. */
  readonly bytes: number;
  /** Operations that the target answered, and that are not known to be committed. */
  readonly operations: number;
  readonly why: string;
}

export interface TargetSessionOptions {
  readonly runtime: {
    readonly timers: Timers;
    readonly clock: Clock;
    readonly metrics: Metrics;
    readonly waits?: Waits;
  };
  readonly kept: KeptMemory;
  /** Limit on the cache locks. Default 100,000. */
  readonly maxLocks?: number | undefined;
  /** Default true. false: every operation on names is an RPC that its caller waits for (-o sync-metadata). */
  readonly writesNamesBack?: boolean | undefined;
}

export class TargetSession {
  readonly requester: Requester;
  /** The requests that the target would have to execute again after a crash. */
  readonly replays: ReplayList;
  readonly gate: Gate;
  readonly outgoing: Outgoing;
  readonly appLocks = new AppLocks();
  readonly locks: LockClient;
  readonly fids: FidPool;
  /** Changes that the client has made by itself, and that the target has not answered. */
  readonly changes: ChangeLog;
  readonly own: OwnDirectories;
  readonly tickets = new Tickets();
  /** -1 until the first CONNECT is answered. */
  index = -1;
  label = '';
  instance = 0;
  serverVersion = '';
  targetUuid: TargetUuid | undefined;
  /** Bytes of space that the target has promised to this client, and that no write has used yet. */
  grantBytes = 0;
  /** What both sides can do: FEATURE bits. */
  features = 0;
  /** The server asks before it destroys an inode without a name. */
  holdsUsed = false;
  /** The server takes a handle that it did not open. */
  localOpensUsed = false;
  /** SYNC covers WRITEs that are not answered yet. */
  ordersSync = false;
  /** The server checks what each user may do, and takes root for nobody: it must know who asks. */
  squashesRoot = false;
  /** The server lets this client change nothing. */
  isReadOnly = false;
  /** The server gives own locks, and takes BATCHes. */
  batchUsed = false;
  /** The server gives own locks on what was in an own directory before. */
  ownFilesUsed = false;
  /** By how much the server's clock is ahead of ours, as far as we know. */
  #clockAheadMs = 0;
  /** The server promises space by grants. A server without grants finds space at each WRITE, or fails it. */
  grantsUsed = true;
  /** Handles of the active lock: one, or two for a moment when a connection broke at the wrong time. */
  readonly activeHandles = new Set<LockHandle>();
  /** Lasts until the target evicts this client. Handles, and operations under way, depend on it. */
  session = new Lifetime();
  /** Lasts as long as cache locks keep the caches true: until an eviction, or an instance that takes no locks over. */
  cover = new Lifetime(this.session);
  /** Lasts as long as one instance serves. What that instance promised or asked for is void afterwards. */
  serving = new Lifetime(this.session);
  lastStatfs: StatfsMessage | undefined;
  /** Extended attributes of the root, as last seen; undefined: never seen. */
  rootXattrs: Map<string, Uint8Array> | undefined;
  /** The latest evictions, newest last. */
  readonly evictions: Eviction[] = [];
  /** Of all of them. */
  evictionCount = 0;
  /** Set while an unmount is under way: then no handle is left through which the client could report a loss. */
  losses: Loss[] | undefined;
  /** Application locks that a new instance did not grant again. */
  lostAppLocks = 0;
  /** The longest time that the gate was shut, since this process has this target. */
  longestPauseSeconds = 0;
  readonly #clock: Clock;
  readonly #waits: Waits;
  readonly #writesNamesBack: boolean;

  constructor(
    { runtime, kept, maxLocks = LOCKS_MAX, writesNamesBack = true }: TargetSessionOptions,
    { nextXid }: Pick<ClientIdentity, 'nextXid'>,
    locks: LockClientCallbacks,
  ) {
    const pauses = runtime.metrics.histogram(
      'holdfast_client_pause_seconds',
      'How long the gate was shut each time: operations that need the server waited',
    );
    const { waits = NO_WAITS } = runtime;
    this.#waits = waits;
    const paused = (seconds: number): void => {
      this.longestPauseSeconds = Math.max(this.longestPauseSeconds, seconds);
      pauses.observe(seconds);
    };
    this.gate = new Gate(runtime.clock, paused, waits);
    this.replays = new ReplayList(kept);
    const times = new OperationTimes(runtime, {
      prefix: 'client_rpc',
      of: 'calls to the server, from when the client makes them to their answers',
      nameOf: operationName,
    });
    this.requester = new Requester({ firstXid: nextXid, observer: this.replays, times });
    this.#clock = runtime.clock;
    this.#writesNamesBack = writesNamesBack;
    this.outgoing = new Outgoing(this.requester, this.gate, runtime.timers, () => this.changes.push());
    this.changes = new ChangeLog(runtime, (request, options) =>
      this.outgoing.call('changes', Batch, request, options),
    );
    this.locks = new LockClient({ callbacks: locks, maxLocks });
    this.own = new OwnDirectories(runtime.clock, (lock) => this.locks.handBack(lock));
    this.fids = new FidPool(async () => (await this.call('closing', GetFids, {})).reply);
  }

  /** See Outgoing.call. */
  call<Q, R>(
    kind: CallKind,
    operation: Operation<Q, R>,
    request: Q,
    options?: CallOptions<R>,
  ): Promise<Answer<R>> {
    const answer = this.outgoing.call(kind, operation, request, options);
    return this.#waits.isOn
      ? this.#waits.during(() => `server or network (${operation.name})`, answer)
      : answer;
  }

  /** Sends a change of an inode. Until it is answered, the client changes nothing of the inode by itself. */
  async changing<T>(fid: Fid, send: () => Promise<T>): Promise<T> {
    const unpin = this.changes.pin([fid]);
    try {
      return await send();
    } finally {
      unpin();
    }
  }

  /** This client can replay, so it goes on as if nothing had happened when the target crashes and comes back. */
  get replaysUsed(): boolean {
    return this.replays.enabled;
  }

  /** Takes what each reply to CONNECT says: an administrator may have changed it since the last one. */
  restrictedTo(restricted: ConnectReply['restricted']): void {
    this.squashesRoot = restricted?.squashRoot === true;
    this.isReadOnly = restricted?.readOnly === true;
  }

  /** Takes what the reply to CONNECT says of the target. */
  adopt(reply: ConnectReply): void {
    this.index = reply.targetIndex ?? 0;
    this.label = reply.label ?? '';
    this.instance = reply.instance ?? 0;
    this.serverVersion = reply.softwareVersion;
    this.targetUuid = reply.targetUuid;
    this.features = reply.features;
    this.grantsUsed = (reply.features & FEATURE.grants) !== 0;
    this.holdsUsed = (reply.features & FEATURE.holds) !== 0;
    this.localOpensUsed = (reply.features & FEATURE.localOpens) !== 0;
    this.replays.enabled = (reply.features & FEATURE.replay) !== 0;
    this.batchUsed = this.#writesNamesBack && this.replays.enabled && (reply.features & FEATURE.batch) !== 0;
    this.ownFilesUsed = this.batchUsed && (reply.features & FEATURE.ownFiles) !== 0;
    this.ordersSync = (reply.features & FEATURE.orderedSync) !== 0;
    this.changes.promised(reply.metaGrantBytes ?? 0);
    if (reply.time !== undefined) this.#clockAheadMs = inMs(reply.time) - inMs(this.#clock.wall());
    if (reply.lastCommitted !== undefined) this.replays.committed(reply.lastCommitted);
    this.grantBytes += reply.grantBytes ?? 0;
    if (reply.fids !== undefined) this.fids.add(reply.fids);
  }

  /** The time by the server's clock. @param after the result is not before any of these. */
  now(...after: readonly Timespec[]): Timespec {
    const wall = this.#clock.wall();
    let now = this.#clockAheadMs === 0 ? wall : later(wall, this.#clockAheadMs);
    for (const time of after) if (compareTime(time, now) > 0) now = time;
    return now;
  }

  /**
   * Sends a change that takes an amount of space that the client does not know. If the target has no space left that is not
   * promised, sends the change once more, and offers the target the grant that this client has not used.
   * @param send sends the change. Its apply() calls `takes` with how much of the offer the target took.
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
      // If another instance serves by now, it has promised space anew.
      if (!serving.isOver) this.grantBytes += offered - taken;
    }
  }

  /**
   * The range in the form in which the client sends it to the target.
   * @throws FsError EOVERFLOW (fcntl(2)) when the server is from before FEATURE.lockOffsets and knows no such offset.
   */
  lockRange(range: FlockRangeMessage): FlockRangeMessage {
    const said = rangeFor(this.features, range);
    if (said.start !== range.start)
      throw new FsError('EOVERFLOW', 'the server knows no lock offset of 2^53 or above');
    return said;
  }

  /** Another instance serves: calls that would end something that it does not have are void. */
  newInstance(): void {
    const why = new FsError('ECANCELED', 'another instance of the target serves');
    this.serving.end(why);
    this.serving = new Lifetime(this.session);
    this.#forgetSession();
    this.appLocks.newInstance();
    this.changes.newInstance();
    this.requester.failAll(why, (operation) => VOID_AFTER_RESTART.has(operation.opcode));
  }

  /** The new instance has taken no cache locks over. */
  locksAreVoid(): void {
    this.cover.end(new FsError('ECANCELED', 'the new instance of the target takes no locks over'));
    this.cover = new Lifetime(this.session);
  }

  /** The target has evicted this client. From now on it is a new client. Calls fail, except those that it can send again. */
  evicted(error: FsError, eviction: Eviction): void {
    this.evictions.push(eviction);
    this.evictionCount += 1;
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
    this.changes.clear();
    this.own.clear();
    this.tickets.clear();
    this.lastStatfs = undefined;
    this.requester.renew(error, ({ opcode }, wasSent) => {
      return ASKED_AGAIN.has(opcode) || (!wasSent && SENT_LATER.has(opcode));
    });
  }

  #forgetSession(): void {
    // Released inodes are among the ends: the target asks again about the inodes that it has without a name.
    this.outgoing.voidEnds();
    this.activeHandles.clear();
    this.fids.clear();
    this.grantBytes = 0;
  }

  /** Checks all tables of the target. */
  checkInvariants(): void {
    this.requester.checkInvariants();
    this.outgoing.checkInvariants();
    this.replays.checkInvariants();
    this.gate.checkInvariants();
    this.appLocks.checkInvariants();
    this.locks.checkInvariants();
    this.changes.checkInvariants();
    this.own.checkInvariants((fid) => this.locks.holds('inode', fid));
    this.fids.checkInvariants();
    assert(this.grantBytes >= 0, `a grant of ${this.grantBytes} bytes`);
  }
}

function inMs({ sec, nsec }: Timespec): number {
  return sec * 1000 + nsec / 1e6;
}

function later({ sec, nsec }: Timespec, ms: number): Timespec {
  const at = nsec + Math.round(ms * 1e6);
  const seconds = Math.floor(at / 1e9);
  return { sec: sec + seconds, nsec: at - seconds * 1e9 };
}

/** The lifetime of an operation by name, or of one that drops what is not true any more: it goes on in the next session. */
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
