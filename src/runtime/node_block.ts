/**
 * The real block device port: a descriptor opened with O_EXCL, read and written at given offsets by libuv's threads.
 *
 * Whole blocks are written past this host's page cache. A write that has ended is on the device. So the kernel has
 * nothing left that it would write later, when another host may have taken the device over. It also costs half the CPU
 * time, and a flush has only the device's own cache to write (1 MiB writes with a flush each 100 ms: longest flush 80
 * ms, through the page cache 250 ms). Reads go through the page cache, which the kernel keeps consistent with such
 * writes.
 *
 * O_EXCL on a block device excludes other O_EXCL opens, mounts, device mapper and md, on this host. A regular file is
 * accepted too, through a loop device (node_loop.ts).
 */

import { close as closeCb, constants, fdatasync, open as openCb, read, writev } from 'node:fs';
import { realpath, stat } from 'node:fs/promises';
import { promisify } from 'node:util';
import { type BlockGeometry, nativeBinding } from '../../native/binding.js';
import { assert } from '../base/assert.js';
import { ByteBudget } from '../base/budget.js';
import { FsError } from '../base/errno.js';
import { logger } from '../base/log.js';
import { notice } from '../base/notices.js';
import { SLAB_BYTES, SlabPool } from '../base/slab_pool.js';
import { CountDown } from '../base/wait.js';
import { backingFile, holdLoopDevice, reserveFile } from './node_loop.js';
import type { BlockDevice } from './ports.js';

const log = logger('runtime:block');
const openFd = promisify(openCb);
const closeFd = promisify(closeCb);
const datasync = promisify(fdatasync);

/** Alignment of direct I/O, and of memory for readOnce(): every sector size of Linux divides it. */
const DIRECT_BYTES = 4096;
/** Twice the number of libuv's threads: one buffer is filled while another is written. */
const BOUNCES_MAX = 8;

export interface ResolvedDevice {
  /** A block device, without symbolic links: equal paths are the same device. */
  readonly path: string;
  readonly loop: boolean;
  /**
   * Call before the first write: a regular file behind the device gets all of its space. @throws FsError ENOSPC,
   * EOPNOTSUPP.
   */
  reserve(): Promise<void>;
  /**
   * A loop device stays attached until this was called and no process has it open. Without this call it stays attached
   * until this process ends, however it ends.
   */
  release(): Promise<void>;
}

export interface OpenOptions {
  /** O_EXCL: the open fails with EBUSY if the device is claimed. */
  readonly exclusive: boolean;
  /** O_DIRECT: past this host's caches. Reads may have any bounds; writes must be whole sectors (else EINVAL). */
  readonly direct?: boolean;
  readonly readOnly?: boolean;
}

export interface NodeBlockDevice extends BlockDevice {
  readonly fd: number;
  readonly geometry: BlockGeometry;
  /** Makes the kernel forget what it has cached of the device (BLKFLSBUF), because another host may have written to it. */
  dropCache(): Promise<void>;
}

/**
 * The block device behind a path. For a regular file that is its loop device, which is attached if there is none.
 * @throws FsError with one line that says what is wrong with the path.
 */
export async function resolveDevice(path: string): Promise<ResolvedDevice> {
  const real = await realpath(path).catch((error: unknown) => {
    throw openFailure(path, error);
  });
  const info = await stat(real);
  if (info.isBlockDevice()) {
    const file = await backingFile(real);
    const reserve = async (): Promise<void> => (file === undefined ? undefined : await reserveFile(file));
    return { path: real, loop: false, reserve, release: async () => {} };
  }
  if (!info.isFile()) {
    throw new FsError('EINVAL', `${path} is ${kindOf(info)}: name a block device or a regular file`);
  }
  const hold = await holdLoopDevice(real);
  let held = true;
  return {
    path: hold.path,
    loop: true,
    reserve: () => reserveFile(real),
    release: async () => {
      if (!held) return;
      held = false;
      await closeFd(hold.fd);
    },
  };
}

function kindOf(info: { isDirectory(): boolean; isCharacterDevice(): boolean }): string {
  if (info.isDirectory()) return 'a directory';
  return info.isCharacterDevice() ? 'a character device' : 'a pipe or socket';
}

