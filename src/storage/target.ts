/**
 * A target's store: implements TargetStore of api.ts with the overlay, the committer and the file data.
 *
 * openTarget() looks at both devices before lmdb sees the meta device. It changes nothing on either device before
 * begin().
 */

import { assert } from '../base/assert.js';
import { FsError } from '../base/errno.js';
import type { ClientUuid, Fid, Name, Transno } from '../base/ids.js';
import { logger } from '../base/log.js';
import type { Runtime } from '../runtime/ports.js';
import type { StatfsMessage } from '../wire/meta.js';
import type {
  AccessRecord,
  ClientRecord,
  Dirent,
  Executed,
  ExecuteOptions,
  FileData,
  Inode,
  MetaRoom,
  NumberedEviction,
  SlotReply,
  StoreOptions,
  Superblock,
  TargetDevices,
  TargetStore,
  Tx,
  WriteGuard,
} from './api.js';
import { StoredFileData } from './data/file_data.js';
import { BLOCK_BYTES } from './format/block_map.js';
import { afterPrefix, bareKey, KEY } from './format/keys.js';
import { type Counters, damaged, decodeCounters } from './format/records.js';
import {
  decodeDataHeader,
  FEATURE_ACCESS,
  FIRST_DATA_BLOCK,
  type SuperblockRecord,
  unusedBytes,
} from './format/superblock.js';
import { checkFreePages } from './fsck/pages.js';
import { Committer } from './meta/committer.js';
import { ExtentAllocator } from './meta/extent_allocator.js';
import { metaMedium } from './meta/lmdb_store.js';
import { type LoggedDatabase, openLogged } from './meta/logged_database.js';
import { probeSuperblock } from './meta/meta_probe.js';
import { MetaSpace } from './meta/meta_space.js';
import { Overlay } from './meta/overlay.js';
import { checkedRecords } from './meta/record_checksums.js';
import { hasAccess, type SuperblockChange, SuperblockLayer } from './meta/superblock_layer.js';
import type { MetaDatabase } from './meta_medium.js';
import { guardedDevices } from './ownership/write_guard.js';

const log = logger('storage');

const COMMIT_INTERVAL_MS = 50;
const INSTANCE_MAX = 2 ** 20;
/** Transnos of instance n begin above n times this: those of an earlier instance are all below. */
const TRANSNOS_PER_INSTANCE = 2 ** 32;

export type StorageRuntime = Pick<Runtime, 'clock' | 'timers' | 'checksum' | 'metrics' | 'waits' | 'faults'>;

/**
 * @throws FsError with a one-line message: ENODEV not formatted or swapped, EIO damaged or cut short, EPROTO another
 *   format or unknown features, EINVAL devices of different targets.
 */
export async function openTarget(
  runtime: StorageRuntime,
  unguarded: TargetDevices,
  options: StoreOptions = {},
): Promise<TargetStore> {
  const devices = options.guard === undefined ? unguarded : guardedDevices(unguarded, options.guard);
  const superblock = await readSuperblock(runtime, devices);
  const { metaPath, metaSizeBytes } = devices;
  // A simulator's medium has no pages of lmdb.
  if (unguarded.metaMedium === undefined) {
    await metaMedium(devices).withRawReader((read) => checkFreePages(read, metaPath, metaSizeBytes));
  }
  const medium = metaMedium(devices);
  const tree = medium.open();
  let db: MetaDatabase = tree;
  try {
    const logged = await openLogged(medium, tree, metaPath, superblock, runtime.checksum, {
      wanted: options.redoLog ?? true,
      timers: runtime.timers,
      data: devices.data,
    });
    db = logged;
    if ((superblock.featuresIncompat & FEATURE_ACCESS) !== 0 && !hasAccess(logged)) {
      // No transaction leaves this. An empty table would let everybody in.
      throw new FsError(
        'EIO',
        `the table of who may connect is lost on ${metaPath}; holdfast fsck --repair makes one that lets nobody in`,
      );
    }
    return new OpenTarget(runtime, devices, logged, superblock, options);
  } catch (thrown) {
    await db.close();
    throw thrown;
  }
}

/**
 * Superblock of a target after all checks that opening makes: readable, known format, devices of one target. Only
 * reads.
 * @throws FsError as openTarget.
 */
