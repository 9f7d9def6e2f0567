/**
 * The client as vfs sees it: a filesystem with caches, locks and recovery inside, the kernel outside.
 *
 * Every method passes the gate of the targets it needs before it forms an RPC, except those that say "never parked" and
 * learnRoot(), which runs before the mount is visible. It answers at once from the caches where locks allow that, and otherwise
 * with a promise. Failures are FsErrors. `op.signal` ends a wait with EINTR.
 */

import type { Checked } from '../base/assert.js';
import type { Attr, Timespec } from '../base/attr.js';
import type { Fh, Fid, Name } from '../base/ids.js';
import type { LockOffset } from '../base/lock_offset.js';
import type { MaybePromise } from '../base/maybe_promise.js';
import type { NoticeKind } from '../base/notices.js';
import type { LockSpec } from '../dlm/api.js';
import type { Address, Credentials } from '../runtime/ports.js';
import type { HoldingsReply } from '../wire/admin.js';
import type { StatfsMessage } from '../wire/meta.js';
import type { ClientStateMessage } from '../wire/mount_state.js';

/** The caller of an operation. RequestContext of fuse fits. */
export interface Caller {
  readonly uid: number;
  readonly gid: number;
  /** For groupsOf(). undefined: not known. */
  readonly pid?: number | undefined;
  readonly signal: AbortSignal;
  /** From now on the operation waits for the lock of another owner, not for an answer of the server. */
  waitsForOwner?(): void;
  /** The operation waits at the gate, before it has done anything; or it goes on now. */
  parked?(isParked: boolean): void;
}

/** An inode, and how far the kernel may believe it. */
export interface AttrsWithValidity {
  readonly attr: Attr;
  /** The client holds locks over the attributes (size and times included) until it calls KernelCache.dropAttrs(). */
  readonly attrCacheable: boolean;
  /** The client holds a lock over the name that led here until it calls KernelCache.dropNames(). */
  readonly nameCacheable: boolean;
}
export interface NoEntry {
  readonly attr: null;
  readonly nameCacheable: boolean;
}

export interface NewObject {
  /** Type and permissions. */
  readonly mode: number;
  readonly umask: number;
  readonly rdev?: number | undefined;
  readonly linkText?: Uint8Array | undefined;
}

export interface AttrChange {
  /** The handle through which the change is made: for ftruncate(2), and for times that the kernel kept. */
  readonly fh?: Fh | undefined;
  readonly mode?: number | undefined;
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
  readonly sizeBytes?: number | undefined;
  readonly atime?: Timespec | 'now' | undefined;
  readonly mtime?: Timespec | 'now' | undefined;
  readonly ctime?: Timespec | undefined;
  readonly killSuidgid: boolean;
}

export interface DirEntry {
  readonly name: Name;
  readonly fid: Fid;
  readonly type: number;
  readonly cookie: number;
  /** Present with readdir plus when locks allow. */
  readonly known?: AttrsWithValidity | undefined;
}

/** FUSE shows an OFD lock as a POSIX lock whose owner is the open file description. */
export type AppLockKind = 'posix' | 'flock';

export interface AppLock {
  readonly kind: AppLockKind;
  /** 16 hex digits. */
  readonly owner: string;
  readonly pid: number;
  readonly exclusive: boolean;
  readonly start: LockOffset;
  /** Exclusive; undefined: to the end of the file. */
  readonly end: LockOffset | undefined;
}

