/**
 * A target's store, as the server sees it: records and file data. The store executes an operation at once and commits
 * it later.
 *
 * - execute() runs one operation synchronously on an in-memory view over the database. Readers see its changes from
 *   then on. An operation is all or nothing: if `run` throws, the store undoes all of its changes.
 * - The store commits executed operations in groups, in transno order. lastCommitted advances when the database says
 *   *flushed*. Data is durable before the metadata that names it.
 * - After a restart the server may execute replays with the transnos they had, in their order, until endRecovery().
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

/** An inode record. File data operations keep `blocks`; the server's handlers keep everything else. */
export interface Inode extends Attr {
  /** Directories: the directory that holds it (itself for the root). 0 for all else and for removed directories. */
  readonly parent: Fid | 0;
  /**
   * Digest of the records that hold its content: see content_digest.ts. The store computes it, whatever value the
   * caller gives. Undefined on targets that releases before it made: the digest is not known. Each literal names it: a
   * spread that adds a property gives each object a shape of its own, which takes more memory than the inode.
   */
  readonly digest: number | undefined;
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
  /** What the client proves its identity with; undefined in records of releases that had no secrets. */
  readonly secret?: string | undefined;
  readonly uuid: ClientUuid;
  readonly name: string;
  readonly softwareVersion: string;
  /**
   * The client's highest transno that had taken effect when the server wrote the record; the reply records say what
   * came later.
   */
  readonly lastTransno: Transno;
  /**
   * With which entry of the access table the session was made: 'key:NAME', 'certificate:NAME', 'local', 'plain'. At most
   * PRINCIPAL_BYTES_MAX bytes of ASCII. undefined in records of releases that had none, and for a 'local' or 'plain' session
   * of a client without a secret once the record is stored (docs/ONDISK.md).
   */
  readonly principal?: string | undefined;
}

export const PRINCIPAL_BYTES_MAX = 80;

/** Name of an entry of the access table. */
export const ACCESS_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
export const TICKET_SECRET_BYTES = 32;
export const ACCESS_KEYS_MAX = 8;
export const ACCESS_NETWORKS_MAX = 64;

/**
 * An entry of the access table: who may connect, and what they may do. The secrets never leave the server but once, when
 * they are made.
 */
export interface AccessRecord {
  /** 1 to 64 characters, see ACCESS_NAME. */
  readonly name: string;
  /** How they prove who they are: with one of `keys`, or with a certificate that has this name. */
  readonly kind: 'key' | 'certificate';
  /** Pre-shared keys that are valid: one, two while a rotation is under way, at most ACCESS_KEYS_MAX; none for a certificate. */
  readonly keys: readonly AccessKey[];
  readonly readOnly: boolean;
  /** uid and gid 0 of the client become 65534. */
  readonly squashRoot: boolean;
  readonly admin: boolean;
  /** Networks that connections may come from, as ADDRESS/BITS, at most ACCESS_NETWORKS_MAX. Empty: from everywhere. */
  readonly from: readonly string[];
  /** Milliseconds since 1970. */
  readonly createdMs: number;
  readonly limits: AccessLimits;
  /** What a later release has written behind all this. Whoever changes an entry puts it back. */
  readonly later?: Buffer | undefined;
}

export interface AccessKey {
  /** Public: 16 hexadecimal digits, in lower case. */
  readonly id: string;
  /** 32 bytes. */
  readonly secret: Buffer;
  /** Milliseconds since 1970. */
  readonly createdMs: number;
  /** Not valid from then on (milliseconds since 1970, above 0); undefined: without limit. */
  readonly untilMs: number | undefined;
}

/** Limits for all that connect with one entry, below 2^53. undefined: without limit. */
export interface AccessLimits {
  readonly clients?: number | undefined;
  readonly locks?: number | undefined;
  readonly opens?: number | undefined;
  readonly requestsPerSecond?: number | undefined;
  readonly waitingBytes?: number | undefined;
  /** Limits of a later release, by their numbers in the record. Whoever changes an entry puts them back. */
  readonly unknown?: readonly { readonly what: number; readonly value: number }[] | undefined;
}

/**
 * Says that an operation of a client took effect; written in the transaction of that effect. With the target's state it
 * is enough to answer the operation if the client sends it again after a restart.
 */
