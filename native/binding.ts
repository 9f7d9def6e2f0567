/**
 * The native addon as TypeScript sees it: what only native code can do, and nothing else. The sources beside this file
 * say how; build.mjs builds them at install.
 *
 * Failures are Errors with `code` (errno name), `syscall` and, where there is one, `path`; callers turn them into
 * FsErrors that say what to do.
 */

import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FsError } from '../src/base/errno.js';

export interface FuseChannel {
  /** Writes the replies that take so many bytes from the start of the reply slab, which is free again then. */
  flush(replyBytes: number): void;
  /** One whole reply, or a notification that never waits (INC_EPOCH). @returns 0 or the errno of the write. */
  send(chunks: readonly Uint8Array[]): number;
  /**
   * Queues a copy of a notification for a thread of its own. Replies that must arrive before it have to be flushed.
   * @returns 0, and onNotified(id) follows, or an errno, and it does not.
   */
  notify(id: number, message: Uint8Array): number;
  /** No callback but onNotified follows. The descriptor is closed when its last user is done. Idempotent. */
  close(): void;
}

export interface FuseChannelConstructor {
  /**
   * Serves an open /dev/fuse descriptor, freshly mounted or taken over, and owns it from then on (not when it throws).
   * @param requestSlab 8-byte aligned, at least maxRequestBytes; more for larger batches.
   * @param replySlab 8-byte aligned. Replies stand one behind the other from its start, each at a multiple of 8.
   * @param maxRequestBytes largest request the kernel may send: max_write + 4096.
   * @param onBatch `bytes` of the request slab hold `count` requests, each at a multiple of 8, until it returns. It returns
   *   how many bytes of the reply slab hold replies; they are written before promise continuations run.
   * @param onReplyFailed the kernel refused a reply that stood in the slab (a bug of whoever encoded it).
   * @param onNotified the kernel did (errno 0) or refused the notification; ECANCELED: closed before it was begun.
   * @param onClosed the mount is gone (ENODEV) or the device failed; the channel is closed. At most once.
   */
  new (
    fd: number,
    requestSlab: Buffer,
    replySlab: Buffer,
    maxRequestBytes: number,
    onBatch: (bytes: number, count: number) => number,
    onReplyFailed: (errno: number, unique: bigint) => void,
    onNotified: (id: number, errno: number) => void,
    onClosed: (errno: number) => void,
  ): FuseChannel;
}

export interface BlockGeometry {
  readonly sizeBytes: number;
  readonly logicalSectorBytes: number;
  readonly physicalSectorBytes: number;
}

export interface LoopBacking {
  /** st_dev and st_ino of the backing file. */
  readonly device: bigint;
  readonly inode: bigint;
  readonly offsetBytes: number;
  /** 0: the whole file. */
  readonly sizeLimitBytes: number;
  /** LO_FLAGS_*. */
  readonly flags: number;
}