export interface FsClient {
  /** How long the gate of this inode's target has not been open; 0 while it is open. */
  awayMs(fid: Fid): number;
  lookup(op: Caller, parent: Fid, name: Name): MaybePromise<AttrsWithValidity | NoEntry>;
  getattr(op: Caller, fid: Fid): MaybePromise<AttrsWithValidity>;
  /** Last known attributes without any wait; undefined when never seen. For STATFS/GETATTR of the root at a gate that is shut. */
  lastKnownAttr(fid: Fid): Attr | undefined;
  /** Whether a write has to clear set-id bits of this file, as far as the client knows without waiting. */
  mayHaveSetId(op: Caller, fid: Fid): boolean;
  setattr(op: Caller, fid: Fid, change: AttrChange): MaybePromise<AttrsWithValidity>;
  readlink(op: Caller, fid: Fid): MaybePromise<Uint8Array>;
  /** mknod, mkdir, symlink. EEXIST when the name is there. */
  create(op: Caller, parent: Fid, name: Name, object: NewObject): MaybePromise<AttrsWithValidity>;
  /** open(O_CREAT): makes or opens. name undefined: O_TMPFILE. */
  createAndOpen(
    op: Caller,
    parent: Fid,
    name: Name | undefined,
    object: NewObject,
    flags: number,
  ): MaybePromise<{ readonly known: AttrsWithValidity; readonly fh: Fh }>;
  link(op: Caller, fid: Fid, parent: Fid, name: Name): MaybePromise<AttrsWithValidity>;
  unlink(op: Caller, parent: Fid, name: Name, directory: boolean): MaybePromise<void>;
  rename(
    op: Caller,
    parent: Fid,
    name: Name,
    newParent: Fid,
    newName: Name,
    flags: number,
  ): MaybePromise<void>;
  /** Files and directories. O_TRUNC truncates. */
  open(op: Caller, fid: Fid, flags: number): MaybePromise<Fh>;
  /** One close(2): starts write-back, reports a write-back error once, drops the owner's POSIX locks. Never parked. */
  flush(op: Caller, fh: Fh, owner: string): MaybePromise<void>;
  /** The kernel does not refer to the inode any more. */
  forgotten(fid: Fid): void;
  /** Last close. Never parked, never fails. @param flockOwner set: drop its flock locks. */
  release(fh: Fh, flockOwner: string | undefined): void;
  /**
   * @returns chunks that together are at most length bytes, fewer only at the end of the file. Later writes do not change them.
   *   The client may reuse their memory when the events under way are over: the caller sends or copies them before that.
   * @param direct the read goes past the kernel's page cache: the kernel locks no folio meanwhile.
   */
  read(
    op: Caller,
    fh: Fh,
    fid: Fid,
    offset: number,
    length: number,
    direct?: boolean,
  ): MaybePromise<readonly Uint8Array[]>;
  /**
   * Writes into the page cache. The client reads `data` only before its first await. writeback: the kernel brings pages that a
   * mapping dirtied. The client admits them while the gate drains, and sets mtime as for any write.
   * @param append write at the current end of the file (O_APPEND), whatever offset says.
   * @param direct as for read.
   */
  write(
    op: Caller,
    fh: Fh | undefined,
    fid: Fid,
    offset: number,
    data: Uint8Array,
    options: {
      readonly append: boolean;
      readonly writeback: boolean;
      readonly sync: boolean;
      readonly killSuidgid: boolean;
      readonly direct?: boolean | undefined;
    },
  ): MaybePromise<number>;
  /** Resolves when all of the file (and its metadata) is on the server's disks. Each handle reports a write-back error once. */
  fsync(op: Caller, fh: Fh): MaybePromise<void>;
  fallocate(op: Caller, fh: Fh, mode: number, offset: number, length: number): MaybePromise<void>;
  seek(op: Caller, fh: Fh, offset: number, what: 'data' | 'hole'): MaybePromise<number>;
  copyRange(
    op: Caller,
    from: Fh,
    fromOffset: number,
    to: Fh,
    toOffset: number,
    length: number,
  ): MaybePromise<number>;
  /** Entries after cookie (0: from the start; no '.' and '..'), and the parent's FID. */
  readdir(
    op: Caller,
    fh: Fh,
    cookie: number,
    limit: number,
    plus: boolean,
  ): MaybePromise<{ readonly entries: readonly DirEntry[]; readonly end: boolean; readonly parent: Fid }>;
  getxattr(op: Caller, fid: Fid, name: string): MaybePromise<Uint8Array>;
  setxattr(
    op: Caller,
    fid: Fid,
    name: string,
    value: Uint8Array,
    flags: number,
    killSgid: boolean,
  ): MaybePromise<void>;
  listxattr(op: Caller, fid: Fid): MaybePromise<readonly string[]>;
  removexattr(op: Caller, fid: Fid, name: string): MaybePromise<void>;
  /** While the gate is not open: the last known answer. */
  statfs(op: Caller): MaybePromise<StatfsMessage>;
  /** Fetches what the client answers about the root while the server is away. */
  learnRoot(op: Caller): Promise<void>;
  testLock(op: Caller, fh: Fh, lock: AppLock): MaybePromise<AppLock | undefined>;
  /** EAGAIN when the lock conflicts and wait is false; EDEADLK; EINTR, which takes the waiting lock back. */
  setLock(op: Caller, fh: Fh, lock: AppLock, wait: boolean): MaybePromise<void>;
  unlock(op: Caller, fh: Fh, lock: AppLock): MaybePromise<void>;
  /** The client holds a data lock on the file, so the pages that the kernel has of it are true. */
  holdsDataLock(fid: Fid): boolean;
  /** All cache locks of all targets, for checks from outside. */
  heldLocks(): readonly LockSpec[];
  /** The server lets this client change nothing. */
  isReadOnly(): boolean;
  /** Begins to write everything that is dirty to the servers, and does not wait for it. */
  writeBack(): void;
  /** How another process goes on as this client. */
  readonly handover: ClientHandover;
  /**
   * Flushes everything, says goodbye, ends all background work. Resolves when every byte is on the server.
   * @throws FsError EIO, one line: what is lost, because no server took it in time or a server refused it.
   */
  unmount(): Promise<void>;
  status(): ClientStatus;
  /** Its locks, or what is open: those that wait first, at most `limit` of them. */
  holdings(what: 'locks' | 'opens', limit: number): HoldingsReply;
  /** The tables of this client: tests check their invariants between two events. */
  checked(): readonly Checked[];
}