export interface ReplyRecord {
  readonly xid: Xid;
  readonly opcode: number;
  readonly transno: Transno;
  /** The inode that the operation made, removed or changed. */
  readonly fid: Fid | 0;
  /** COPY_RANGE: the number of bytes that were copied. Else 0. */
  readonly copiedBytes: number;
}

/** A client that a server evicted. Kept for people: nothing depends on it. */
export interface EvictionRecord {
  readonly uuid: ClientUuid;
  readonly name: string;
  readonly reason: string;
  /** The instance that evicted it. */
  readonly instance: number;
  /** Milliseconds since 1970. */
  readonly atMs: number;
  /**
   * What the client had when the server evicted it; dirtyBytes as the client last reported. undefined: the client was
   * away, so nobody knows.
   */
  readonly had: EvictedPossessions | undefined;
}

export interface EvictedPossessions {
  readonly opens: number;
  readonly locks: number;
  readonly dirtyBytes: number;
}

/** A target numbers its evictions from 1; they take turns in the slots. */
export interface NumberedEviction extends EvictionRecord {
  readonly number: number;
}

/** The target keeps this many of its newest evictions. */
export const EVICTIONS_KEPT = 64;

/** Where the record lies: a client has slots 0 to 65,535. The client uses a slot again when the reply has arrived. */
export interface SlotReply extends ReplyRecord {
  readonly slot: number;
}

export interface Reader {
  inode(fid: Fid): Inode | undefined;
  /** Existence check without decoding the inode; for bulk callers. */
  hasInode(fid: Fid): boolean;
  dirent(parent: Fid, name: Name): Dirent | undefined;
  /** In cookie order, entries with cookie > after, at most limit. */
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
  /** The evictions that are kept and readable, of all instances; newest last. */
  evictions(): NumberedEviction[];
  /**
   * The access table: who may connect, in order of name. Empty: nobody has made one.
   * @throws FsError EIO if an entry is damaged: what is left of the table does not say who may connect.
   */
  access(): AccessRecord[];
  /** With which the target's tickets are made (server/access/tickets.ts). undefined: there is none. @throws FsError EIO if it is damaged. */
  ticketSecret(): Buffer | undefined;
}

/** The changes of one operation. Valid only while `run` runs. */
export interface Tx extends Reader {
  /** The transno that this operation gets if it changes anything: for reply data. */
  readonly transno: Transno;
  putInode(inode: Inode): void;
  /** Removes the inode with its xattrs, symlink target and data; its blocks become free when this commits. */
  destroyInode(fid: Fid): void;
  /**
   * The directory must not have the name yet.
   * @param position a replay: the cookie that the entry had. It counts if the directory has nothing at it or after it.
   * @returns the entry's cookie.
   */
  putDirent(parent: Fid, name: Name, fid: Fid, type: number, position?: number): number;
  removeDirent(parent: Fid, name: Name): void;
  putXattr(fid: Fid, name: string, value: Uint8Array): void;
  removeXattr(fid: Fid, name: string): void;
  putSymlinkTarget(fid: Fid, target: Uint8Array): void;
  /**
   * The inode is unlinked but open. The server destroys it at the last close, or after recovery if nobody opened it
   * again.
   */
  putOrphan(fid: Fid): void;
  removeOrphan(fid: Fid): void;
  putClient(record: ClientRecord): void;
  /** Removes its replies too. */
  removeClient(uuid: ClientUuid): void;
  /** Replaces what the slot holds. */
  putReply(uuid: ClientUuid, slot: number, reply: ReplyRecord): void;
  /** Replaces the oldest eviction that is kept. */
  putEviction(record: EvictionRecord): void;
  /**
   * Adds an entry to the access table, or replaces the one of its name. While the table has entries, the target has
   * FEATURE_ACCESS: releases that do not know the table refuse it.
   * @throws FsError EINVAL if there can be no such entry.
   */
  putAccess(record: AccessRecord): void;
  /** Also removes an entry that is damaged. Give it the reserve 'own': it must work on a full target. */
  removeAccess(name: string): void;
  /**
   * 32 random bytes, to be made with the first access entry and removed with the last: releases that do not know the table do not
   * know the record. undefined: removes it.
   */
  putTicketSecret(secret: Uint8Array | undefined): void;
  /** A run of `count` FIDs never handed out before. */
  allocateFids(count: number): { readonly start: Fid; readonly end: Fid };
}

