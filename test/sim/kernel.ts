/**
 * A kernel with one mount: what it believes and for how long, and how it is made to forget.
 *
 * - Attributes are believed until their time is over or INVAL_INODE came; an answer that is older than the last
 *   invalidation of its inode is not believed. An inode that the kernel did not have takes whatever its first answer says.
 * - Names are believed until their time is over or the epoch in which they were asked for has passed (INC_EPOCH).
 * - INVAL_INODE with a range waits for each locked page, and writes dirty pages back first, one at a time.
 * - Every lookup that the client counted is given back by FORGET before the mount ends.
 */

import { type Attr, isDir } from '../../src/base/attr.js';
import { ROOT_FID } from '../../src/base/ids.js';
import { INIT_FLAG, OPCODE, WRITE_CACHE } from '../../src/fuse/constants.js';
import type { FuseHandlers, KernelNotifier } from '../../src/fuse/handlers.js';
import { type Answer, FuseChannel } from './channel.js';
import { body, type Entry, readAttrOut } from './fuse_requests.js';
import { KernelInode, PAGE_BYTES, type Page } from './kernel_inode.js';
import type { Program } from './machine.js';
import type { SimRng } from './rng.js';
import type { Scheduler } from './scheduler.js';

/** What this kernel offers: all that 6.18 has which matters here. */
const OFFERED =
  INIT_FLAG.ASYNC_READ |
  INIT_FLAG.POSIX_LOCKS |
  INIT_FLAG.ATOMIC_O_TRUNC |
  INIT_FLAG.BIG_WRITES |
  INIT_FLAG.DONT_MASK |
  INIT_FLAG.FLOCK_LOCKS |
  INIT_FLAG.DO_READDIRPLUS |
  INIT_FLAG.PARALLEL_DIROPS |
  INIT_FLAG.MAX_PAGES |
  INIT_FLAG.EXPLICIT_INVAL_DATA |
  INIT_FLAG.HANDLE_KILLPRIV_V2 |
  INIT_FLAG.SETXATTR_EXT |
  INIT_FLAG.INIT_EXT |
  INIT_FLAG.HAS_EXPIRE_ONLY |
  INIT_FLAG.DIRECT_IO_ALLOW_MMAP |
  INIT_FLAG.HAS_RESEND;

interface Dentry {
  /** 0: known not to be there. */
  readonly nodeid: number;
  readonly validUntilMs: number;
  readonly epoch: number;
}

/** The kernel's clocks when a request was made. */
export interface Since {
  readonly attrVersion: number;
  readonly epoch: number;
}

export class SimKernel {
  readonly channel: FuseChannel;
  readonly #scheduler: Scheduler;
  readonly #rng: SimRng;
  readonly #minor: number;
  readonly #inodes = new Map<number, KernelInode>();
  readonly #dentries = new Map<string, Dentry>();
  #attrVersion = 1;
  #epoch = 0;
  #nextPid = 1000;
  isMounted = true;

  constructor(handlers: FuseHandlers, program: Program, scheduler: Scheduler, rng: SimRng) {
    this.#scheduler = scheduler;
    this.#rng = rng;
    // A third of the kernels cannot take names back at once (before 7.44).
    this.#minor = rng.chance(0.3) ? 41 : 45;
    this.channel = new FuseChannel(handlers, program, scheduler, rng.fork('channel'));
    this.#inodes.set(ROOT_FID, new KernelInode(ROOT_FID));
    program.onEnd(() => {
      this.isMounted = false;
    });
  }