/** Who a client was whose process has died. */
export type OrphanedClient = Pick<ClientStateMessage, 'uuid' | 'secret' | 'connCount' | 'firstFh'>;

/** Whom a client goes on as. */
export type Predecessor =
  /** Another process has handed it over, with all that it had. */
  | { readonly kind: 'handed over'; readonly state: ClientStateMessage }
  /** Its process has died. The servers end its session, and begin a new one. */
  | { readonly kind: 'dead'; readonly client: OrphanedClient };

/** Why a client without a server is handed over to nobody. */
export const SERVER_AWAY = 'the server is away, or is shutting down: try again later';

/** Handing the client over to another process. */
export interface ClientHandover {
  /** What a client needs that comes after the death of this one. It changes with each connection. */
  orphan(): OrphanedClient;
  /**
   * Brings everything to the server. From then on calls wait at the gate.
   * @param patience its abort ends the attempt. After a failure the caller calls stay().
   * @throws FsError EAGAIN while the server is away or shuts down; the reason of `patience`.
   */
  leave(patience: AbortSignal): Promise<void>;
  /** To be called after leave(): hangs up, and says what the next process needs. @throws FsError EAGAIN. */
  state(): ClientStateMessage;
  /** No other process goes on as this client, or it has ended: this one goes on. @param hasWorked it may have changed something. */
  stay(hasWorked: boolean): void;
  /** The pause of the takeover by which this process has got the client is over. @param calls how many waited at its end. */
  paused(ms: number, calls: number): void;
}

/**
 * The kernel's caches. The client must be able to empty them before it gives a lock back. vfs implements this on fuse's
 * KernelNotifier. Methods resolve when the kernel has dropped what they name, and at once for what the kernel never had.
 */
export interface KernelCache {
  /** The kernel may have attributes of the inode that it got as cacheable. */
  hasAttrs(fid: Fid): boolean;
  /** The kernel refers to the inode: a request may name it at any time. */
  refersTo(fid: Fid): boolean;
  /** The kernel may have pages of the file, or is about to have some. */
  hasPages(fid: Fid): boolean;
  /** The kernel will not believe attributes that it asked for until now and whose answers are still on their way. */
  overtakeAttrs(): void;
  /** The kernel asks again for attributes of these inodes that it got as cacheable. Answers on their way are overtaken. */
  dropAttrs(fids: readonly Fid[]): Promise<void>;
  /** The kernel looks up again all names that it got as cacheable. */
  dropNames(): Promise<void>;
  /**
   * The kernel drops pages of the file. It first brings dirty mapped pages back as writes with `writeback`. The client still
   * answers reads of the file that arrive meanwhile (it holds the lock until this resolves).
   * @param ranges only these, half-open; all of the file when absent. The client leaves out what is under a READ or WRITE that
   *   it holds back: the kernel would wait for the folios of that request.
   */
  dropPages(fid: Fid, ranges?: readonly { readonly start: number; readonly end: number }[]): Promise<void>;
}

/** The gate of a target was not open. */
export interface Pause {
  /** Time since its end. */
  readonly agoMs: number;
  /** How long it took, so the most that a call has waited. */
  readonly ms: number;
  /** Number of calls that waited at its end. */
  readonly calls: number;
}