export interface Executed<R> {
  readonly result: R;
  /** 0 if the operation changed nothing, and for an operation that is no replay while the store recovers. */
  readonly transno: Transno;
}

/**
 * What an operation may use of the meta device, beside the pages that every operation may use. true: it makes room, or
 * adds no bytes, and may use the pages kept back for deletes, and the pages for copies. 'replaces': it replaces a
 * record by one that may be longer, and may use the pages kept back for deletes. 'own': the server changes something
 * for itself (clients' records, FIDs, orphans, evictions, entries that leave the access table). This needs little and is
 * never refused for lack of room; a change of the server that can be large goes in steps (room()).
 */
export type ReserveOfMeta = boolean | 'own' | 'replaces';

export interface ExecuteOptions {
  /** A function: called at the first change, and only if the answer matters. */
  readonly reserve?: ReserveOfMeta | (() => ReserveOfMeta) | undefined;
  /**
   * Transno of a replay, while the store recovers: above that of the last one executed, below those of this instance.
   */
  readonly transno?: Transno | undefined;
}

/**
 * Runs inside each transaction of a data operation, after the operation's own changes. A long operation has several
 * transactions. A change that must not be missing if only a part of the operation is durable belongs in all of them;
 * reply data and client records belong in the last.
 */
export type Within = (tx: Tx, inode: Inode, isLast: boolean) => void;