  async mount(): Promise<void> {
    const flags = [Number(OFFERED & 0xffff_ffffn), Number(OFFERED >> 32n)] as const;
    const content = body(7, this.#minor, 1 << 20, flags[0], flags[1], Buffer.alloc(44));
    const { errno } = await this.channel.request(OPCODE.INIT, 0, 0, content).answer;
    if (errno !== 0) throw new Error(`INIT was refused: ${errno}`);
  }

  newPid(): number {
    this.#nextPid += 1;
    return this.#nextPid;
  }

  get nowMs(): number {
    return this.#scheduler.nowMs;
  }
  sleep(ms: number): Promise<void> {
    return this.#scheduler.sleep(ms);
  }
  since(): Since {
    return { attrVersion: this.#attrVersion, epoch: this.#epoch };
  }
  get root(): KernelInode {
    return this.inode(ROOT_FID);
  }

  inode(nodeid: number): KernelInode {
    let inode = this.#inodes.get(nodeid);
    if (inode === undefined) {
      inode = new KernelInode(nodeid);
      this.#inodes.set(nodeid, inode);
    }
    return inode;
  }

  // ---- What answers teach.

  learnEntry(parent: KernelInode, name: string, entry: Entry, since: Since): KernelInode | undefined {
    this.#dentries.set(`${parent.nodeid}/${name}`, {
      nodeid: entry.nodeid,
      validUntilMs: this.nowMs + entry.entryValidMs,
      epoch: since.epoch,
    });
    if (entry.nodeid === 0) return undefined;
    const inode = this.inode(entry.nodeid);
    inode.lookups += 1;
    this.learnAttr(inode, entry.attr, entry.attrValidMs, since);
    return inode;
  }

  learnAttr(inode: KernelInode, attr: Attr, validMs: number, since: Since): void {
    if (inode.attr !== undefined && inode.attrVersion > since.attrVersion) return;
    this.#attrVersion += 1;
    inode.attrVersion = this.#attrVersion;
    inode.attr = attr;
    inode.attrValidUntilMs = this.nowMs + validMs;
  }

  /** As far as the kernel knows without asking. undefined: it must ask. */
  cachedName(parent: KernelInode, name: string): KernelInode | 'negative' | undefined {
    const dentry = this.#dentries.get(`${parent.nodeid}/${name}`);
    if (dentry === undefined || dentry.epoch !== this.#epoch || dentry.validUntilMs <= this.nowMs) {
      return undefined;
    }
    return dentry.nodeid === 0 ? 'negative' : this.#inodes.get(dentry.nodeid);
  }

  /** The kernel's own operation changed what the name leads to. */
  forgetName(parent: KernelInode, name: string): void {
    this.#dentries.delete(`${parent.nodeid}/${name}`);
    this.forgetAttr(parent);
  }
  /** The kernel's own operation took a name of the inode away. @param inode as it was known before. */
  lostName(inode: KernelInode): void {
    if (inode.attr !== undefined && (isDir(inode.attr.mode) || inode.attr.nlink === 1))
      inode.isRemoved = true;
    this.forgetAttr(inode);
  }
  forgetAttr(inode: KernelInode): void {
    inode.attrValidUntilMs = 0;
  }
  /** The kernel changed attributes itself: answers that are on their way are older. */
  changedAttr(inode: KernelInode): void {
    this.#attrVersion += 1;
    inode.attrVersion = this.#attrVersion;
  }

  async attributes(inode: KernelInode, pid: number): Promise<Answer | Attr> {
    if (inode.attr !== undefined && inode.attrValidUntilMs > this.nowMs) return inode.attr;
    const since = this.since();
    const answer = await this.channel.request(OPCODE.GETATTR, inode.nodeid, pid, body(0, 0, 0n)).answer;
    if (answer.errno !== 0) return answer;
    const { attr, attrValidMs } = readAttrOut(answer.body);
    this.learnAttr(inode, attr, attrValidMs, since);
    return attr;
  }

  // ---- Pages.

  /** Runs with the page locked. */
  async lockPage(page: Page, run: () => Promise<void>): Promise<void> {
    while (page.locked !== undefined) await page.locked;
    let unlock = (): void => undefined;
    page.locked = new Promise((resolve) => {
      unlock = resolve;
    });
    try {
      await run();
    } finally {
      page.locked = undefined;
      unlock();
    }
  }

