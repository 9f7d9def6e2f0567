/**
 * The meta device's database: lmdb on the raw device. The only file that knows lmdb.
 *
 * - One unnamed tree, raw binary keys and values.
 * - `overlappingSync` is off: a commit is then lmdb's own (pages, fdatasync, meta page written through), runs on a
 *   worker thread, and its promise means *durable*. With it on, the promise would mean "visible" and the flush would
 *   come later; after a host crash the next open would give up the newest transactions.
 * - The device is opened through a link in runtimeDir, because lmdb puts its lock file beside the path it is given.
 * - The map is as large as the device, so lmdb never has to grow it. The caller watches how full the device is
 *   (use()): past its end a commit fails as a whole.
 * - lmdb trusts the pages that it reads. So this store does not read records through lmdb, but with code that checks
 *   every page on the way (node_meta_pages.ts), and it checks the pages in the same way before each change. So an
 *   exchanged, zeroed or damaged page gives EIO; otherwise a record could seem missing, or the process could crash.
 *   lmdb only writes.
 */

import { mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { open as openFile } from 'node:fs/promises';
import { join } from 'node:path';
import { open, type RootDatabase } from 'lmdb';
import { FsError } from '../../base/errno.js';
import { logger } from '../../base/log.js';
import { notice } from '../../base/notices.js';
import { NodeLogDevice } from '../../runtime/node_log_device.js';
import { MetaPages, PageFault } from '../../runtime/node_meta_pages.js';
import type { TargetDevices } from '../api.js';
import { isOfEveryTransaction } from '../format/keys.js';
import type { MetaDatabase, MetaMedium, ReadAt, TreeUse, Writer } from '../meta_medium.js';
import { recordName } from './record_checksums.js';

const log = logger('storage');

interface TreeStats {
  readonly treeBranchPageCount: number;
  readonly treeLeafPageCount: number;
  readonly overflowPages: number;
}
interface Stats extends TreeStats {
  readonly lastPageNumber: number;
  readonly free: TreeStats;
}

function pagesOf(tree: TreeStats): number {
  return tree.treeBranchPageCount + tree.treeLeafPageCount + tree.overflowPages;
}

class LmdbDatabase implements MetaDatabase {
  readonly #db: RootDatabase<Buffer, Buffer>;
  readonly #link: string;
  readonly #path: string;
  readonly #pages: MetaPages;
  #use: TreeUse;
  #isClosing = false;
  #prefetching: Promise<void> | undefined;

  /**
   * @param path the meta device. probeSuperblock must have looked at it before (or mkfs wiped it): lmdb trusts its
   *   pages.
   */
  constructor(
    path: string,
    sizeBytes: number,
    runtimeDir: string,
    { readOnly = false, judges = false }: NonNullable<Parameters<MetaMedium['open']>[0]>,
  ) {
    mkdirSync(runtimeDir, { recursive: true });
    this.#link = join(runtimeDir, 'meta');
    rmSync(this.#link, { force: true });
    symlinkSync(path, this.#link);
    const options = {
      path: this.#link,
      noSubdir: true,
      mapSize: sizeBytes,
      keyEncoding: 'binary' as const,
      encoding: 'binary' as const,
      overlappingSync: false,
      eventTurnBatching: false,
      noReadAhead: false,
      readOnly,
      maxDbs: 1,
    };
    this.#path = path;
    this.#pages = new MetaPages(path, sizeBytes, !judges);
    this.#db = open<Buffer, Buffer>(options);
    this.#use = this.#useAfter(0);
  }

  get(key: Buffer): Buffer | undefined {
    try {
      return this.#pages.get(key);
    } catch (thrown) {
      throw this.#damaged(thrown, recordName(key));
    }
  }

  /**
   * Brings the pages of these records into memory in the background: a get() of a page that is not in memory blocks the
   * process.
   */
  prefetch(keys: readonly Buffer[]): void {
    // One prefetch at a time: prefetches are hints, and close() waits for the running one.
    this.#prefetching ??= this.#pages.prefetch(keys).finally(() => {
      this.#prefetching = undefined;
    });
  }

  *range(
    start: Buffer,
    end: Buffer,
    limit: number = Number.POSITIVE_INFINITY,
  ): Iterable<{ key: Buffer; value: Buffer }> {
    try {
      yield* this.#pages.range(start, end, limit);
    } catch (thrown) {
      throw this.#damaged(thrown, recordName(start));
    }
  }

  #damaged(thrown: unknown, what: string): unknown {
    if (!(thrown instanceof PageFault)) return thrown;
    const text = `the meta device ${this.#path} is damaged: ${thrown.message} (at ${what})`;
    log('%s', text);
    notice('checksum-wrong', text);
    return new FsError('EIO', text, { cause: thrown });
  }

  async commit(write: (writer: Writer) => void): Promise<void> {
    // Collect the changes first: if a batch throws half way, lmdb-js commits the first half.
    const changes: { readonly key: Buffer; readonly value: Buffer | undefined }[] = [];
    write({
      put: (key, value) => changes.push({ key, value }),
      remove: (key) => changes.push({ key, value: undefined }),
    });
    try {
      this.#pages.check(changes);
    } catch (thrown) {
      throw this.#damaged(thrown, 'a commit');
    }
    try {
      await this.#db.batch(() => {
        for (const { key, value } of changes) {
          if (value === undefined) void this.#db.remove(key);
          else void this.#db.put(key, value);
        }
      });
    } catch (thrown) {
      throw await reasonOf(thrown);
    }
    // lmdb-js reads for its statistics, and throws in a timer if it is closed then: nobody could catch that.
    if (this.#isClosing) return;
    this.#use = this.#useAfter(changes.filter(({ key }) => !isOfEveryTransaction(key)).length);
  }

  readonly carriesBytes = 0;

  use(): TreeUse {
    return this.#use;
  }
  #useAfter(lastRecords: number): TreeUse {
    const stats = this.#db.getStats() as unknown as Stats;
    const usedPages = 2 + pagesOf(stats) + pagesOf(stats.free);
    return { usedPages, lastPage: stats.lastPageNumber, lastRecords, waitingRecords: 0, waitingBytes: 0 };
  }

  /** Closes the database, then removes the link and the lock file. */
  async close(): Promise<void> {
    this.#isClosing = true;
    await this.#prefetching;
    await this.#db.close();
    this.#pages.close();
    rmSync(this.#link, { force: true });
    rmSync(`${this.#link}-lock`, { force: true });
  }
}