export async function readSuperblock(
  runtime: Pick<Runtime, 'checksum'>,
  devices: TargetDevices,
): Promise<SuperblockRecord> {
  const { metaPath, metaSizeBytes, data } = devices;
  const superblock = await metaMedium(devices).withRawReader((read) =>
    probeSuperblock(read, metaPath, metaSizeBytes, runtime.checksum),
  );
  if (superblock === undefined) {
    throw new FsError(
      'ENODEV',
      `${metaPath} is not formatted as a Holdfast meta device; holdfast mkfs makes one`,
    );
  }
  if (data.sizeBytes < BLOCK_BYTES) throw new FsError('ENODEV', `${data.path} is not a Holdfast data device`);
  const block = Buffer.alloc(BLOCK_BYTES);
  await data.read(0, block);
  const header = decodeDataHeader(block, runtime.checksum, data.path);
  if (header.targetUuid !== superblock.targetUuid || header.filesystemUuid !== superblock.filesystemUuid) {
    throw new FsError(
      'EINVAL',
      `${metaPath} and ${data.path} are from different targets (${superblock.targetUuid}, ${header.targetUuid})`,
    );
  }
  if (data.sizeBytes < superblock.dataSizeBytes) {
    throw new FsError(
      'EIO',
      `the data device ${data.path} is cut short: ${data.sizeBytes} bytes, made with ${superblock.dataSizeBytes}`,
    );
  }
  return superblock;
}

function loadCounters(db: MetaDatabase): Counters {
  const value = db.get(bareKey(KEY.counters));
  if (value === undefined) throw damaged('counters');
  return decodeCounters(value);
}

function loadSpace(db: MetaDatabase, superblock: SuperblockRecord): ExtentAllocator {
  const space = new ExtentAllocator(Math.floor(superblock.dataSizeBytes / BLOCK_BYTES), FIRST_DATA_BLOCK);
  const prefix = bareKey(KEY.spaceGroup);
  for (const { key, value } of db.range(prefix, afterPrefix(prefix))) space.load(key.readUInt32BE(1), value);
  return space;
}

class OpenTarget implements TargetStore {
  readonly #runtime: StorageRuntime;
  readonly #devices: TargetDevices;
  readonly #logged: LoggedDatabase;
  readonly #overlay: Overlay;
  readonly #committer: Committer;
  readonly #metaSpace: MetaSpace;
  readonly #data: StoredFileData;
  readonly guard: WriteGuard | undefined;
  readonly #superblock: SuperblockLayer;
  #begun = false;
  readonly #wantsLog: boolean;
  /** The superblock that begin() replaced. */
  #found: Superblock | undefined;
  /** The store executes replays with their old transnos. */
  #recovering = false;
  #lastTransno: Transno;
  #destroying: Promise<void> | undefined;
  #stopping = false;
  #closed: Promise<void> | undefined;

