/**
 * A target's store, as the server sees it: records and file data with operations that are executed at once and
 * committed later.
 *
 * - execute() runs one operation synchronously on an in-memory view over the database. Readers see it from then on.
 *   It is all or nothing: when `run` throws, nothing of it remains.
 * - Executed operations are committed in groups, in transno order. lastCommitted advances when the database says
 *   *flushed*. Data is durable before the metadata that names it.
 * - After a restart replays may be executed with the transnos they had, in their order, until endRecovery().
 * - A failed commit stops the target: every later call rejects with EIO, `failed` resolves with the cause.
 */

import type { Checked } from '../base/assert.js';
import type { Attr, Timespec } from '../base/attr.js';
import type { FsError } from '../base/errno.js';
import type { ClientUuid, Fid, Name, TargetUuid, Transno, Xid } from '../base/ids.js';
import type { MaybePromise } from '../base/maybe_promise.js';
import type { BlockDevice } from '../runtime/ports.js';
import type { StatfsMessage } from '../wire/meta.js';
import type { MetaMedium } from './meta_medium.js';

/** An inode record. `blocks` is kept by file data operations; everything else by the server's handlers. */
export interface Inode extends Attr {
  /** Directories: the directory that holds it (itself for the root). 0 for all else and for removed directories. */
  readonly parent: Fid | 0;
  /**
   * Of the records that hold its content: see content_digest.ts. The store keeps it, whatever it is given. Absent: not
   * known, on targets made by releases before it.
   */
  readonly digest?: number | undefined;
}

export interface Dirent {
  readonly name: Name;
  readonly fid: Fid;
  /** S_IFMT bits. */
  readonly type: number;
  /** Position in readdir, above 0; grows with each entry made in the directory and is never reused in it. */
  readonly cookie: number;
}

/** A client that the server has to wait for after a restart. */
export interface ClientRecord {
  /** What the client shows itself by; undefined in records of releases without. */
  readonly secret?: string | undefined;
  readonly uuid: ClientUuid;
  readonly name: string;
  readonly softwareVersion: string;
  /** Highest transno that had taken effect for it when the record was written; replies say what came later. */
  readonly lastTransno: Transno;
}

/**
 * That an operation of a client took effect, in the transaction of its effect. With the state it is enough to answer the
 * operation when it is sent again after a restart.
 */
export interface ReplyRecord {
  readonly xid: Xid;
  readonly opcode: number;
  readonly transno: Transno;
  /** The inode that it made, removed or changed. */
  readonly fid: Fid | 0;
  /** COPY_RANGE: what was copied. Else 0. */
  readonly copiedBytes: number;
}

/** A client that a server evicted. Kept for people: nothing depends on it. */
export interface EvictionRecord {
  readonly uuid: ClientUuid;
  readonly name: string;
  readonly reason: string;
  /** Of the server that evicted it. */
  readonly instance: number;
  /** Milliseconds since 1970. */
  readonly atMs: number;
  /** What it had when it was evicted; dirtyBytes as it last reported. undefined: it was away, nobody knows. */
  readonly had: EvictedPossessions | undefined;
}

export interface EvictedPossessions {
  readonly opens: number;
  readonly locks: number;
  readonly dirtyBytes: number;
}

/** Evictions are numbered on a target from 1, and take turns in the slots. */
export interface NumberedEviction extends EvictionRecord {
  readonly number: number;
}

/** Of the newest evictions so many are kept on the target. */
export const EVICTIONS_KEPT = 64;

/** Where the record lies: a client has slots 0 to 65,535. One whose reply has arrived at the client is used again. */
export interface SlotReply extends ReplyRecord {
  readonly slot: number;
}

export interface Reader {
  inode(fid: Fid): Inode | undefined;
  /** For who asks about many and wants to know nothing else. */
  hasInode(fid: Fid): boolean;
  dirent(parent: Fid, name: Name): Dirent | undefined;
  /** In cookie order, those with cookie > after, at most limit. */
  dirents(parent: Fid, after: number, limit: number): Dirent[];
  directoryEmpty(parent: Fid): boolean;
  /** undefined: no such attribute. Names are latin1 text. */
  xattr(fid: Fid, name: string): Buffer | undefined;
  xattrNames(fid: Fid): string[];
  symlinkTarget(fid: Fid): Buffer | undefined;
  orphans(): Fid[];
  clients(): ClientRecord[];
  /** In no order. */
  replies(uuid: ClientUuid): SlotReply[];
  /** Those that are kept and readable, of all instances; newest last. */
  evictions(): NumberedEviction[];
}

