/**
 * The kernel's caches, as far as vfs has to keep them true: what it hands out as believable, and how it takes that back.
 *
 * The rule: the kernel believes an attribute, a name or a page only while the client holds the lock it is under. The
 * client calls the KernelCache methods before it gives the lock back, and gives it back when they have resolved.
 *
 * A reply that crosses an invalidation must leave nothing stale. Four ways, four answers:
 *   - the reply is still in the out-slab: flushReplies() sends it before the invalidation is queued;
 *   - the answer was formed before the drop and is sent after it (a promise turn lies between): a drop counter taken
 *     when the wait began has moved, and the answer goes out with validity 0;
 *   - the reply was sent, the caller's thread has not applied it yet: the kernel compares attribute versions for an inode
 *     that it has, and epochs for a name, both taken when the request was made;
 *   - the same, for an inode that the kernel does not have yet: the invalidation finds nothing (ENOENT) and the
 *     attributes come after it. Such an inode is *unproven* in the NodeTable. Its names are invalidated too, so that the
 *     kernel looks up every path to it again. It is a *suspect*: an open of it invalidates its attributes once more.
 *
 * Attributes that no lock keeps true (their validity is 0) are *loose*: nothing takes them back, and a caller's thread may
 * apply them late. If the kernel applied a size from before another client's append after a READ has brought what was
 * appended, it would move the end of the file back and drop the page. So vfs overtakes the loose attributes of a file before it
 * answers a READ: an invalidation makes the kernel ignore attributes that were asked for before it.
 */

import { type Attr, isRegular } from '../base/attr.js';
import { FsError } from '../base/errno.js';
import type { Fid } from '../base/ids.js';
import type { Range } from '../base/interval_set.js';
import { type Log, logger } from '../base/log.js';
import type { AttrsWithValidity, KernelCache } from '../client/api.js';
import { MINOR_WITH_INC_EPOCH } from '../fuse/constants.js';
import type { AttrOut, EntryOut, KernelNotifier } from '../fuse/handlers.js';
import type { NodeTable } from './nodes.js';

/** Validity of what is under a lock. Long: it ends by invalidation, not by time. */
export const LOCKED_VALID_SEC = 3600;
/** Size of the smallest page that a kernel may have. */
const PAGE_BYTES = 4096;
/** Attribute notifications under way at once. Each is a promise; a drain may have a hundred thousand to send. */
const ATTR_BATCH = 1024;

/** The drop counters when a wait began. */
export interface AsOf {
  readonly attrs: number;
  readonly names: number;
}

export class Invalidation implements KernelCache {
  readonly #nodes: NodeTable;
  readonly #log: Log = logger('vfs:invalidation');
  #notifier: KernelNotifier | undefined;
  /** The kernel has INC_EPOCH: names may be believed, because they can be taken back. */
  #epochs = false;
  /** A name was handed out as believable since the last bump. */
  #namesOut = false;
  #attrDrops = 0;
  #nameDrops = 0;
  readonly #suspects = new Set<Fid>();
  /** Invalidations under way that overtake loose attributes. No READ of the inode is answered before they are done. */
  readonly #overtaking = new Map<Fid, Promise<void>>();

  constructor(nodes: NodeTable) {
    this.#nodes = nodes;
  }

  /** @param minor the negotiated FUSE protocol minor. */
  negotiated(minor: number): void {
    this.#epochs = minor >= MINOR_WITH_INC_EPOCH;
  }

  /** The process that had this mount before has handed these out. */
  suspect(fids: readonly Fid[]): void {
    for (const fid of fids) this.#suspects.add(fid);
    // It may have handed out names too.
    this.#namesOut = true;
  }

  bind(notifier: KernelNotifier): void {
    this.#notifier = notifier;
  }

  /** The mount is gone, and all its caches with it. */
  unbind(): void {
    this.#notifier = undefined;
    this.#suspects.clear();
  }