/** What a change of content brings with it. */
export interface Change {
  /** mtime of the file from then on, and ctime, which does not go back. */
  readonly time: Timespec;
  readonly within?: Within | undefined;
  /** As in ExecuteOptions. If the operation takes several steps, the last one gets it. */
  readonly transno?: Transno | undefined;
  /** Called when so many bytes of whole blocks are handed out that the file did not have; more than once for a long operation. */
  readonly takes?: ((bytes: number) => void) | undefined;
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
 * File data. Offsets and lengths are bytes. Concurrent operations on one inode take effect one after the other. The
 * inode must be a regular file (the caller checked). EIO: a checksum was wrong. ENOSPC: nothing changed, unless other
 * operations took the room between the steps of a long one. An operation that only moves content finds room on a full
 * device too.
 */
export interface FileData {
  /**
   * @returns chunks, together length bytes, or fewer at the end of the file; holes are zeros.
   * @param memory the store may read into it, if it is large enough; the chunks are then views of it.
   */
  read(fid: Fid, offset: number, length: number, memory?: Buffer): MaybePromise<readonly Uint8Array[]>;
  /** The whole content of a file that lies in the database; undefined: it lies elsewhere, is empty, or is damaged. */
  smallContent(fid: Fid): Uint8Array | undefined;
  /** Memory that read() fills without a copy; the caller may use it again and again. */
  memory(lengthBytes: number): Buffer;
  /** Extends the file if needed, sets mtime and ctime. Owns `data` until it resolves. */
  write(fid: Fid, offset: number, data: Uint8Array, change: Change): MaybePromise<Executed<Inode>>;
  /**
   * Inside a running change: gives a regular file that the same change has made its whole content, 0 to 4032 bytes of
   * it. Copies the bytes; sets mtime and ctime. @returns the inode as it is then.
   * @throws FsError EINVAL if it is no such file or no such content.
   */
  putWhole(tx: Tx, fid: Fid, content: Uint8Array, time: Timespec): Inode;
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
  /**
   * Bytes of whole blocks that content in this range would add to the file: its holes, if the file has its own blocks.
   */
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
  /** Bits that software must know to open the target at all. */
  readonly featuresIncompat: number;
  readonly filesystemUuid: string;
  readonly targetUuid: TargetUuid;
  readonly targetIndex: number;
  readonly label: string;
  /** Version of the software that last served this target; '' when only mkfs touched it. */
  readonly softwareVersion: string;
  /** Number of the serving instance: one more at each start. */
  readonly instance: number;
  /** A controlled shutdown (or mkfs) ended the last instance. */
  readonly clean: boolean;
}

/** Bytes as operationCost() of wire/batch.ts counts them. */
export interface MetaRoom {
  /** How many more bytes can be promised. 0 while the meta device is nearly full. */
  promisableBytes(): number;
  /** @param bytes more that are promised, and that other operations do not get; below 0: fewer. */
  promise(bytes: number): void;
}

export interface TargetStore extends Reader, Checked {
  readonly superblock: Superblock;
  /**
   * As given at opening. The server asks it before it answers anything, too: if the target is not ours any more,
   * another server may have changed it.
   */
  readonly guard: WriteGuard | undefined;
  readonly data: FileData;
  readonly lastTransno: Transno;
  readonly lastCommitted: Transno;
  /** Transnos of this instance are above it, transnos of replays below. */
  readonly firstTransno: Transno;
  /** @throws what run throws; FsError ENOSPC, EIO. */
  execute<R>(run: (tx: Tx) => R, options?: ExecuteOptions): Executed<R>;
  /**
   * undefined: go on. Else the meta device is nearly full, as far as the store can know before the next commit: wait,
   * and ask again before executing. If an operation gets ENOSPC after this call, the device is really full.
   */
  room(): Promise<void> | undefined;
  /** Resolves when every operation executed before the call is durable. @throws FsError EIO if the target failed. */
  sync(): Promise<void>;
  onCommit(listener: (lastCommitted: Transno) => void): void;
  statfs(): StatfsMessage;
  /** Bytes of the devices behind the formatted part: `holdfast grow` makes use of them. */
  readonly unusedBytes: { readonly meta: number; readonly data: number };
  /** Bytes that data may still use: free blocks less what is allocated but uncommitted. */
  availableBytes(): number;
  /** The room of the meta device, for those who promise parts of it (BATCH). */
  readonly metaRoom: MetaRoom;
  /** Resolves with the cause when a commit failed; never rejects. */
  readonly failed: Promise<Error>;
  /**
   * Makes this instance the serving one: durable before it resolves, sets version, instance + 1, clean = false.
   * recovering: transnos go on where the last durable transaction left them, and only replays get one; every other
   * operation goes into the replays' transactions without a transno of its own. Else the transnos of this instance
   * begin at once. within: more changes that are durable with it.
   */
  begin(
    softwareVersion: string,
    options?: { readonly recovering?: boolean; readonly within?: ((tx: Tx) => void) | undefined },
  ): Promise<void>;
  /**
   * For a start that failed after begin(): sets the version and the clean mark back to what begin() found. The server
   * must not have executed anything for a client. @throws FsError EIO if the devices refuse the write.
   */
  takeBack(): Promise<void>;
  /** No replay comes any more: the transnos of this instance begin, above all replays. Idempotent. */
  endRecovery(): void;
  /** Flushes the data device, then commits everything that was executed, and the clean mark with it: the last write. */
  markClean(): Promise<void>;
  /** Releases the devices. Without a markClean() before it, the target stays unclean. */
  close(): Promise<void>;
}

/** The store asks it before every write to the devices of a target: see write_guard.ts. */
export interface WriteGuard {
  /**
   * undefined: write now. Else wait for it. @throws FsError (the promise rejects) if the caller may not write any more.
   */
  check(): Promise<void> | undefined;
  /** Resolves when the guard finds that somebody else has the target. */
  readonly lost: Promise<FsError>;
}

export interface StoreOptions {
  /** Longest time that an executed operation waits for its group commit if nobody asks for the commit. */
  readonly commitIntervalMs?: number;
  /** Asked before every write to the devices; if it is lost, the target fails. */
  readonly guard?: WriteGuard;
  /**
   * False: no redo log, so that a release without one can go on after a crash. A log that the last instance left is
   * applied all the same.
   */
  readonly redoLog?: boolean | undefined;
}

/**
 * openTarget(runtime, meta, data, options): Promise<TargetStore>, in target.ts; formatTarget(...) in mkfs.ts. Opening
 * only reads and checks the superblocks and the pairing; it changes nothing on the devices before begin().
 * @throws FsError with a one-line message: not formatted, swapped, from different targets, unknown format or
 *   feature bit, corrupted.
 */
export interface TargetDevices {
  /** Path of the meta device. The caller has opened and locked it exclusively for as long as the store is open. */
  readonly metaPath: string;
  readonly metaSizeBytes: number;
  readonly data: BlockDevice;
  /** Folder for lmdb's lock file and the link to the device; never in /dev. */
  readonly runtimeDir: string;
  /** Absent: lmdb on the device at metaPath. */
  readonly metaMedium?: MetaMedium | undefined;
}