export interface ClientStatus {
  /** The log file of a client process in the background; undefined: it writes to its stderr. */
  readonly log?: string | undefined;
  /** How many notices of each kind this process has logged. The process sets it. */
  readonly notices?: readonly { readonly kind: string; readonly count: number }[] | undefined;
  readonly uuid: string;
  readonly softwareVersion: string;
  readonly mountpoint?: string | undefined;
  /** Of the process in charge. A mount that runs an older version does not say it. */
  readonly pid?: number | undefined;
  /** Of the mount, and whether another process can take it over. The process sets them. */
  readonly driver?: string | undefined;
  readonly takeover?: boolean | undefined;
  readonly targets: readonly {
    readonly index: number;
    readonly label: string;
    readonly address: string;
    /** Name of an ImportState (import_state.ts). */
    readonly importState: string;
    readonly gate: 'OPEN' | 'DRAINING' | 'CLOSED' | 'REFUSED';
    readonly instance: number;
    readonly serverVersion: string;
    /** Times at which calls had to wait for the target, for a shutdown or because it was away. The latest ones, newest last. */
    readonly pauses: readonly Pause[];
    readonly parked: number;
    readonly rpcsInFlight: number;
    readonly dirtyBytes: number;
    readonly locks: number;
    readonly opens: number;
    readonly appLocks: number;
    /** Operations that the target has executed, and that are not known to be durable. */
    /** Operations that the client has answered, and that the target has not answered yet. */
    readonly changes: number;
    readonly replayList: { readonly operations: number; readonly bulkBytes: number };
    /** Number of application locks that were lost with a crash of the target. */
    readonly lostAppLocks: number;
    /** The latest evictions of this client. Newest last. */
    readonly evictions: readonly {
      readonly atMs: number;
      readonly reason: string;
      readonly lostBytes: number;
      readonly uncommitted: number;
    }[];
    /** Newest last. */
    readonly history: readonly { readonly state: string; readonly atMs: number }[];
  }[];
  readonly cache: {
    readonly limitBytes: number;
    readonly pageBytes: number;
    readonly attrs: number;
    readonly names: number;
    /** Number of regular files of which the client remembers something. */
    readonly files: number;
  };
}

export interface ClientOptions {
  readonly addresses: readonly Address[];
  /** The filesystem that has to be there; undefined: any. */
  readonly label?: string | undefined;
  /**
   * With what the client proves who it is, for one connection; undefined: with what the kernel says of it on the server's host.
   * @throws FsError for files that cannot be used.
   */
  readonly credentials?: (() => Credentials | undefined) | undefined;
  /** See ConnectRequest.access. */
  readonly access?: { readonly name: string; readonly targetUuid?: string | undefined } | undefined;
  /**
   * The supplementary groups of a caller whose call is under way, for a server that checks permissions itself. undefined: not to be
   * known.
   */
  readonly groupsOf?: ((caller: { readonly pid?: number | undefined }) => readonly number[]) | undefined;
  /** Called once for each reason why no server takes the client yet, until the first one answers. */
  readonly onTrouble?: ((text: string) => void) | undefined;
  /** Called once for each reason for which a server that has answered lets the client wait, without limit. */
  readonly onWait?: ((text: string) => void) | undefined;
  /** The server shows this name. */
  readonly name: string;
  /** Number of this host and pid namespace, the same for all its mounts (FlockRange.host). undefined: not known. */
  readonly host?: number | undefined;
  readonly softwareVersion: string;
  /** X.Y.Z: the client takes no server below it. */
  readonly lowestPeer?: string | undefined;
  /** Limit of all caches together, in bytes (-o cache=SIZE). */
  readonly cacheBytes: number;
  /** Limit on the cache locks kept for each target; the default is what a real mount has. */
  readonly maxLocks?: number | undefined;
  /** Every operation on names is an RPC that its caller waits for (-o sync-metadata). */
  readonly syncMetadata?: boolean | undefined;
  /** Give up the first connect after this; undefined: never (-o retry). */
  readonly connectTimeoutMs: number | undefined;
  /** Ends the first connect, with its reason. */
  readonly signal?: AbortSignal | undefined;
  /** How long an unmount with something to lose waits for a server that does nothing; undefined: without limit. */
  readonly leavePatienceMs?: number | undefined;
  readonly kernel: KernelCache;
  /** The target may be used, again or for the first time. */
  readonly onUsable?: (() => void) | undefined;
  /** Called for each state change, for logs and the demo's live view. With a kind: what the user must learn. */
  readonly onState?: ((text: string, kind?: NoticeKind) => void) | undefined;
}