/** The changes of one operation. Valid only while `run` runs. */
export interface Tx extends Reader {
  /** What this operation gets if it changes anything: for reply data. */
  readonly transno: Transno;
  putInode(inode: Inode): void;
  /** Removes the inode with its xattrs, target and data; its blocks become free when this commits. */
  destroyInode(fid: Fid): void;
  /** The name must not be there. */
  putDirent(parent: Fid, name: Name, fid: Fid, type: number): void;
  removeDirent(parent: Fid, name: Name): void;
  putXattr(fid: Fid, name: string, value: Uint8Array): void;
  removeXattr(fid: Fid, name: string): void;
  putSymlinkTarget(fid: Fid, target: Uint8Array): void;
  /** Unlinked but open: destroyed at the last close, or after recovery when nobody opened it again. */
  putOrphan(fid: Fid): void;
  removeOrphan(fid: Fid): void;
  putClient(record: ClientRecord): void;
  /** With its replies. */
  removeClient(uuid: ClientUuid): void;
  /** Replaces what the slot holds. */
  putReply(uuid: ClientUuid, slot: number, reply: ReplyRecord): void;
  /** Replaces the oldest of those that are kept. */
  putEviction(record: EvictionRecord): void;
  /** A run of `count` FIDs never handed out before. */
  allocateFids(count: number): { readonly start: Fid; readonly end: Fid };
}

export interface Executed<R> {
  readonly result: R;
  /** 0 when nothing was changed, and for what is no replay while the store recovers. */
  readonly transno: Transno;
}

/**
 * What an operation may use of the meta device beside what is anybody's. true: it makes room, or adds no bytes, and may
 * use what is kept back for deletes, and the pages for copies. 'replaces': it puts a record that may be longer in the
 * place of one that is there, and may use what is kept back for deletes. 'own': the server changes it for itself
 * (clients' records, FIDs, orphans, evictions), needs little, and is never refused for lack of room; what can be large goes
 * in steps (room()).
 */
export type ReserveOfMeta = boolean | 'own' | 'replaces';

export interface ExecuteOptions {
  /** A function: asked at the first change, and only where it matters. */
  readonly reserve?: ReserveOfMeta | (() => ReserveOfMeta) | undefined;
  /** Of a replay, while the store recovers: above that of the last one executed, below those of this instance. */
  readonly transno?: Transno | undefined;
}

/**
 * Runs inside each transaction of a data operation, after its own changes. A long one has several: what must not be
 * missing where only a part of the operation is durable belongs in all of them, reply data and client records in
 * the last.
 */
export type Within = (tx: Tx, inode: Inode, isLast: boolean) => void;

/** What goes with a change of content. */
export interface Change {
  /** mtime and ctime of the file from then on. */
  readonly time: Timespec;
  readonly within?: Within | undefined;
  /** As in ExecuteOptions: it is that of the last step of an operation that takes several. */
  readonly transno?: Transno | undefined;
}

export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

export interface FilePlace {
  readonly fid: Fid;
  readonly offset: number;
}

/**
 * File data. Offsets and lengths are bytes. Concurrent operations on one inode take effect one after the other.
 * The inode must be a regular file (the caller checked). EIO: a checksum was wrong. ENOSPC: nothing changed, unless
 * others took the room between the steps of a long operation. What moves content only finds room on a full device too.
 */
export interface FileData {
  /**
   * Chunks, together length bytes, or fewer at the end of the file; holes are zeros.
   * @param memory may be read into, if it is large enough; the chunks are then views of it.
   */
  read(fid: Fid, offset: number, length: number, memory?: Buffer): MaybePromise<readonly Uint8Array[]>;
  /** Memory that read() fills without a copy, to be used again and again. */
  memory(lengthBytes: number): Buffer;
  /** Extends the file if needed, sets mtime and ctime. Owns `data` until it resolves. */
  write(fid: Fid, offset: number, data: Uint8Array, change: Change): MaybePromise<Executed<Inode>>;
  /** Shrinks or extends (by a hole); sets mtime and ctime. */
  truncate(fid: Fid, sizeBytes: number, change: Change): MaybePromise<Executed<Inode>>;
  /** Reserves space; unwritten space reads as zeros. keepSize: the size does not grow. */
  allocate(fid: Fid, range: ByteRange, keepSize: boolean, change: Change): MaybePromise<Executed<Inode>>;
  /** punch: deallocates. zero: reads as zeros, stays allocated. The size grows only for zero without keepSize. */
  clear(
    fid: Fid,
    range: ByteRange,
    how: 'punch' | 'zero',
    keepSize: boolean,
    change: Change,
  ): MaybePromise<Executed<Inode>>;
  /** Bytes of whole blocks that content for this range would add to the file: its holes, if it has its own blocks. */
  missingBytes(fid: Fid, offset: number, length: number): MaybePromise<number>;
  /** The next offset at or after `offset` that is data, or a hole (the end of the file is one). undefined: ENXIO. */
  seek(fid: Fid, offset: number, what: 'data' | 'hole'): number | undefined;
  /** Copies within the target; ranges of one file must not overlap (the caller checked). */
  copy(
    from: FilePlace,
    to: FilePlace,
    length: number,
    change: Change,
  ): MaybePromise<Executed<Inode> & { readonly copied: number }>;
}