/** lmdb-js rejects at once with a general error, and a little later with the reason, in a second promise. */
async function reasonOf(thrown: unknown): Promise<Error> {
  const late = (thrown as { commitError?: Promise<unknown> }).commitError;
  try {
    await late;
  } catch (reason) {
    return new FsError('EIO', `commit on the meta device failed: ${(reason as Error).message}`, {
      cause: reason,
    });
  }
  return thrown as Error;
}

/** The medium of these devices: lmdb, unless the devices bring another medium. */
export function metaMedium(devices: Omit<TargetDevices, 'data'>): MetaMedium {
  const { metaPath, metaSizeBytes, runtimeDir } = devices;
  if (devices.metaMedium !== undefined) return devices.metaMedium;
  return {
    open: (options = {}) => new LmdbDatabase(metaPath, metaSizeBytes, runtimeDir, options),
    withRawReader: (use) => withRawReader(metaPath, use),
    writeRaw: (pieces) => writeRaw(metaPath, pieces),
    openLog: () => NodeLogDevice.open(metaPath),
  };
}

async function withRawReader<R>(path: string, use: (read: ReadAt) => Promise<R>): Promise<R> {
  const file = await openFile(path, 'r');
  try {
    return await use(async (offset, target) => {
      const { bytesRead } = await file.read(target, 0, target.length, offset);
      if (bytesRead !== target.length) throw new FsError('EIO', `short read of ${path} at ${offset}`);
    });
  } finally {
    await file.close();
  }
}

async function writeRaw(
  path: string,
  pieces: readonly { readonly offset: number; readonly bytes: Buffer }[],
): Promise<void> {
  const file = await openFile(path, 'r+');
  try {
    for (const { offset, bytes } of pieces) {
      for (let done = 0; done < bytes.length; ) {
        const { bytesWritten } = await file.write(bytes, done, bytes.length - done, offset + done);
        done += bytesWritten;
      }
    }
    await file.sync();
  } finally {
    await file.close();
  }
}
