/**
 * The interface that a filesystem implements for the FUSE dispatcher: one method for each operation, which takes
 * decoded arguments and returns plain results.
 *
 * Every method answers at once or with a promise; a failure is an FsError, thrown or rejected. A method that answers
 * with a promise must watch `request.signal`. It aborts when the kernel has interrupted the request and the signal may
 * end it (interrupts.ts). The method then rejects with EINTR as soon as it can, and leaves nothing behind.
 *
 * Names are latin1 strings, one unit for each byte. Byte arguments (`data`, `value`, `target`) are views into the read
 * buffer that are valid until the method returns. A method that keeps them, or answers with a promise, copies them
 * first.
 */

import type { Attr, Timespec } from '../base/attr.js';
import type { LockOffset } from '../base/lock_offset.js';
import type { MaybePromise } from '../base/maybe_promise.js';

export interface RequestContext {
  readonly opcode: number;
  readonly uid: number;
  readonly gid: number;
  /** Thread id of the caller in our pid namespace; 0 if the kernel acts on its own. */
  readonly pid: number;
  /** Made on first use: most requests never wait. */
  readonly signal: AbortSignal;
  /**
   * Says that from now on the request waits for the lock of another owner, and not for an answer of the server. On a
   * local filesystem every caught signal ends a wait for a file lock. So a caught signal may end this request from here
   * on, and not before.
   */
  waitsForOwner?(): void;
  /** Says that the request waits before its work has begun, or that it goes on now. */
  parked?(isParked: boolean): void;
}

/** An entry. The Valid fields say how long the kernel may believe it, in seconds; 0: the kernel asks each time. */
export interface EntryOut {
  readonly attr: Attr;
  readonly generation: number;
  readonly entryValidSec: number;
  readonly attrValidSec: number;
}
/**
 * There is no such name. The kernel believes that for entryValidSec (a negative dentry) if this is above 0; else it
 * gets ENOENT.
 */
export interface NegativeEntry {
  readonly attr: null;
  readonly entryValidSec: number;
}
export interface AttrOut {
  readonly attr: Attr;
  readonly attrValidSec: number;
}
export interface OpenOut {
  readonly fh: number;
  /** FOPEN_* bits. */
  readonly openFlags: number;
}
export interface SetattrIn {
  readonly fh?: number | undefined;
  readonly mode?: number | undefined;
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
  readonly sizeBytes?: number | undefined;
  readonly atime?: Timespec | 'now' | undefined;
  readonly mtime?: Timespec | 'now' | undefined;
  readonly ctime?: Timespec | undefined;
  readonly killSuidgid: boolean;
}
export interface CreateIn {
  readonly mode: number;
  /** The kernel has not applied it to mode (DONT_MASK). */
  readonly umask: number;
}
export interface ReadIn {
  readonly fh: number;
  readonly offset: number;
  readonly sizeBytes: number;
  /** The current open(2) flags of the file. */
  readonly flags: number;
  /**
   * FUSE_READ_LOCKOWNER: a read(2) that bypasses the kernel's page cache. It locks no folio meanwhile and fills none.
   * Absent: it may be either.
   */
  readonly direct?: boolean | undefined;
}
export interface WriteIn {
  readonly fh: number;
  readonly offset: number;
  readonly data: Uint8Array;
  readonly flags: number;
  /** FUSE_WRITE_CACHE: the kernel writes back pages dirtied through a mapping. fh may be any handle of the file. */
  readonly writeback: boolean;
  readonly killSuidgid: boolean;
}
/** A lock request of fcntl (classic or OFD) or flock. */
export interface LockIn {
  readonly fh: number;
  /** lk_owner as 16 hex digits. */
  readonly owner: string;
  readonly type: 'read' | 'write' | 'unlock';
  readonly start: LockOffset;
  /** Exclusive; undefined: to the end of the file. */
  readonly end: LockOffset | undefined;
  readonly pid: number;
  /** flock(2), not fcntl(2). */
  readonly flock: boolean;
  readonly wait: boolean;
}
export interface LockOut {
  readonly type: 'read' | 'write' | 'unlock';
  readonly start: LockOffset;
  readonly end: LockOffset | undefined;
  readonly pid: number;
}
export interface DirEntryOut {
  readonly name: string;
  readonly ino: number;
  /** S_IFMT bits. */
  readonly type: number;
  /** Position after this entry: a READDIR that goes on from here sends it as offset. */
  readonly cookie: number;
  /** READDIRPLUS only; counts as one lookup. Without it the kernel looks the entry up when needed. */
  readonly entry?: EntryOut | undefined;
}
/**
 * Fills a READDIR(PLUS) reply. push returns false if the entry does not fit: the handler then stops, and undoes the
 * lookup that it counted for the entry.
 */