  /** One dirty page to the client, as the kernel writes mapped pages back: with any handle, for nobody. */
  async writePage(inode: KernelInode, index: number, page: Page): Promise<void> {
    while (inode.truncating !== undefined) await inode.truncating;
    await this.lockPage(page, async () => {
      if (!page.isDirty || page.content === undefined) return;
      page.isDirty = false;
      const start = index * PAGE_BYTES;
      const content = page.content.subarray(0, Math.max(0, Math.min(PAGE_BYTES, inode.sizeBytes - start)));
      if (content.length === 0) return;
      const head = body(0n, BigInt(start), content.length, WRITE_CACHE, 0n, 0, 0);
      const written = Buffer.concat([head, content]);
      const { errno } = await this.channel.request(OPCODE.WRITE, inode.nodeid, 0, written).answer;
      if (errno !== 0) inode.writeErrors += 1;
    });
  }

  /** What fails is told by fsync, msync and close. */
  async writeBack(inode: KernelInode, start = 0, end = Number.POSITIVE_INFINITY): Promise<void> {
    for (const index of inode.pagesIn(start, end)) {
      const page = inode.pages.get(index);
      if (page?.isDirty !== true) continue;
      await this.writePage(inode, index, page);
    }
  }

  /** invalidate_inode_pages2_range. */
  async dropPages(inode: KernelInode, start: number, end: number): Promise<void> {
    for (const index of inode.pagesIn(start, end)) {
      const page = inode.pages.get(index);
      if (page === undefined) continue;
      while (page.locked !== undefined) await page.locked;
      if (page.isDirty) await this.writePage(inode, index, page);
      while (page.locked !== undefined) await page.locked;
      if (!page.isDirty && inode.pages.get(index) === page) inode.pages.delete(index);
    }
  }

  // ---- Notifications.

  readonly notifier: KernelNotifier = {
    invalidateAttr: async (nodeid) => {
      await this.#notified();
      this.#invalidateAttr(nodeid);
    },
    invalidateData: async (nodeid, offset, length) => {
      await this.#notified();
      const inode = this.#invalidateAttr(nodeid);
      if (inode === undefined) return;
      await this.dropPages(inode, offset, length === 0 ? Number.POSITIVE_INFINITY : offset + length);
    },
    bumpEpoch: async () => {
      await this.#notified();
      if (this.#minor < 44) return false;
      this.#epoch += 1;
      return true;
    },
    flushReplies: () => this.channel.flushReplies(),
  };

  /** The thread that sends notifications takes its time. */
  #notified(): Promise<void> {
    return this.#scheduler.sleep(0.01 + this.#rng.fraction() * 0.1);
  }

  #invalidateAttr(nodeid: number): KernelInode | undefined {
    const inode = this.#inodes.get(nodeid);
    if (inode === undefined) return undefined;
    inode.attrValidUntilMs = 0;
    this.changedAttr(inode);
    return inode;
  }

  // ---- Memory.

  get knownInodes(): number {
    return this.#inodes.size;
  }

  /** One use of the inode has ended. */
  unuse(inode: KernelInode): void {
    inode.uses -= 1;
    if (inode.uses === 0 && inode.isRemoved) this.#forget(inode);
  }

  #forget(inode: KernelInode): void {
    if ([...inode.pages.values()].some((page) => page.isDirty || page.locked !== undefined)) return;
    this.#inodes.delete(inode.nodeid);
    if (inode.lookups > 0) this.channel.tell(OPCODE.FORGET, inode.nodeid, body(BigInt(inode.lookups)));
  }

  /** Forgets what nobody uses. @param chance of each. */
  shrink(chance: number): void {
    const named = new Set<number>();
    for (const [key, { nodeid }] of this.#dentries) {
      if (this.#rng.chance(chance)) this.#dentries.delete(key);
      else named.add(nodeid);
    }
    for (const inode of [...this.#inodes.values()]) {
      if (inode.uses > 0 || inode.nodeid === ROOT_FID || named.has(inode.nodeid)) continue;
      this.#forget(inode);
    }
  }

  /** umount(8): dirty pages are written, everything is forgotten, the client is told. */
  async unmount(): Promise<void> {
    for (const inode of [...this.#inodes.values()]) await this.writeBack(inode);
    this.shrink(1);
    this.isMounted = false;
    await this.channel.request(OPCODE.DESTROY, 0, 0, body()).answer;
    this.channel.dispatcher.deviceGone();
    this.channel.abort();
  }
}