/**
 * Opens a block device, or a regular file through its loop device.
 * @throws FsError EBUSY (claimed), ENOENT, EACCES, EROFS, EINVAL (no block device), ENXIO (no medium).
 */
export async function openBlockDevice(path: string, options: OpenOptions): Promise<NodeBlockDevice> {
  const resolved = await resolveDevice(path);
  try {
    const flags =
      (options.readOnly === true ? constants.O_RDONLY : constants.O_RDWR) |
      (options.exclusive ? constants.O_EXCL : 0) |
      (options.direct === true ? constants.O_DIRECT : 0);
    const fd = await openFd(resolved.path, flags).catch((error: unknown) => {
      throw openFailure(path, error);
    });
    try {
      return new OpenedDevice(resolved.path, fd, nativeBinding().blockGeometry(fd), options);
    } catch (error) {
      await closeFd(fd);
      throw openFailure(path, error);
    }
  } finally {
    // The descriptor just opened keeps a loop device attached.
    await resolved.release();
  }
}

function openFailure(path: string, error: unknown): FsError {
  if (error instanceof FsError) return error;
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const cause = { cause: error };
  switch (code) {
    case 'EBUSY':
      return new FsError('EBUSY', `${path} is in use (mounted, or opened by another program)`, cause);
    case 'ENOENT':
    case 'ENOTDIR':
      return new FsError('ENOENT', `${path} does not exist`, cause);
    case 'EACCES':
    case 'EPERM':
      return new FsError('EACCES', `${path} may not be opened by this user: run as root`, cause);
    case 'EROFS':
      return new FsError('EROFS', `${path} is read-only`, cause);
    case 'ENXIO':
    case 'ENODEV':
    case 'ENOMEDIUM':
      return new FsError('ENXIO', `${path} names a device that does not exist (${code})`, cause);
    case 'ENOTTY':
    case 'ENOTBLK':
      return new FsError('EINVAL', `${path} is not a block device`, cause);
    default:
      return new FsError(
        'EIO',
        `cannot open ${path}: ${error instanceof Error ? error.message : error}`,
        cause,
      );
  }
}

class OpenedDevice implements NodeBlockDevice {
  readonly path: string;
  readonly fd: number;
  readonly geometry: BlockGeometry;
  readonly #direct: boolean;
  readonly #readOnly: boolean;
  /** A second descriptor, with O_DIRECT; opened when it is first needed. */
  #directFd: Promise<number> | undefined;
  /** Data that is not aligned in memory is copied into these buffers and written from there. */
  readonly #bounce = new SlabPool(BOUNCES_MAX, (lengthBytes) => this.memory(lengthBytes));
  readonly #bounces = new ByteBudget('bounce buffers', BOUNCES_MAX * SLAB_BYTES);
  #open = true;
  /** Calls that use the descriptors now. */
  readonly #calls = new CountDown();

  constructor(path: string, fd: number, geometry: BlockGeometry, options: OpenOptions) {
    this.path = path;
    this.fd = fd;
    this.geometry = geometry;
    this.#direct = options.direct === true;
    this.#readOnly = options.readOnly === true;
  }

  get sizeBytes(): number {
    return this.geometry.sizeBytes;
  }