export type DirSink = (entry: DirEntryOut) => boolean;
export interface StatfsOut {
  readonly blockBytes: number;
  readonly blocks: number;
  readonly blocksFree: number;
  readonly blocksAvailable: number;
  readonly inodes: number;
  readonly inodesFree: number;
  readonly nameMax: number;
}
export interface ReleaseIn {
  readonly fh: number;
  readonly flags: number;
  readonly owner: string;
  /** RELEASE_FLOCK_UNLOCK: the handler drops this owner's flock(2) locks. */
  readonly flockUnlock: boolean;
}

export interface FuseHandlers {
  /**
   * How long the server that has this inode has been away: shutting down, unreachable or recovering. 0 if it is there,
   * however slowly it answers. Absent: it is never away.
   */
  awayMs?(nodeid: number): number;
  /** Called after the answer to INIT; `minor` is the negotiated protocol, `flags` are those that both sides have. */
  init?(negotiated: { readonly minor: number; readonly flags: bigint; readonly maxWrite: number }): void;
  /** Called when the mount is gone (DESTROY or ENODEV). */
  destroy?(): void;
  lookup(request: RequestContext, parent: number, name: string): MaybePromise<EntryOut | NegativeEntry>;
  forget(nodeid: number, nlookup: number): void;
  getattr(request: RequestContext, nodeid: number, fh: number | undefined): MaybePromise<AttrOut>;
  setattr(request: RequestContext, nodeid: number, change: SetattrIn): MaybePromise<AttrOut>;
  readlink(request: RequestContext, nodeid: number): MaybePromise<Uint8Array>;
  symlink(request: RequestContext, parent: number, name: string, target: Uint8Array): MaybePromise<EntryOut>;
  mknod(
    request: RequestContext,
    parent: number,
    name: string,
    create: CreateIn & { readonly rdev: number },
  ): MaybePromise<EntryOut>;
  mkdir(request: RequestContext, parent: number, name: string, create: CreateIn): MaybePromise<EntryOut>;
  unlink(request: RequestContext, parent: number, name: string): MaybePromise<void>;
  rmdir(request: RequestContext, parent: number, name: string): MaybePromise<void>;
  rename(
    request: RequestContext,
    parent: number,
    name: string,
    newParent: number,
    newName: string,
    flags: number,
  ): MaybePromise<void>;
  link(request: RequestContext, nodeid: number, newParent: number, newName: string): MaybePromise<EntryOut>;
  /** @param killSuidgid an open with O_TRUNC clears the set-id bits of the file, as a write by this caller would. */
  open(request: RequestContext, nodeid: number, flags: number, killSuidgid?: boolean): MaybePromise<OpenOut>;
  create(
    request: RequestContext,
    parent: number,
    name: string,
    /** killSuidgid: as in open(), for the case that the file exists by now. */
    create: CreateIn & { readonly flags: number; readonly killSuidgid?: boolean },
  ): MaybePromise<EntryOut & OpenOut>;
  tmpfile(
    request: RequestContext,
    parent: number,
    create: CreateIn & { readonly flags: number },
  ): MaybePromise<EntryOut & OpenOut>;
  /**
   * The chunks together are the answer: at most sizeBytes, less only at the end of the file. They must not change
   * afterwards.
   */
  read(request: RequestContext, nodeid: number, read: ReadIn): MaybePromise<readonly Uint8Array[]>;
  write(request: RequestContext, nodeid: number, write: WriteIn): MaybePromise<number>;
  /** One close(2). Must never park. */
  flush(request: RequestContext, nodeid: number, fh: number, owner: string): MaybePromise<void>;
  /** The last close. Must never park. */
  release(request: RequestContext, nodeid: number, release: ReleaseIn): MaybePromise<void>;
  fsync(request: RequestContext, nodeid: number, fh: number, datasync: boolean): MaybePromise<void>;
  opendir(request: RequestContext, nodeid: number, flags: number): MaybePromise<OpenOut>;
  readdir(
    request: RequestContext,
    nodeid: number,
    fh: number,
    offset: number,
    plus: boolean,
    push: DirSink,
  ): MaybePromise<void>;
  releasedir(request: RequestContext, nodeid: number, fh: number): MaybePromise<void>;
  fsyncdir(request: RequestContext, nodeid: number, fh: number, datasync: boolean): MaybePromise<void>;
  statfs(request: RequestContext, nodeid: number): MaybePromise<StatfsOut>;
  getxattr(request: RequestContext, nodeid: number, name: string): MaybePromise<Uint8Array>;
  setxattr(
    request: RequestContext,
    nodeid: number,
    name: string,
    value: Uint8Array,
    flags: number,
    killSgid: boolean,
  ): MaybePromise<void>;
  listxattr(request: RequestContext, nodeid: number): MaybePromise<readonly string[]>;
  removexattr(request: RequestContext, nodeid: number, name: string): MaybePromise<void>;
  getlk(request: RequestContext, nodeid: number, lock: LockIn): MaybePromise<LockOut>;
  setlk(request: RequestContext, nodeid: number, lock: LockIn): MaybePromise<void>;
  fallocate(
    request: RequestContext,
    nodeid: number,
    fh: number,
    mode: number,
    offset: number,
    length: number,
  ): MaybePromise<void>;
  lseek(
    request: RequestContext,
    nodeid: number,
    fh: number,
    offset: number,
    what: 'data' | 'hole',
  ): MaybePromise<number>;
  copyFileRange(
    request: RequestContext,
    from: { readonly nodeid: number; readonly fh: number; readonly offset: number },
    to: { readonly nodeid: number; readonly fh: number; readonly offset: number },
    length: number,
  ): MaybePromise<number>;
}

