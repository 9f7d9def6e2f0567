/**
 * What all operations of a client share: its caches, its handles and its targets. beliefs.ts decides what enters the caches
 * and what the client believes of them.
 */

import { assert } from '../../base/assert.js';
import { isRegular } from '../../base/attr.js';
import type { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import { isPromise, type MaybePromise } from '../../base/maybe_promise.js';
import { SLAB_BYTES, SlabPool } from '../../base/slab_pool.js';
import type { Runtime } from '../../runtime/ports.js';
import type { ClientOptions } from '../api.js';
import type { Passenger } from '../session/gate.js';
import { KeptMemory } from '../session/kept_memory.js';
import { OWN_BITS } from '../session/own_directories.js';
import { type TargetSession, Targets } from '../session/target_session.js';
import { AttrCache } from './attr_cache.js';
import { Beliefs } from './beliefs.js';
import { CacheUses } from './cache_uses.js';
import { DentryCache } from './dentry_cache.js';
import { type FileState, FileTable } from './file_state.js';
import type { Granule } from './granule.js';
import { KernelQueue } from './kernel_queue.js';
import { LastParents } from './last_parents.js';
import { OpenFiles } from './open_files.js';
import { PageCache, type PageMemory } from './page_cache.js';
import { SmallReads } from './small_reads.js';

/** Below this the machinery of readahead and write-back would fight over single granules. */
const CACHE_MIN_BYTES = 16 << 20;
const DIRTY_MAX_BYTES = 128 << 20;
/** Locks of removed files go back after this time. Until then they are of no use, and do no harm. */
const GIVE_UP_DELAY_MS = 100;
/** Free slabs that the client keeps beside its cache limit. Streams were no faster with 32. */
const SLABS = 8;
/**
 * Measured: of 44,000 new small files with two locks each, the last 22,000 take 79 MiB of the process: 52 MiB of all are live in the heap,
 * and the rest is what the garbage collector has not come to.
 */
const LOCK_BYTES = 1900;
const NAME_BYTES = 100;

export class ClientContext {
  readonly runtime: Runtime;
  readonly options: ClientOptions;
  readonly targets = new Targets();
  readonly attrs = new AttrCache();
  readonly names = new DentryCache();
  readonly uses = new CacheUses();
  readonly handles = new OpenFiles();
  readonly parents = new LastParents();
  readonly smallReads = new SmallReads(this.parents);
  /** Memory of large transfers and of the page cache, used in turn. */
  readonly slabs = new SlabPool(SLABS);
  /** The part of that memory that a replay may still need after the page cache is done with it. */
  readonly kept = new KeptMemory(this.slabs);
  readonly pages: PageCache;
  readonly files: FileTable;
  readonly kernel: KernelQueue;
  readonly beliefs: Beliefs;
  /** Writers wait when more bytes than this are dirty. */
  readonly dirtyLimitBytes: number;
  #unlinked: { readonly target: TargetSession; readonly fid: Fid }[] = [];

  constructor(runtime: Runtime, options: ClientOptions) {
    this.runtime = runtime;
    this.options = options;
    const limit = Math.max(options.cacheBytes, CACHE_MIN_BYTES);
    const { slabs, kept } = this;
    const memory: PageMemory = {
      take: () => slabs.take(SLAB_BYTES),
      retire: (slab) => runtime.timers.soon(() => kept.give(slab)),
      keepFree: (bytes) => slabs.keepAtMost(SLABS + Math.floor(bytes / SLAB_BYTES)),
    };
    this.pages = new PageCache(limit, memory, () => this.#metadataBytes());
    this.files = new FileTable(this.pages);
    this.beliefs = new Beliefs(this);
    this.kernel = new KernelQueue(options.kernel);
    this.dirtyLimitBytes = Math.min(limit / 2, DIRTY_MAX_BYTES);
  }

  /** Bytes of V8's heap that locks, and the attributes and names under them, take. */
  #metadataBytes(): number {
    let locks = 0;
    for (const target of this.targets.all()) locks += target.locks.size;
    return locks * LOCK_BYTES + this.names.size * NAME_BYTES;
  }

  /**
   * Runs an operation that may need RPCs to this target. It passes the target's gate, and counts as inside until it has ended.
   * @param tag the handle that the operation uses, if any: see Gate.rejectTagged.
   */
  pass<T>(target: TargetSession, op: Passenger, run: () => MaybePromise<T>, tag?: unknown): MaybePromise<T> {
    const wait = target.gate.enter(op, tag);
    return wait === undefined ? inside(target, run) : wait.then(() => inside(target, run));
  }

  // Unlinked files.

  /**
   * The inode has no name any more, and no handle: nobody will use what the client keeps of it. Its locks go back in a moment,
   * many in one message. The client does not notify the kernel: the kernel has dropped its inode, or asks in vain.
   */
  dropUnlinked(target: TargetSession, fid: Fid): void {
    this.#unlinked.push({ target, fid });
    if (this.#unlinked.length > 1) return;
    this.runtime.timers.after(GIVE_UP_DELAY_MS, () => {
      const unlinked = this.#unlinked;
      this.#unlinked = [];
      for (const each of unlinked) this.#giveUp(each.target, each.fid);
    });
  }

  #giveUp(target: TargetSession, fid: Fid): void {
    // An open has crossed the unlink.
    if (this.handles.isOpen(fid)) return;
    this.attrs.delete(fid);
    this.names.drop(fid);
    target.own.gone(target.locks.match('inode', fid, 'EX', OWN_BITS));
    target.own.forget(fid);
    target.locks.giveBackUnused(fid);
    this.forgetIfUnused(target, fid);
  }

  // Dirty data.

  /** Dirty bytes of one target, those in flight included. */
  dirtyBytes(target: TargetSession): number {
    let bytes = 0;
    for (const file of this.filesOf(target)) bytes += file.unwrittenBytes;
    return bytes;
  }

  *filesOf(target: TargetSession): Iterable<FileState> {
    for (const file of this.files.values()) if (this.isOn(target, file.fid)) yield file;
  }

  isOn(target: TargetSession, fid: Fid): boolean {
    return this.targets.of(fid) === target;
  }

  /** The last data lock on the file is gone, by whatever way: an unlinked file's goes without a release, also if a read is under way. */
  uncovered(target: TargetSession, fid: Fid): void {
    const file = this.files.get(fid);
    if (file === undefined) return;
    file.sizeKnown = false;
    this.forgetFileIfUnused(target, file);
  }

  forgetIfUnused(target: TargetSession, fid: Fid): void {
    const file = this.files.get(fid);
    if (file !== undefined) this.forgetFileIfUnused(target, file);
  }

  forgetFileIfUnused(target: TargetSession, file: FileState): void {
    this.files.forgetIfUnused(file, target.locks.holds('data', file.fid) || this.handles.isOpen(file.fid));
  }

  /** Drops cached pages, dirty ones too, and takes back the grant that was paid for them. @returns dirty bytes dropped. */
  dropPages(
    target: TargetSession,
    file: FileState,
    start = 0,
    end: number = Number.MAX_SAFE_INTEGER,
  ): number {
    target.changes.contentChanges(file.fid);
    file.spoil(start, end);
    if (file.isEmpty) return 0;
    const lost = file.pages.drop(start, end);
    target.grantBytes += file.pages.refund(start, end);
    return lost;
  }

  /** A write-back of the file failed for good. */
  writeFailed(file: FileState, error: FsError): void {
    this.handles.writeFailed(file.fid, error);
  }

  /** Checks the tables, and what must agree across them. To be called between two events. */
  checkInvariants(): void {
    for (const target of this.targets.all()) target.checkInvariants();
    this.handles.checkInvariants();
    this.slabs.checkInvariants();
    this.kept.checkInvariants(this.targets.all().flatMap(({ replays }) => [...replays.keptChunks()]));
    this.files.checkInvariants();
    this.pages.checkInvariants(this.#granules());
    for (const file of this.files.values()) this.#checkFile(file);
    for (const { fh, fid, directory, life } of this.handles.all()) {
      if (directory || life.isOver) continue;
      assert(this.files.get(fid) !== undefined || !this.#isRegular(fid), `handle ${fh} has no file ${fid}`);
    }
  }

  *#granules(): Iterable<Granule> {
    for (const file of this.files.values()) yield* file.knownPages?.granules() ?? [];
  }

  #isRegular(fid: Fid): boolean {
    const attr = this.attrs.get(fid);
    return attr !== undefined && isRegular(attr.mode);
  }

  #checkFile(file: FileState): void {
    const { fid } = file;
    const { locks } = this.targets.of(fid);
    const isCovered = locks.holds('data', fid);
    assert(!file.sizeKnown || isCovered, `the size of ${fid} is believed without a data lock`);
    assert(
      file.unwrittenBytes === 0 || isCovered,
      `${file.unwrittenBytes} bytes of ${fid} are dirty without a lock`,
    );
    const inUse = isCovered || this.handles.isOpen(fid);
    assert(inUse || !file.isEmpty || file.isBusy, `file ${fid} is of no use`);
  }
}

function inside<T>(target: TargetSession, run: () => MaybePromise<T>): MaybePromise<T> {
  let result: MaybePromise<T>;
  try {
    result = run();
  } catch (error) {
    target.gate.leave();
    throw error;
  }
  if (!isPromise(result)) {
    target.gate.leave();
    return result;
  }
  return result.finally(() => target.gate.leave());
}
