/**
 * What all operations of a client share: caches, handles, targets, and the rules by which a reply enters the caches.
 *
 * Messages are applied in the order in which they arrive (CallOptions.apply). Whether something may be believed is
 * decided when it is used: attributes and names are cacheable while a lock that covers them is held and was not called
 * back. So known() is called last, in the turn that answers the kernel, never when the reply arrived: a BAST that came
 * right behind the reply must be seen.
 */

import { type Attr, blocksOfUnwritten, compareTime, isDir, isRegular, shownBlocks } from '../../base/attr.js';
import type { FsError } from '../../base/errno.js';
import { type Fid, type Name, ROOT_FID } from '../../base/ids.js';
import { isPromise, type MaybePromise } from '../../base/maybe_promise.js';
import { SLAB_BYTES, SlabPool } from '../../base/slab_pool.js';
import type { Runtime } from '../../runtime/ports.js';
import { BIT_ATTR, BIT_UPDATE, type GrantMessage } from '../../wire/lock.js';
import { WANT_ATTR, WANT_DATA_READ, WANT_PARENT } from '../../wire/meta.js';
import type { ClientOptions, Known } from '../api.js';
import type { Passenger } from '../session/gate.js';
import { KeptMemory } from '../session/kept_memory.js';
import { type Target, Targets } from '../session/target.js';
import { AttrCache } from './attr_cache.js';
import { DentryCache } from './dentry_cache.js';
import { type FileState, FileTable } from './file_state.js';
import { KernelQueue } from './kernel_queue.js';
import { OpenFiles } from './open_files.js';
import { PageCache } from './page_cache.js';

/** Below this the machinery of readahead and write-back would fight over single granules. */
const CACHE_MIN_BYTES = 16 << 20;
const DIRTY_MAX_BYTES = 128 << 20;
/** Locks of removed files are of use to nobody, and hurt nobody for so long. */
const GIVE_UP_DELAY_MS = 100;
/** As much as a stream has under way at once. */
const SLABS = 32;
/** Measured: 30,000 small files with two locks each, their attributes and states, are 62 MiB of heap. */
const LOCK_BYTES = 1100;
const NAME_BYTES = 100;

export class Core {
  readonly runtime: Runtime;
  readonly options: ClientOptions;
  readonly targets = new Targets();
  readonly attrs = new AttrCache();
  readonly names = new DentryCache();
  readonly handles = new OpenFiles();
  /** Memory of large transfers and of the page cache, used in turn. */
  readonly slabs = new SlabPool(SLABS);
  /** What of it a replay may still need after the page cache has let go of it. */
  readonly kept = new KeptMemory(this.slabs);
  readonly pages: PageCache;
  readonly files: FileTable;
  readonly kernel: KernelQueue;
  /** Writers wait when more than this is dirty. */
  readonly dirtyLimitBytes: number;
  #unlinked: { readonly target: Target; readonly fid: Fid }[] = [];

  constructor(runtime: Runtime, options: ClientOptions) {
    this.runtime = runtime;
    this.options = options;
    const limit = Math.max(options.cacheBytes, CACHE_MIN_BYTES);
    const memory = {
      take: () => this.slabs.take(SLAB_BYTES),
      retire: (slab: Buffer) => runtime.timers.soon(() => this.kept.give(slab)),
    };
    this.pages = new PageCache(limit, memory, () => this.#metadataBytes());
    this.files = new FileTable(this.pages);
    this.kernel = new KernelQueue(options.kernel);
    this.dirtyLimitBytes = Math.min(limit / 2, DIRTY_MAX_BYTES);
  }

  /** What locks, and the attributes and names under them, take of V8's heap. */
  #metadataBytes(): number {
    let locks = 0;
    for (const target of this.targets.all()) locks += target.locks.size;
    return locks * LOCK_BYTES + this.names.size * NAME_BYTES;
  }

  /**
   * Runs an operation that may need RPCs to this target: through its gate, counted until it has answered.
   * @param tag the handle that it uses, if any: see Gate.rejectTagged.
   */
  pass<T>(target: Target, op: Passenger, run: () => MaybePromise<T>, tag?: unknown): MaybePromise<T> {
    const wait = target.gate.enter(op, tag);
    return wait === undefined ? inside(target, run) : wait.then(() => inside(target, run));
  }

  // What replies bring.

  applyGrants(target: Target, locks: readonly GrantMessage[]): void {
    for (const { handle, fid, type, mode, bits } of locks) {
      target.locks.add({ handle, fid, type, mode, bits: bits ?? 0 });
      if (type === 'data') this.files.of(fid);
    }
    // They take of the memory that pages may have.
    if (locks.length > 0) this.pages.makeRoom();
  }

  /**
   * Attributes from a reply, in its apply(), after its grants.
   * @param own the reply is of an operation of ours that set size or times, before which the file was flushed.
   */
  applyAttr(target: Target, attr: Attr, own = false): void {
    const { fid } = attr;
    if (fid === ROOT_FID) this.attrs.sawRoot(attr);
    let bits = BIT_ATTR;
    if (isRegular(attr.mode)) {
      const file = this.files.get(fid);
      if (file !== undefined) applySize(target, file, attr, own);
    } else if (isDir(attr.mode)) {
      bits |= BIT_UPDATE;
    }
    if (target.locks.match('inode', fid, 'PR', bits) !== undefined) this.attrs.put(attr);
    else this.attrs.delete(fid);
  }

  applyName(target: Target, parent: Fid, name: Name, fid: Fid | 0): void {
    if (this.holdsNames(target, parent)) this.names.put(parent, name, fid);
  }

  // What is believed.

  holdsNames(target: Target, parent: Fid): boolean {
    return target.locks.match('inode', parent, 'PR', BIT_UPDATE) !== undefined;
  }