/**
 * Invalidations, sent from a thread of their own. Each promise resolves when the kernel has done it; ENOENT (unknown
 * inode) counts as done. Code on which a pending FUSE reply depends must never await an invalidation of a range.
 */
export interface KernelNotifier {
  /** Drops attributes only; never hangs. */
  invalidateAttr(nodeid: number): Promise<void>;
  /** Drops cached pages of [offset, offset+length), length 0: to the end; writes dirty mapped pages back first. */
  invalidateData(nodeid: number, offset: number, length: number): Promise<void>;
  /** Makes the kernel look up every dentry of the mount once more (INC_EPOCH). false: this kernel cannot do that. */
  bumpEpoch(): Promise<boolean>;
  /** The kernel gets the replies sent so far before any invalidation that is asked for after this call. */
  flushReplies(): void;
}

/**
 * The waits of a caller that its pending signals may end:
 * - everyCall: any call (the caller is about to die, or the mount has `intr=all`).
 * - awayCalls: what lockWaits may end, and a call that has waited for an absent server for longer than the grace.
 * - lockWaits: only a wait that a local filesystem would end as well.
 * - nothing: no signal is pending, or none that may end anything.
 */
export type SignalReach = 'everyCall' | 'awayCalls' | 'lockWaits' | 'nothing';

/** Reads the caller's pending signals in /proc (mount/signals.ts). */
export type InterruptPolicy = (pid: number) => SignalReach;

/** Takes the dispatcher's bytes: the native channel, or a test. All calls return at once. */
export interface FuseDevice {
  /** Sends one whole reply or notification as one write; its header is the first chunk. */
  send(chunks: readonly Uint8Array[]): void;
  /**
   * Room for small replies of the current batch: the dispatcher writes them there one behind the other, each 8-byte
   * aligned, and the channel sends them when the batch callback returns.
   */
  readonly replySlab: Buffer;
}
