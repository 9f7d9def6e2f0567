/**
 * What a client knows of the data of one regular file: size and times, pages, and the requests that wait for them.
 *
 * Size, mtime and blocks are true while `sizeKnown`, which needs a data lock. Under PW this client is the authority: until the
 * lock is gone it ignores what replies say of them, except replies to its own operations that set them.
 *
 * Who writes the fields:
 *   size, times, blocks          beliefs.ts by adopt(); operations/data.ts and io_lock.ts when a program writes; write_back.ts
 *                                when the target has answered a WRITE
 *   sizeKnown                    beliefs.ts sets it; lock_release.ts and replay.ts clear it when the lock goes, remote_namespace.ts
 *                                when an open cuts the file
 *   exclusive, exclusives, waitsToCut, enqueues    io_lock.ts
 *   flushing, flushWaiters, contentUnderWay    write_back.ts
 *   fetches                      readahead.ts
 *   handingBack, handedBack, cutCrossed    lock_release.ts; io_lock.ts clears cutCrossed when the truncate is done
 *   delivered                    operations/data.ts adds, lock_release.ts takes
 *   held                         io_lock.ts; lock_release.ts marks entries as crossed
 *   unpaidSeq                    operations/data.ts
 *
 * Invariant: no caller waits for a write that is on the target already.
 */

import { assert } from '../../base/assert.js';
import type { Attr, Timespec } from '../../base/attr.js';
import type { Fid } from '../../base/ids.js';
import type { Range } from '../../base/interval_set.js';
import type { CachedLock } from '../../dlm/api.js';
import { FilePages } from './file_pages.js';
import type { PageCache } from './page_cache.js';

/** A READ RPC under way. */
export interface Fetch extends Range {
  done: Promise<void>;
  /** Ranges that were written or cut since the READ was sent: what it brings of them is old. */
  readonly stale: { start: number; end: number }[];
}

/** A read or write of the kernel that waits for the gate or for a data lock (io_lock.ts). */
export interface Held extends Range {
  readonly write: boolean;
  /** The kernel keeps the folios of the range locked meanwhile. A request that goes past the kernel's page cache locks none. */
  readonly folios: boolean;
  /**
   * The client has told the kernel to drop its pages, except those of this range. When the request has its answer, the client must
   * drop them too.
   */
  crossed: boolean;
  /** Serves the request under the lock that is being given back after all: an invalidation is stuck on its folios. */
  serve(lock: CachedLock): void;
}

export class FileState {
  readonly fid: Fid;
  readonly #cache: PageCache;
  #pages: FilePages | undefined;
  sizeKnown = false;
  sizeBytes = 0;
  blocks = 0;
  mtime: Timespec = { sec: 0, nsec: 0 };
  ctime: Timespec = { sec: 0, nsec: 0 };
  /** An operation that needs the file for itself is under way (truncate, fallocate, copy, change of times): writes wait. */
  exclusive: Promise<void> | undefined;
  /** How many operations have the file for themselves, or wait for that. */
  exclusives = 0;
  /** A truncate asks for its PW lock. Until the truncate is done, the kernel writes no page of the file back. */
  waitsToCut = false;
  /**
   * While a truncate waited, a lock went back, and the kernel still has pages from under it. The client drops these pages when the
   * truncate is done.
   */
  cutCrossed = false;
  /**
   * Number of the last write that the target has promised no space for, and may refuse: a store into a mapping. It stays when the
   * write is done: compare it with pages.isWritten().
   */
  unpaidSeq = 0;
  /** The whole content is under way in a BATCH, which the target executes before what is sent later. */
  contentUnderWay = false;
  /** Write back everything, not only full granules. */
  flushing = false;
  readonly fetches: Fetch[] = [];
  /** Enqueues of data locks under way, by mode. */
  readonly enqueues: { PR?: Promise<CachedLock> | undefined; PW?: Promise<CachedLock> | undefined } = {};
  /** Callers that wait until all writes up to `seq` are on the target. */
  readonly flushWaiters: { readonly seq: number; readonly done: () => void }[] = [];

  /**
   * Whether a data lock is being given back. 'serving': the client still serves the kernel's requests under it. 'holding': they
   * wait.
   */
  handingBack: 'no' | 'serving' | 'holding' = 'no';
  handedBack: Promise<void> | undefined;
  /** What the client served while it was giving a lock back: the kernel may have kept it. */
  delivered: Range[] = [];
  readonly held: Held[] = [];