export interface Superblock {
  readonly formatVersion: number;
  /** Bits a reader must know to open at all. */
  readonly featuresIncompat: number;
  readonly filesystemUuid: string;
  readonly targetUuid: TargetUuid;
  readonly targetIndex: number;
  readonly label: string;
  /** Version of the software that last served this target; '' when only mkfs touched it. */
  readonly softwareVersion: string;
  /** Number of the serving instance: one more at each start. */
  readonly instance: number;
  /** The last instance stopped by a controlled shutdown (or mkfs). */
  readonly clean: boolean;
}

export interface TargetStore extends Reader, Checked {
  readonly superblock: Superblock;
  /** As given at opening: asked before anything is answered, too. What is not ours any more may have been changed. */
  readonly guard: WriteGuard | undefined;
  readonly data: FileData;
  readonly lastTransno: Transno;
  readonly lastCommitted: Transno;
  /** Transnos of this instance are above it, those of replays below. */
  readonly firstTransno: Transno;
  /** @throws what run throws; FsError ENOSPC, EIO. */
  execute<R>(run: (tx: Tx) => R, options?: ExecuteOptions): Executed<R>;
  /**
   * undefined: go on. Else the meta device is nearly full as far as can be known before the next commit: wait, and ask
   * again before executing. ENOSPC from an operation that asked is the truth.
   */
  room(): Promise<void> | undefined;
  /** Resolves when all that was executed before the call is durable. @throws FsError EIO when the target failed. */
  sync(): Promise<void>;
  onCommit(listener: (lastCommitted: Transno) => void): void;
  statfs(): StatfsMessage;
  /** Bytes of the devices behind what was formatted: `holdfast grow` makes use of them. */
  readonly unusedBytes: { readonly meta: number; readonly data: number };
  /** Bytes that data may still use: free blocks less what is allocated but uncommitted. */
  availableBytes(): number;
  /** Resolves with the cause when a commit failed; never rejects. */
  readonly failed: Promise<Error>;
  /**
   * Makes this instance the serving one: durable before it resolves, sets version, instance + 1, clean = false.
   * recovering: transnos go on where the last durable transaction left them, and only replays get one; everything else
   * that is executed goes into their transactions without. Else the transnos of this instance begin at once.
   * within: more changes that are durable with it.
   */
  begin(
    softwareVersion: string,
    options?: { readonly recovering?: boolean; readonly within?: ((tx: Tx) => void) | undefined },
  ): Promise<void>;
  /**
   * The start failed after begin(): the version and the clean mark are again what begin() found. Nothing may have been
   * executed for a client. @throws FsError EIO when the devices do not take it.
   */
  takeBack(): Promise<void>;
  /** No replay comes any more: the transnos of this instance begin, above all replays. Idempotent. */
  endRecovery(): void;
  /** Commits everything, flushes the devices, then writes the clean mark, last of all, durably. */
  markClean(): Promise<void>;
  /** Releases the devices. Without markClean() before it the target is left unclean. */
  close(): Promise<void>;
}

/** Asked before every write to the devices of a target: see write_guard.ts. */
export interface WriteGuard {
  /** undefined: write now. Else wait for it. @throws FsError (the promise rejects) when nothing may be written any more. */
  check(): Promise<void> | undefined;
  /** Resolves when the target is found to be somebody else's. */
  readonly lost: Promise<FsError>;
}

export interface StoreOptions {
  /** Longest time an executed operation waits for its group commit when nobody asks for it. */
  readonly commitIntervalMs?: number;
  /** Asked before every write to the devices; when it is lost, the target has failed. */
  readonly guard?: WriteGuard;
}

/**
 * openTarget(runtime, meta, data, options): Promise<TargetStore>, in target.ts; formatTarget(...) in mkfs.ts.
 * Opening reads and checks superblocks and pairing only; it changes nothing on the devices before begin().
 * @throws FsError with a one-line message: not formatted, swapped, from different targets, unknown format or
 *   feature bit, corrupted.
 */
export interface TargetDevices {
  /** Path of the meta device, opened and locked exclusively by the caller for as long as the store is open. */
  readonly metaPath: string;
  readonly metaSizeBytes: number;
  readonly data: BlockDevice;
  /** Folder for lmdb's lock file and the link to the device; never in /dev. */
  readonly runtimeDir: string;
  /** Absent: lmdb on the device at metaPath. */
  readonly metaMedium?: MetaMedium | undefined;
}