  /** close() waits for this call: a descriptor that is closed meanwhile may be another file's when a thread uses it. */
  #call<T>(what: string, call: () => Promise<T>): Promise<T> {
    assert(this.#open, `${what} of ${this.path} after close`);
    return this.#calls.during(call);
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#call('read', () =>
      this.#direct ? this.#readDirect(offset, target) : this.#readFully(offset, target),
    );
  }

  write(offset: number, chunks: readonly Uint8Array[]): Promise<void> {
    return this.#call('write', () => {
      if (this.#direct) return this.#writeSectors(offset, chunks);
      const lengthBytes = lengthOf(chunks);
      return lengthBytes > 0 && (offset | lengthBytes) % DIRECT_BYTES === 0
        ? this.#writeBlocks(offset, chunks)
        : this.#writeFully(this.fd, offset, chunks);
    });
  }

  readOnce(offset: number, target: Uint8Array): Promise<void> {
    return this.#call('read', () => this.#readOnce(offset, target));
  }

  async #readOnce(offset: number, target: Uint8Array): Promise<void> {
    const aligned = (offset | target.length) % DIRECT_BYTES === 0;
    if (this.#direct || !aligned || !nativeBinding().isAligned(target, DIRECT_BYTES)) {
      return await (this.#direct ? this.#readDirect(offset, target) : this.#readFully(offset, target));
    }
    try {
      await nativeBinding().blockReadOnce(
        this.fd,
        await this.#openDirect('read', offset, target.length),
        target,
        offset,
      );
    } catch (error) {
      throw this.#failure('read', offset, error instanceof Error ? error : new Error(String(error)));
    }
  }

  memory(lengthBytes: number): Buffer {
    return nativeBinding().alignedBuffer(lengthBytes, DIRECT_BYTES);
  }

  flush(): Promise<void> {
    return this.#call('flush', async () => {
      try {
        await datasync(this.fd);
      } catch (error) {
        throw deviceFailed(`flush of ${this.path}`, error);
      }
    });
  }

  readDirect(offset: number, target: Uint8Array): Promise<void> {
    return this.#call('direct read', async () => {
      const fd = await this.#openDirect('read', offset, target.length);
      try {
        target.set(await nativeBinding().blockReadDirect(fd, offset, target.length));
      } catch (error) {
        throw this.#failure('direct read', offset, error);
      }
    });
  }

  writeDirect(offset: number, bytes: Uint8Array): Promise<void> {
    return this.#call('direct write', async () => {
      const fd = await this.#openDirect('write', offset, bytes.length);
      try {
        await nativeBinding().blockWriteDirect(fd, offset, bytes);
      } catch (error) {
        throw this.#failure('direct write', offset, error);
      }
    });
  }

  /** A descriptor for calls that bypass this host's caches: `fd`, or a second one for the same device. */
  async #openDirect(what: string, offset: number, length: number): Promise<number> {
    if (offset % DIRECT_BYTES !== 0 || length % DIRECT_BYTES !== 0) {
      throw new FsError(
        'EINVAL',
        `direct ${what} of ${this.path} at ${offset}, ${length} bytes: not in units of ${DIRECT_BYTES}`,
      );
    }
    if (this.#direct) return this.fd;
    const access = this.#readOnly ? constants.O_RDONLY : constants.O_RDWR;
    this.#directFd ??= openFd(this.path, access | constants.O_DIRECT);
    try {
      return await this.#directFd;
    } catch (error) {
      this.#directFd = undefined;
      throw openFailure(this.path, error);
    }
  }

  discard(offset: number, lengthBytes: number): Promise<void> {
    return this.#call('discard', () => this.#discard(offset, lengthBytes));
  }

  async #discard(offset: number, lengthBytes: number): Promise<void> {
    const sector = this.geometry.logicalSectorBytes;
    const start = Math.ceil(offset / sector) * sector;
    const end = Math.floor((offset + lengthBytes) / sector) * sector;
    if (end <= start) return;
    try {
      await nativeBinding().blockDiscard(this.fd, start, end - start);
    } catch (error) {
      // A discard is only a hint. EOPNOTSUPP is usual; after any other error the range just keeps its blocks.
      log('discard of %s failed: %s', this.path, messageOf(error));
    }
  }

  dropCache(): Promise<void> {
    return this.#call('dropCache', () => nativeBinding().blockDropCache(this.fd));
  }

  async close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#calls.zero();
    // If its open failed, the caller that needed it got the error.
    const directFd = await this.#directFd?.catch(() => undefined);
    if (directFd !== undefined) await closeFd(directFd);
    await closeFd(this.fd);
  }

  #readFully(offset: number, target: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      let done = 0;
      const step = (): void => {
        read(this.fd, target, done, target.length - done, offset + done, (error, count) => {
          if (error !== null) {
            reject(this.#failure('read', offset + done, error));
          } else if (count === 0 && done < target.length) {
            reject(new FsError('EIO', `read of ${this.path} at ${offset + done} is past its end`));
          } else {
            done += count;
            if (done < target.length) step();
            else resolve();
          }
        });
      };
      step();
    });
  }

  /** Writes whole blocks past the page cache: from the caller's memory if it is aligned, else through bounce buffers. */
  async #writeBlocks(offset: number, chunks: readonly Uint8Array[]): Promise<void> {
    const fd = await this.#openDirect('write', offset, lengthOf(chunks));
    const native = nativeBinding();
    const aligned = (chunk: Uint8Array): boolean =>
      chunk.length % DIRECT_BYTES === 0 && native.isAligned(chunk, DIRECT_BYTES);
    if (chunks.every(aligned)) {
      await this.#writeFully(fd, offset, chunks);
      return;
    }
    for (let left = chunks, position = offset; left.length > 0; ) {
      await this.#bounces.take(SLAB_BYTES);
      const bounce = this.#bounce.take(SLAB_BYTES);
      try {
        const filled = fill(bounce, left);
        await this.#writeFully(fd, position, [bounce.subarray(0, filled)]);
        left = withoutFirst(left, filled);
        position += filled;
      } finally {
        this.#bounce.give(bounce);
        this.#bounces.give(SLAB_BYTES);
      }
    }
  }

  #writeFully(fd: number, offset: number, chunks: readonly Uint8Array[]): Promise<void> {
    return new Promise((resolve, reject) => {
      let left = chunks.filter((chunk) => chunk.length > 0);
      let position = offset;
      const step = (): void => {
        if (left.length === 0) {
          resolve();
          return;
        }
        writev(fd, left, position, (error, count) => {
          if (error !== null) {
            reject(this.#failure('write', position, error));
          } else if (count === 0) {
            reject(new FsError('EIO', `write of ${this.path} at ${position} wrote nothing`));
          } else {
            position += count;
            left = withoutFirst(left, count);
            step();
          }
        });
      };
      step();
    });
  }

  async #readDirect(offset: number, target: Uint8Array): Promise<void> {
    const sector = this.geometry.logicalSectorBytes;
    const start = Math.floor(offset / sector) * sector;
    const end = Math.ceil((offset + target.length) / sector) * sector;
    const bounce = nativeBinding().alignedBuffer(end - start, Math.max(sector, 4096));
    await this.#readFully(start, bounce);
    target.set(bounce.subarray(offset - start, offset - start + target.length));
  }

  async #writeSectors(offset: number, chunks: readonly Uint8Array[]): Promise<void> {
    const sector = this.geometry.logicalSectorBytes;
    const length = lengthOf(chunks);
    if (offset % sector !== 0 || length % sector !== 0) {
      throw new FsError(
        'EINVAL',
        `direct write of ${this.path} at ${offset}, ${length} bytes: not whole sectors`,
      );
    }
    const bounce = nativeBinding().alignedBuffer(length, Math.max(sector, 4096));
    let at = 0;
    for (const chunk of chunks) {
      bounce.set(chunk, at);
      at += chunk.length;
    }
    await this.#writeFully(this.fd, offset, [bounce]);
  }

  #failure(what: string, offset: number, error: unknown): FsError {
    return deviceFailed(`${what} of ${this.path} at ${offset}`, error);
  }
}

/** Makes the error, and notices it in this process's log too: the caller may be on another machine. */
export function deviceFailed(what: string, cause: unknown): FsError {
  const text = `${what} failed: ${messageOf(cause)}`;
  notice('device-failed', text);
  return new FsError('EIO', text, { cause });
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function lengthOf(chunks: readonly Uint8Array[]): number {
  return chunks.reduce((sum, chunk) => sum + chunk.length, 0);
}

/** Copies as much of the chunks as fits. @returns the number of bytes copied. */
function fill(target: Uint8Array, chunks: readonly Uint8Array[]): number {
  let filled = 0;
  for (const chunk of chunks) {
    const part = chunk.subarray(0, target.length - filled);
    target.set(part, filled);
    filled += part.length;
  }
  return filled;
}

/** The rest of the chunks after count bytes of them were written. */
function withoutFirst(chunks: readonly Uint8Array[], count: number): Uint8Array[] {
  const left: Uint8Array[] = [];
  let skip = count;
  for (const chunk of chunks) {
    if (skip >= chunk.length) skip -= chunk.length;
    else {
      left.push(skip === 0 ? chunk : chunk.subarray(skip));
      skip = 0;
    }
  }
  return left;
}