  constructor(fid: Fid, cache: PageCache) {
    this.fid = fid;
    this.#cache = cache;
  }

  /** Made on first use: programs look at most files without reading them. */
  get pages(): FilePages {
    this.#pages ??= new FilePages(this.#cache);
    return this.#pages;
  }

  /** Dirty bytes, those in flight included. */
  get unwrittenBytes(): number {
    return this.#pages?.unwrittenBytes ?? 0;
  }

  /** Something is dirty that no WRITE has taken yet. */
  get isDirty(): boolean {
    return (this.#pages?.dirtyBytes ?? 0) > 0;
  }

  /** Nothing is dirty, and no WRITE is under way. */
  get isClean(): boolean {
    return this.#pages?.isClean ?? true;
  }

  /** A WRITE is under way. The target may finish it after what is sent later. */
  get hasWritesUnderWay(): boolean {
    const flights = this.#pages?.flightCount ?? 0;
    return flights > (this.contentUnderWay ? 1 : 0);
  }

  get isEmpty(): boolean {
    return this.#pages?.isEmpty ?? true;
  }

  /** An operation on the file is under way. */
  get isBusy(): boolean {
    if (this.fetches.length > 0 || this.handingBack !== 'no' || this.held.length > 0) return true;
    const { PR, PW } = this.enqueues;
    return this.exclusives > 0 || PR !== undefined || PW !== undefined;
  }

  /** Takes size, times and blocks as the target has them. */
  adopt(attr: Attr): void {
    this.sizeBytes = attr.sizeBytes;
    this.blocks = attr.blocks;
    this.mtime = attr.mtime;
    this.ctime = attr.ctime;
    this.sizeKnown = true;
  }

  /** Takes size and blocks alone. */
  adoptSize({ sizeBytes, blocks }: Attr): void {
    this.sizeBytes = sizeBytes;
    this.blocks = blocks;
  }

  /** Marks the range as old in the READs under way: the client does not take what they bring of it. */
  spoil(start: number, end: number): void {
    for (const fetch of this.fetches) {
      if (fetch.start < end && fetch.end > start) fetch.stale.push({ start, end });
    }
  }

  /** The pages, if they were made; see `pages`. */
  get knownPages(): FilePages | undefined {
    return this.#pages;
  }

  checkInvariants(): void {
    this.#pages?.checkInvariants();
    for (const { seq } of this.flushWaiters) {
      assert(!this.pages.isWritten(seq), `file ${this.fid}: write ${seq} is waited for, and written`);
    }
    assert(!this.flushing || !this.isClean, `file ${this.fid} is clean, and to be written`);
    assert(this.sizeBytes >= 0, `file ${this.fid} has ${this.sizeBytes} bytes`);
  }
}

/** Removes an item that is in the list. */
export function removeFrom<T>(list: T[], item: T): void {
  const index = list.indexOf(item);
  if (index >= 0) list.splice(index, 1);
}

/** Files of which the client remembers something. It forgets the others: without a lock it can believe nothing of them. */
export class FileTable {
  readonly #files = new Map<Fid, FileState>();
  readonly #cache: PageCache;

  constructor(cache: PageCache) {
    this.#cache = cache;
  }

  get(fid: Fid): FileState | undefined {
    return this.#files.get(fid);
  }

  of(fid: Fid): FileState {
    let file = this.#files.get(fid);
    if (file === undefined) {
      file = new FileState(fid, this.#cache);
      this.#files.set(fid, file);
    }
    return file;
  }

  get size(): number {
    return this.#files.size;
  }

  values(): Iterable<FileState> {
    return this.#files.values();
  }

  /** @param inUse the client holds a lock or a handle of the file. */
  forgetIfUnused(file: FileState, inUse: boolean): void {
    if (inUse || !file.isEmpty || file.isBusy) return;
    if (this.#files.get(file.fid) === file) this.#files.delete(file.fid);
  }

  checkInvariants(): void {
    for (const [fid, file] of this.#files) {
      assert(file.fid === fid, `file ${file.fid} stands as ${fid}`);
      file.checkInvariants();
    }
  }
}
