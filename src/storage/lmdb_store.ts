/**
 * The meta device's database: lmdb on the raw device. The only file that knows lmdb.
 *
 * - One unnamed tree, raw binary keys and values.
 * - `overlappingSync` is off: a commit is then lmdb's own (pages, fdatasync, meta page written through), runs on a worker
 *   thread, and its promise means *durable*. With it on, the promise would mean "visible", the flush comes later, and the
 *   newest transactions of a crashed host are given up at the next open.
 * - The device is opened through a link in runtimeDir, because lmdb puts its lock file beside the path it is given.
 * - The map is as large as the device, so lmdb never has to grow it; how full the device is, the caller watches
 *   (usedPages): past its end a commit fails as a whole.
 */

import { mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { open as openFile } from 'node:fs/promises';
import { join } from 'node:path';
import { open, type RootDatabase } from 'lmdb';
import { FsError } from '../base/errno.js';
import type { TargetDevices } from './api.js';
import type { MetaDatabase, MetaMedium, ReadAt, Writer } from './meta_medium.js';

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
  #prefetching: Promise<void> | undefined;

  /**
   * @param path the meta device, looked at by probeSuperblock before (or wiped by mkfs): lmdb trusts what it finds.
   */
  constructor(path: string, sizeBytes: number, runtimeDir: string, readOnly: boolean) {
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
    this.#db = open<Buffer, Buffer>(options);
  }

  get(key: Buffer): Buffer | undefined {
    const value: unknown = this.#db.getBinaryFast(key);
    if (value === undefined || Buffer.isBuffer(value)) return value;
    // A large value comes as a view into the map: gone with the read transaction.
    return Buffer.from(value as Uint8Array);
  }

  /** Brings the pages of these records into memory in the background: a get() of what is not there blocks everything. */
  prefetch(keys: readonly Buffer[]): void {
    // One at a time: they are hints, and close() waits for it.
    this.#prefetching ??= this.#db.prefetch([...keys]).finally(() => {
      this.#prefetching = undefined;
    });
  }

  range(
    start: Buffer,
    end: Buffer,
    limit: number = Number.POSITIVE_INFINITY,
  ): Iterable<{ key: Buffer; value: Buffer }> {
    return this.#db.getRange(limit === Number.POSITIVE_INFINITY ? { start, end } : { start, end, limit });
  }

  async commit(write: (writer: Writer) => void): Promise<void> {
    // Collected first: a batch that throws half way is committed half way by lmdb-js.
    const changes: { readonly key: Buffer; readonly value: Buffer | undefined }[] = [];
    write({
      put: (key, value) => changes.push({ key, value }),
      remove: (key) => changes.push({ key, value: undefined }),
    });
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
    // Reads from here on see the commit.
    (this.#db as unknown as { resetReadTxn(): void }).resetReadTxn();
  }

  usedPages(): number {
    const stats = this.#db.getStats() as unknown as Stats;
    return 2 + pagesOf(stats) + pagesOf(stats.free);
  }

  /** The link and the lock file go. */
  async close(): Promise<void> {
    await this.#prefetching;
    await this.#db.close();
    rmSync(this.#link, { force: true });
    rmSync(`${this.#link}-lock`, { force: true });
  }
}

/** lmdb-js rejects with a general error at once and with the reason a little later, in a second promise. */
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

/** The medium of these devices: lmdb, unless they bring another. */
export function metaMedium(devices: Omit<TargetDevices, 'data'>): MetaMedium {
  const { metaPath, metaSizeBytes, runtimeDir } = devices;
  if (devices.metaMedium !== undefined) return devices.metaMedium;
  return {
    open: (options = {}) => new LmdbDatabase(metaPath, metaSizeBytes, runtimeDir, options.readOnly ?? false),
    withRawReader: (use) => withRawReader(metaPath, use),
    writeRaw: (pieces) => writeRaw(metaPath, pieces),
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