  /** Attributes that locks of ours keep true, or undefined. */
  cachedAttr(target: Target, fid: Fid): Known | undefined {
    const attr = this.attrs.get(fid);
    if (attr === undefined) return undefined;
    const known = this.known(target, attr, undefined);
    return known.attrCacheable ? known : undefined;
  }

  /**
   * The inode as it is now, to be handed out in this turn.
   * @param attr what the reply said; what the cache has under a lock is not older.
   * @param parent where its name was looked up.
   */
  known(target: Target, attr: Attr, parent: Fid | undefined): Known {
    const { fid } = attr;
    const { locks } = target;
    const nameCacheable = parent !== undefined && this.holdsNames(target, parent);
    const fresh = this.attrs.get(fid) ?? attr;
    if (isRegular(fresh.mode)) {
      const file = this.files.get(fid);
      if (file === undefined || !file.sizeKnown || !locks.holds('data', fid)) {
        return { attr: withBlocks(fresh), attrCacheable: false, nameCacheable };
      }
      const attrCacheable =
        locks.match('inode', fid, 'PR', BIT_ATTR) !== undefined &&
        locks.match('data', fid, 'PR', 0) !== undefined;
      return { attr: withSize(fresh, file), attrCacheable, nameCacheable };
    }
    const bits = isDir(fresh.mode) ? BIT_ATTR | BIT_UPDATE : BIT_ATTR;
    const attrCacheable = locks.match('inode', fid, 'PR', bits) !== undefined;
    return { attr: fresh, attrCacheable, nameCacheable };
  }

  /** Locks to ask for with an operation in this directory. */
  wantParent(target: Target, parent: Fid): number {
    const held = target.locks.match('inode', parent, 'PR', BIT_UPDATE | BIT_ATTR);
    return held === undefined ? WANT_PARENT : 0;
  }

  /** Locks to ask for with the attributes of an inode. */
  wantAttr(target: Target, fid: Fid): number {
    const attr = this.attrs.get(fid);
    // An entry is only there under its lock.
    if (attr === undefined) return WANT_ATTR | WANT_DATA_READ;
    return isRegular(attr.mode) && !target.locks.holds('data', fid) ? WANT_DATA_READ : 0;
  }

  // What is gone.

  /**
   * The inode has no name any more, and no handle: nobody will use what is kept of it. Its locks go back in a moment,
   * many in one message. The kernel is not told: it has dropped its inode, or asks in vain.
   */
  giveUp(target: Target, fid: Fid): void {
    this.#unlinked.push({ target, fid });
    if (this.#unlinked.length > 1) return;
    this.runtime.timers.after(GIVE_UP_DELAY_MS, () => {
      const unlinked = this.#unlinked;
      this.#unlinked = [];
      for (const each of unlinked) this.#giveUp(each.target, each.fid);
    });
  }

  #giveUp(target: Target, fid: Fid): void {
    // An open that crossed the unlink.
    if (this.handles.isOpen(fid)) return;
    this.attrs.delete(fid);
    this.names.drop(fid);
    target.locks.giveUp(fid);
    const file = this.files.get(fid);
    if (file !== undefined) this.forgetFileIfUnused(target, file);
  }

  // Dirty data.

  /** Dirty bytes of one target, those in flight included. */
  dirtyBytes(target: Target): number {
    let bytes = 0;
    for (const file of this.filesOf(target)) bytes += file.unwrittenBytes;
    return bytes;
  }

  *filesOf(target: Target): Iterable<FileState> {
    for (const file of this.files.values()) if (this.isOn(target, file.fid)) yield file;
  }

  isOn(target: Target, fid: Fid): boolean {
    return this.targets.of(fid) === target;
  }

  forgetFileIfUnused(target: Target, file: FileState): void {
    this.files.forgetIfUnused(file, target.locks.holds('data', file.fid) || this.handles.isOpen(file.fid));
  }

  /** Drops cached pages, dirty ones too, and gives back what was paid for them. @returns dirty bytes dropped. */
  dropPages(target: Target, file: FileState, start = 0, end: number = Number.MAX_SAFE_INTEGER): number {
    file.spoil(start, end);
    if (file.isEmpty) return 0;
    const lost = file.pages.drop(start, end);
    if (file.pages.dirtyBytes === 0) target.grantBytes += file.pages.refund();
    return lost;
  }

  /** A write-back of the file failed for good. */
  writeFailed(file: FileState, error: FsError): void {
    this.handles.writeFailed(file.fid, error);
  }
}

function inside<T>(target: Target, run: () => MaybePromise<T>): MaybePromise<T> {
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

function applySize(target: Target, file: FileState, attr: Attr, own: boolean): void {
  const { locks } = target;
  if (!locks.holds('data', file.fid)) {
    file.sizeKnown = false;
  } else if (own || !file.sizeKnown || locks.find('data', file.fid, 'PW', 0) === undefined) {
    file.adopt(attr);
  } else if (compareTime(attr.ctime, file.ctime) > 0) {
    file.ctime = attr.ctime;
  }
}

function withBlocks(attr: Attr): Attr {
  const blocks = shownBlocks(attr.blocks);
  return blocks === attr.blocks ? attr : { ...attr, blocks };
}

/** Attributes of a file under a data lock: size and times are ours to say. */
function withSize(attr: Attr, file: FileState): Attr {
  return {
    ...attr,
    sizeBytes: file.sizeBytes,
    blocks: Math.max(shownBlocks(file.blocks), blocksOfUnwritten(file.unwrittenBytes)),
    mtime: file.mtime,
    ctime: compareTime(file.ctime, attr.ctime) > 0 ? file.ctime : attr.ctime,
  };
}