  constructor(
    runtime: StorageRuntime,
    devices: TargetDevices,
    logged: LoggedDatabase,
    superblock: SuperblockRecord,
    options: StoreOptions,
  ) {
    this.#runtime = runtime;
    this.#devices = devices;
    this.#logged = logged;
    this.#wantsLog = options.redoLog ?? true;
    const db = checkedRecords(logged, runtime.checksum, superblock);
    this.#superblock = new SuperblockLayer(logged, runtime.checksum, superblock);
    const counters = loadCounters(db);
    const space = loadSpace(db, superblock);
    this.#overlay = new Overlay(db, runtime.checksum, this.#superblock, counters, space);
    this.#lastTransno = this.#overlay.lastTransno;
    this.#metaSpace = new MetaSpace(db, this.#overlay, superblock.metaSizeBytes, logged.logOffset);
    this.#committer = new Committer(runtime, db, this.#overlay, devices.data, {
      commitIntervalMs: options.commitIntervalMs ?? COMMIT_INTERVAL_MS,
      recordsAtOnce: this.#metaSpace.recordsAtOnce,
    });
    void logged.failed.then((cause) => this.#committer.fail(cause));
    // What the log has may be what a failed flush has lost: it must stay there.
    void this.#committer.failed.then((cause) => logged.giveUp(cause));
    this.guard = options.guard;
    void options.guard?.lost.then((cause) => this.#committer.fail(cause));
    this.#data = new StoredFileData({
      overlay: this.#overlay,
      device: devices.data,
      checksum: runtime.checksum,
      execute: (run, executeOptions) => this.execute(run, executeOptions),
      sync: () => this.sync(),
      contentWritten: (offset, chunks) => this.#committer.contentWritten(offset, chunks),
      breathe: () => this.#breathe(),
      check: () => this.#check(),
    });
    runtime.metrics.gauge('holdfast_storage_free_bytes', 'Bytes that data may still use', () =>
      this.availableBytes(),
    );
    runtime.metrics.gauge('holdfast_storage_meta_free_bytes', 'Bytes that metadata may still use', () =>
      this.#metaSpace.freeBytes(),
    );
  }

  get superblock(): Superblock {
    return this.#superblock.durable;
  }
  get data(): FileData {
    return this.#data;
  }
  get metaRoom(): MetaRoom {
    return this.#metaSpace;
  }
  get lastTransno(): Transno {
    return this.#lastTransno;
  }
  get lastCommitted(): Transno {
    return this.#committer.lastCommitted;
  }
  get failed(): Promise<Error> {
    return this.#committer.failed;
  }
  onCommit(listener: (lastCommitted: Transno) => void): void {
    this.#committer.onCommit(listener);
  }

  execute<R>(run: (tx: Tx) => R, options: ExecuteOptions = {}): Executed<R> {
    this.#check();
    assert(this.#begun, 'begin() comes before the first operation');
    const transno = this.#transnoOf(options.transno);
    // The server found room for a replay when it executed it first; the replay needs at most a few pages more.
    const reserve = options.transno !== undefined ? 'own' : (options.reserve ?? false);
    this.#overlay.begin(transno, {
      change: () => this.#metaSpace.check(reserve),
      value: (bytes) => this.#metaSpace.checkValue(reserve, bytes),
    });
    let result: R;
    try {
      result = run(this.#overlay);
    } catch (thrown) {
      this.#overlay.rollback();
      throw thrown;
    }
    if (!this.#overlay.finish()) return { result, transno: 0 as Transno };
    this.#lastTransno = transno;
    this.#committer.changed();
    if (this.#overlay.takeDoomed()) this.#destroyInBackground();
    const isInternal = this.#recovering && options.transno === undefined;
    return { result, transno: isInternal ? (0 as Transno) : transno };
  }

  #transnoOf(replayed: Transno | undefined): Transno {
    if (!this.#recovering) {
      assert(replayed === undefined, 'a replay outside recovery');
      return (this.#lastTransno + 1) as Transno;
    }
    if (replayed === undefined) return this.#lastTransno;
    assert(replayed > this.#lastTransno && replayed < this.firstTransno, 'a replay out of order');
    return replayed;
  }

  get firstTransno(): Transno {
    return (this.superblock.instance * TRANSNOS_PER_INSTANCE) as Transno;
  }

  endRecovery(): void {
    if (!this.#recovering) return;
    this.#recovering = false;
    this.#lastTransno = this.firstTransno;
    this.#overlay.advance(this.#lastTransno);
    this.#committer.changed();
  }

  /** Pauses between two steps of a long change. On a nearly full device it also waits for the commits of the step. */
  async #breathe(): Promise<void> {
    await new Promise<void>((resolve) => this.#runtime.timers.soon(resolve));
    for (let wait = this.room(); wait !== undefined; wait = this.room()) await wait;
  }

  async sync(): Promise<void> {
    this.#check();
    await this.#runtime.waits.during(() => 'commit', this.#committer.sync());
  }

  room(): Promise<void> | undefined {
    if (!this.#metaSpace.isPressed || this.#committer.failure !== undefined) return undefined;
    // Commits whatever is collected: pages become free only as transactions pass.
    return this.#committer.commitToTree();
  }

  statfs(): StatfsMessage {
    const { totalBlocks, freeBlocks, freedNotDurable } = this.#overlay.space;
    const inodesFree = this.#metaSpace.inodesFree();
    return {
      blockBytes: BLOCK_BYTES,
      blocks: totalBlocks - FIRST_DATA_BLOCK,
      blocksFree: freeBlocks + freedNotDurable,
      blocksAvailable: this.availableBytes() / BLOCK_BYTES,
      inodes: this.#overlay.inodes + inodesFree,
      inodesFree,
    };
  }
  get unusedBytes(): { readonly meta: number; readonly data: number } {
    return unusedBytes(this.#devices, this.#superblock.durable);
  }
  availableBytes(): number {
    return this.#data.availableBytes;
  }

  async begin(
    softwareVersion: string,
    options: { readonly recovering?: boolean; readonly within?: ((tx: Tx) => void) | undefined } = {},
  ): Promise<void> {
    this.#check();
    assert(!this.#begun, 'begin() is called once');
    const instance = this.superblock.instance + 1;
    if (instance >= INSTANCE_MAX) throw new FsError('EOVERFLOW', 'the target has been started too often');
    this.#recovering = options.recovering ?? false;
    if (!this.#recovering) {
      this.#lastTransno = (instance * TRANSNOS_PER_INSTANCE) as Transno;
      this.#overlay.advance(this.#lastTransno);
    }
    this.#found = this.superblock;
    await this.#logged.restoreContent();
    this.#begun = true;
    // Goes into the transaction of the superblock: that one is asked for in the same turn.
    if (options.within !== undefined) this.execute(options.within, { reserve: 'own' });
    const hasLog = this.#wantsLog && this.#logged.start(instance);
    await this.#writeSuperblock({ softwareVersion, instance, clean: false, hasLog });
    if (this.#overlay.doomed().length > 0) this.#destroyInBackground();
  }

  async markClean(): Promise<void> {
    this.#check();
    // The next instance removes the rest of a file that is being removed: nothing may change after the mark.
    this.#stopping = true;
    await this.#destroying;
    await this.#writeSuperblock({ clean: true, hasLog: false });
  }

  async takeBack(): Promise<void> {
    this.#check();
    const found = this.#found;
    assert(found !== undefined, 'begin() comes before takeBack()');
    this.#stopping = true;
    await this.#destroying;
    // Keep the new instance number: records may hold its transnos.
    const { softwareVersion, clean } = found;
    await this.#writeSuperblock({ softwareVersion, clean, hasLog: false });
  }

  /** In one transaction with everything that was executed; all content is flushed before. */
  async #writeSuperblock(change: SuperblockChange): Promise<void> {
    this.#overlay.changeSuperblock(change);
    await this.#committer.commitToTree({ final: change.clean, log: change.hasLog ? 'begins' : 'ends' });
  }

  close(): Promise<void> {
    this.#closed ??= (async () => {
      this.#stopping = true;
      await this.#committer.close();
      await this.#destroying;
      await this.#data.idle();
      await this.#logged.close();
      log('closed %s', this.#devices.metaPath);
    })();
    return this.#closed;
  }

  #check(): void {
    if (this.#committer.failure !== undefined) throw this.#committer.failure;
  }

  /** Removes the data of large destroyed files, one step at a time, while other operations go on. */
  #destroyInBackground(): void {
    this.#destroying ??= this.#destroyDoomed()
      .catch((thrown: unknown) => {
        // The next start finds the rest and goes on.
        log('removing destroyed files stopped: %O', thrown);
      })
      .finally(() => {
        this.#destroying = undefined;
      });
  }
  async #destroyDoomed(): Promise<void> {
    for (;;) {
      const [fid] = this.#overlay.doomed();
      if (fid === undefined) return;
      for (let done = false; !done; ) {
        await this.#breathe();
        if (this.#stopping) return;
        done = this.#data.destroyStep(fid);
      }
    }
  }

  inode(fid: Fid): Inode | undefined {
    this.#check();
    return this.#overlay.inode(fid);
  }
  hasInode(fid: Fid): boolean {
    this.#check();
    return this.#overlay.hasInode(fid);
  }
  dirent(parent: Fid, name: Name): Dirent | undefined {
    this.#check();
    return this.#overlay.dirent(parent, name);
  }
  dirents(parent: Fid, after: number, limit: number): Dirent[] {
    this.#check();
    return this.#overlay.dirents(parent, after, limit);
  }
  directoryEmpty(parent: Fid): boolean {
    this.#check();
    return this.#overlay.directoryEmpty(parent);
  }
  xattr(fid: Fid, name: string): Buffer | undefined {
    this.#check();
    return this.#overlay.xattr(fid, name);
  }
  xattrNames(fid: Fid): string[] {
    this.#check();
    return this.#overlay.xattrNames(fid);
  }
  symlinkTarget(fid: Fid): Buffer | undefined {
    this.#check();
    return this.#overlay.symlinkTarget(fid);
  }
  orphans(): Fid[] {
    this.#check();
    return this.#overlay.orphans();
  }
  clients(): ClientRecord[] {
    this.#check();
    return this.#overlay.clients();
  }
  replies(uuid: ClientUuid): SlotReply[] {
    this.#check();
    return this.#overlay.replies(uuid);
  }
  evictions(): NumberedEviction[] {
    this.#check();
    return this.#overlay.evictions();
  }
  access(): AccessRecord[] {
    this.#check();
    return this.#overlay.access();
  }
  ticketSecret(): Buffer | undefined {
    this.#check();
    return this.#overlay.ticketSecret();
  }

  checkInvariants(): void {
    this.#overlay.checkInvariants();
    this.#metaSpace.checkInvariants();
    this.#logged.checkInvariants();
    this.#data.checkInvariants();
    const { lastCommitted } = this.#committer;
    assert(lastCommitted <= this.#overlay.lastTransno, `${lastCommitted} is committed, and was not executed`);
  }
}