export interface NativeBinding {
  readonly FuseChannel: FuseChannelConstructor;
  /** mount(2). */
  mount(source: string, target: string, type: string, flags: number, data: string): void;
  /**
   * umount2(2), in a child process without descriptors: it may write dirty pages back through the server that calls this,
   * and must not keep that server from dying.
   */
  umount(target: string, flags: number): Promise<void>;
  /** umount2(2) of this process, which must not be the one that serves the mount. */
  umountHere(target: string, flags: number): void;
  /** Two connected UNIX sockets, for fusermount3 to pass a descriptor through. */
  socketPair(): [number, number];
  /** The descriptor that waits in a socket. EAGAIN when there is none, EPROTO when the message holds none. */
  receiveFd(socket: number): number;
  blockGeometry(fd: number): BlockGeometry;
  /** BLKDISCARD; offset and length in multiples of the logical sector. */
  blockDiscard(fd: number, offset: number, lengthBytes: number): Promise<void>;
  /** fallocate(2) of the whole file, which keeps its bytes and its size. EOPNOTSUPP, ENOSPC. */
  reserveFile(fd: number, lengthBytes: number): Promise<void>;
  /** BLKFLSBUF: this host forgets what it cached of the device. */
  blockDropCache(fd: number): Promise<void>;
  /** Reads on a thread of its own. fd was opened with O_DIRECT; offset and length are multiples of the sector. */
  blockReadDirect(fd: number, offset: number, lengthBytes: number): Promise<Buffer>;
  /** Writes on a thread of its own, a copy of the bytes. As above. */
  blockWriteDirect(fd: number, offset: number, bytes: Uint8Array): Promise<void>;
  /**
   * Fills target from a device that is open twice, the second time with O_DIRECT: past the page cache, unless that has most
   * of it. Target, offset and length must be aligned. ENODATA: past the end.
   */
  blockReadOnce(cached: number, direct: number, target: Uint8Array, offset: number): Promise<void>;
  /** Whether the memory begins at a multiple of this. */
  isAligned(memory: Uint8Array, alignment: number): boolean;
  /** Zeroed memory for direct I/O. */
  alignedBuffer(lengthBytes: number, alignment: number): Buffer;
  /** flock(LOCK_EX), waits. Closing the descriptor releases the lock. */
  lockFile(fd: number): Promise<void>;
  /** @param control descriptor of /dev/loop-control. @returns the number of an unattached loop device. */
  loopGetFree(control: number): number;
  /** Attaches; detached by the kernel after the last close. EBUSY: taken meanwhile. */
  loopAttach(loop: number, backing: number, name: string, direct: boolean): void;
  /** ENXIO: nothing is attached. */
  loopBacking(loop: number): LoopBacking;
  loopDetach(loop: number): void;
  /** mknod(2) of a block device. */
  makeBlockNode(path: string, major: number, minor: number): void;
  /** Pages of a metadata database, as meta_pages.cc looks at them. @param sizeBytes of the device. */
  /** @param checksGaps 1: that a record is missing is doubted when those beside it are damaged. 0: it is not. */
  metaPagesOpen(path: string, sizeBytes: number, checksGaps: 0 | 1): MetaPagesHandle;
  /** The handle is no good any more. A prefetch under way ends by itself. */
  metaPagesClose(handle: MetaPagesHandle): void;
  /**
   * Length of a record's value, which is in `target` if that is large enough; undefined: there is no such record. A string:
   * what is wrong on the way to it.
   */
  metaPagesGet(handle: MetaPagesHandle, key: Uint8Array, target: Uint8Array): number | string | undefined;
  /** Records of one leaf, packed (meta_pages.cc). A string: what is wrong. */
  metaPagesLeaf(handle: MetaPagesHandle, start: Uint8Array, end: Uint8Array, limit: number): Buffer | string;
  /**
   * What is wrong on the way to these keys, packed as below; undefined: nothing. 0x8000 in a length says that the record is
   * to be removed: lmdb may merge with the pages beside the way what that leaves.
   */
  metaPagesCheck(handle: MetaPagesHandle, keys: Uint8Array): string | undefined;
  /** Reads the ways to these keys. @param keys u16 length in the machine's order and key, one behind the other. */
  metaPagesPrefetch(handle: MetaPagesHandle, keys: Uint8Array): Promise<void>;
  /** Bytes that the peer's kernel has acknowledged on this TCP connection. EBADF, ENOTSOCK, EOPNOTSUPP. */
  socketTakenBytes(fd: number): number;
  /** CRC-32C of each block in turn; the last may be short. */
  crc32cBlocks(data: Uint8Array, blockBytes: number): Uint32Array;
  /** The same without processor instructions, for tests. */
  crc32cBlocksPortable(data: Uint8Array, blockBytes: number): Uint32Array;
  /** flock(2). EAGAIN when it conflicts and wait is false. */
  flock(fd: number, type: LockType, wait: boolean): void;
  /** fcntl(2) F_SETLK, F_SETLKW. EAGAIN when it conflicts and wait is false. */
  lockRange(fd: number, type: LockType, start: number, length: number, wait: boolean): void;
  /** mmap(2), shared and writable, from the start of the file. */
  map(fd: number, length: number): SharedMapping;
}

declare const META_PAGES: unique symbol;
export interface MetaPagesHandle {
  readonly [META_PAGES]: true;
}

export type LockType = 'shared' | 'exclusive' | 'unlock';

export interface SharedMapping {
  /** A copy of the bytes. */
  read(offset: number, length: number): Buffer;
  write(offset: number, bytes: Uint8Array): void;
  /** msync(MS_SYNC). */
  sync(): void;
  unmap(): void;
}

export const MS_RDONLY = 1;
export const MS_NOSUID = 2;
export const MS_NODEV = 4;
export const MS_NOEXEC = 8;
export const MS_SYNCHRONOUS = 16;
export const MS_DIRSYNC = 128;
export const MS_NOATIME = 1024;
export const MS_NODIRATIME = 2048;
export const MNT_FORCE = 1;
export const MNT_DETACH = 2;
export const UMOUNT_NOFOLLOW = 8;

/** Folder with our package.json: this file may run from the sources' place or from any output folder below it. */
export function packageRoot(): string {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    const file = join(folder, 'package.json');
    if (existsSync(file) && JSON.parse(readFileSync(file, 'utf8')).name === 'holdfast') return folder;
    if (folder === dirname(folder)) throw new FsError('ENOENT', 'cannot find the package.json of holdfast');
  }
}

/** What was loaded: a constant once it is there. Finding it reads package.json, too dear for each checksum. */
let loaded: NativeBinding | undefined;

/**
 * The addon, loaded at the first call.
 * @throws FsError ENOENT when it was never built, ENODEV when it cannot be loaded.
 */
export function nativeBinding(): NativeBinding {
  if (loaded !== undefined) return loaded;
  const path = join(packageRoot(), 'native', 'build', 'Release', 'holdfast_native.node');
  try {
    loaded = createRequire(import.meta.url)(path) as NativeBinding;
    return loaded;
  } catch (error) {
    const missing = !existsSync(path);
    throw new FsError(
      missing ? 'ENOENT' : 'ENODEV',
      missing
        ? `the native addon is not built (${path}): install g++, make and python3, then run "npm rebuild"`
        : `cannot load the native addon ${path}: ${error instanceof Error ? error.message.split('\n')[0] : error}`,
      { cause: error },
    );
  }
}