  asOf(): AsOf {
    return { attrs: this.#attrDrops, names: this.#nameDrops };
  }

  /** How long the kernel may believe a name. @param since when the wait for the answer began, if there was one. */
  nameValidSec(cacheable: boolean, since?: AsOf): number {
    if (!cacheable || !this.#epochs) return 0;
    if (since !== undefined && since.names !== this.#nameDrops) return 0;
    this.#namesOut = true;
    return LOCKED_VALID_SEC;
  }

  /** An entry for a reply; counts one lookup. */
  entryOut(known: AttrsWithValidity, since?: AsOf): EntryOut {
    const believe = this.#believesAttrs(known, since);
    const { fid } = known.attr;
    this.#nodes.lookedUp(fid, believe);
    if (!believe) this.#gaveLoose(known.attr);
    if (this.#suspects.size !== 0) this.#suspects.delete(fid);
    return {
      attr: known.attr,
      generation: 0, // FIDs are never reused
      entryValidSec: this.nameValidSec(known.nameCacheable, since),
      attrValidSec: believe ? LOCKED_VALID_SEC : 0,
    };
  }

  /** Attributes for a reply to a request that names the inode. */
  attrOut(known: AttrsWithValidity, since?: AsOf): AttrOut {
    const { fid } = known.attr;
    this.#nodes.proven(fid);
    if (this.#suspects.size !== 0) this.#suspects.delete(fid);
    const believe = this.#believesAttrs(known, since);
    if (believe) this.#nodes.gaveAttrs(fid);
    else this.#gaveLoose(known.attr);
    return { attr: known.attr, attrValidSec: believe ? LOCKED_VALID_SEC : 0 };
  }

  #gaveLoose({ fid, mode }: Attr): void {
    if (isRegular(mode)) this.#nodes.gaveLoose(fid);
  }

  #believesAttrs(known: AttrsWithValidity, since: AsOf | undefined): boolean {
    return known.attrCacheable && (since === undefined || since.attrs === this.#attrDrops);
  }

  /**
   * An open of the inode arrived: later requests may use its attributes without a path.
   * @returns what the reply must wait for, if anything. Attribute invalidations never hang.
   */
  opened(fid: Fid): Promise<void> | undefined {
    this.#nodes.proven(fid);
    if (this.#suspects.size === 0 || !this.#suspects.delete(fid)) return undefined;
    return this.#notifier?.invalidateAttr(fid);
  }

  hasAttrs(fid: Fid): boolean {
    return this.#nodes.hasAttrs(fid);
  }

  refersTo(fid: Fid): boolean {
    return this.#nodes.refersTo(fid);
  }

  hasPages(fid: Fid): boolean {
    return this.#nodes.hasPages(fid);
  }

  overtakeAttrs(): void {
    this.#attrDrops += 1;
  }

  dropAttrs(fids: readonly Fid[]): Promise<void> {
    this.overtakeAttrs();
    const held: Fid[] = [];
    let unproven = false;
    for (const fid of fids) {
      const dropped = this.#nodes.dropAttrs(fid);
      if (dropped === 'none') continue;
      held.push(fid);
      if (dropped === 'unproven') {
        unproven = true;
        this.#suspects.add(fid);
      }
    }
    const notifier = this.#notifier;
    if (held.length === 0 || notifier === undefined) return Promise.resolve();
    this.#log('attributes of %d inodes dropped, unproven %s', held.length, unproven);
    notifier.flushReplies();
    return this.#invalidateAttrs(notifier, held, unproven);
  }

  async #invalidateAttrs(notifier: KernelNotifier, fids: readonly Fid[], names: boolean): Promise<void> {
    for (let start = 0; start < fids.length; start += ATTR_BATCH) {
      await Promise.all(fids.slice(start, start + ATTR_BATCH).map((fid) => notifier.invalidateAttr(fid)));
    }
    if (names && this.#epochs) await notifier.bumpEpoch();
  }

  async dropNames(): Promise<void> {
    this.#nameDrops += 1;
    const notifier = this.#notifier;
    if (!this.#namesOut || notifier === undefined) return;
    this.#namesOut = false;
    notifier.flushReplies();
    if (!(await notifier.bumpEpoch())) {
      // The kernel believed names because the negotiated protocol has INC_EPOCH. From now on it asks each time.
      this.#epochs = false;
      throw new FsError('ENOSYS', 'the kernel refused INC_EPOCH although it speaks FUSE 7.44 or later');
    }
  }

  /**
   * The client decides which ranges to drop, and how often: it knows which READs it answers meanwhile and which it holds back
   * (client/io/lock_release.ts).
   */
  async dropPages(fid: Fid, ranges?: readonly Range[]): Promise<void> {
    const notifier = this.#notifier;
    if (notifier === undefined || !this.hasPages(fid)) return;
    // READs from here on mark the inode again.
    if (ranges === undefined) this.#nodes.dropPages(fid);
    notifier.flushReplies();
    const all = ranges ?? [{ start: 0, end: 0 }];
    await Promise.all(all.map(({ start, end }) => notifier.invalidateData(fid, start, end - start)));
  }

  /**
   * The kernel reads into its page cache. To be called before the client is asked: then a drop that comes during the wait for the
   * answer waits for the folios of this READ.
   */
  readsPages(fid: Fid): void {
    this.#nodes.gavePages(fid);
  }

  /**
   * The client has executed a READ of the kernel. Its pages must not meet loose attributes.
   *
   * If whole pages are missing at the end of the answer, the kernel believes a size that is not true any more. It learns that
   * from the answer, and then ignores loose attributes by itself. But it learns nothing from an answer that an invalidation has
   * overtaken, and shows the pages as zeros that nobody wrote.
   * @param missingBytes how many bytes fewer the answer has than the kernel asked for.
   * @returns what the reply must wait for, if anything. Attribute invalidations never hang.
   */
  readPages(fid: Fid, missingBytes: number): Promise<void> | undefined {
    if (missingBytes >= PAGE_BYTES) return undefined;
    const notifier = this.#notifier;
    if (notifier === undefined || !this.#nodes.takeLoose(fid)) return this.#overtaking.get(fid);
    const overtaken = notifier.invalidateAttr(fid).finally(() => {
      if (this.#overtaking.get(fid) === overtaken) this.#overtaking.delete(fid);
    });
    this.#overtaking.set(fid, overtaken);
    return overtaken;
  }

  /**
   * To be called when the client has applied a write that went past the kernel's page cache, before the answer: a READ that the
   * kernel made meanwhile may have put the old bytes there (the kernel invalidates before it sends such a write, not after).
   * @returns what the reply must wait for, if anything. READs of the range are answered without it.
   */
  wroteDirect(fid: Fid, offset: number, lengthBytes: number): Promise<void> | undefined {
    if (!this.hasPages(fid) || this.#notifier === undefined) return undefined;
    this.#notifier.flushReplies();
    return this.#notifier.invalidateData(fid, offset, lengthBytes);
  }
}
