/**
 * The native addon as TypeScript sees it: only what needs native code. The sources beside this file implement it;
 * build.mjs builds them at install.
 *
 * A failure is an Error with `code` (errno name), `syscall` and, if there is one, `path`. Callers turn it into an
 * FsError that says what to do.
 */

import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FsError } from '../src/base/errno.js';

export interface FuseChannel {
  /** Writes the replies in the first `replyBytes` of the reply slab, which is free again then. */
  flush(replyBytes: number): void;
  /** Sends one whole reply, or a notification that never waits (INC_EPOCH). @returns 0 or the errno of the write. */
  send(chunks: readonly Uint8Array[]): number;
  /**
   * Queues a copy of a notification for a thread of its own. The caller has to flush replies that must arrive before
   * it.
   * @returns 0, and onNotified(id) follows; or an errno, and it does not.
   */
  notify(id: number, message: Uint8Array): number;
  /** Reads no more requests until resume(): another process that has the descriptor may read them. Idempotent. */
  pause(): void;
  resume(): void;
  /**
   * Closes the channel. Only onNotified may still be called. The descriptor closes when its last user is done.
   * Idempotent.
   */
  close(): void;
}

export interface FuseChannelConstructor {
  /**
   * Serves an open /dev/fuse descriptor of a new mount or one that was taken over. The channel owns it, unless this
   * throws.
   * @param requestSlab 8-byte aligned, at least maxRequestBytes; more for larger batches.
   * @param replySlab 8-byte aligned. It has replies one behind the other from its start, each at a multiple of 8.
   * @param maxRequestBytes largest request the kernel may send: max_write + 4096.
   * @param onBatch called with `count` requests in the first `bytes` of the request slab, each at a multiple of 8,
   *   valid until it returns. It returns how many bytes of the reply slab have replies; the channel writes them before
   *   promise continuations run.
   * @param onReplyFailed called if the kernel refused a reply from the slab (a bug in its encoding).
   * @param onNotified called when the kernel has done (errno 0) or refused the notification. ECANCELED: the channel was
   * closed before.
   * @param onClosed called, at most once, when the mount is gone (ENODEV) or the device failed; the channel is closed
   * then.
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

/** The rules of TLS handshakes, and what this side proves with (native/tls_context.cc). */
export interface TlsContext {
  readonly brand: 'TlsContext';
}

export interface TlsContextConstructor {
  /**
   * @param certificate ours and those that lead to its CA, privateKey, ca: those that may sign the peer's; in PEM. All or none.
   * @param identity and key: what a client proves.
   * @throws Error as those of node:tls (code, reason) if they cannot be used.
   */
  new (
    isServer: boolean,
    certificate?: Uint8Array,
    privateKey?: Uint8Array,
    ca?: Uint8Array,
    identity?: string,
    key?: Uint8Array,
  ): TlsContext;
}

/** What a handshake has shown. */
export interface TlsOutcome {
  /** Both sides have the key. */
  readonly usedKey: boolean;
  /** The peer's, in DER. It has its private key. */
  readonly certificate?: Buffer | undefined;
  /** X509_V_OK (0): one of our CAs has signed it, and it is valid. Else why it does not count, and OpenSSL's text for that. */
  readonly verifyResult: number;
  readonly verifyText: string;
}

/** One connected stream socket. It begins paused. Its methods call none of its callbacks. */
export interface StreamSocket {
  /**
   * Speaks TLS from now on, at once after it was made, and begins with the handshake. An error of TLS goes to onEnded: code
   * ERR_SSL_REASON, `reason`, and `alert` if it is the peer's. So does the end of a peer that has not said so by close_notify.
   * @param first what was read before; empty: nothing.
   * @param keyOf the key with this identity, for a server.
   * @param onSecure called once: the handshake is done. The socket is paused, and has written nothing of JavaScript so far.
   */
  startTls(
    context: TlsContext,
    first: Uint8Array,
    keyOf: (identity: string) => Uint8Array | undefined,
    onSecure: (outcome: TlsOutcome) => void,
  ): void;
  /** Receives from now on. */
  resume(): void;
  /** Receives nothing, and does not notice the peer's end, until resume(). */
  pause(): void;
  /**
   * Sends the chunks, in order. They must not change until they have left. Detached memory among them is a TypeError
   * now, and ends the connection with EFAULT later.
   * @returns the number of bytes that wait in the process now, or a negative errno: the connection is broken (EPIPE also
   *   after end() and close(); ENOTCONN during a handshake).
   */
  write(chunks: readonly Uint8Array[]): number;
  /**
   * Sends FIN behind all that was written; over TLS, first a close_notify. From now on the socket receives, and drops what it gets.
   * @returns the number of bytes that wait. At 0, FIN is sent; else it is when onSent(0) is called.
   */
  end(): number;
  /** Bytes that the peer's kernel has acknowledged, or has taken if this is a Unix socket; 0 after close(). */
  takenBytes(): number;
  /** Closes at once and drops what waits. No callback follows. Idempotent. */
  close(): void;
}

export interface StreamSocketConstructor {
  /**
   * @param fd a connected stream socket. The object owns a duplicate of it; the caller keeps its own.
   * @param memory its first element is where the next bytes go, never empty. The socket looks it up for each read.
   * @param onData called with the number of bytes that lie at the start of memory[0] now. More may follow at once, so the
   *   callback puts other memory there.
   * @param onSent called when bytes that waited have left, with the number of those that still wait.
   * @param onEnded called at most once: without an error when the peer has ended its side, after its last bytes; with
   *   one if the connection is broken, and then the socket is closed after the call.
   */
  new (
    fd: number,
    memory: readonly [Uint8Array],
    onData: (bytes: number) => void,
    onSent: (waitingBytes: number) => void,
    onEnded: (error?: Error) => void,
  ): StreamSocket;
}

export interface BlockGeometry {
  readonly sizeBytes: number;
  readonly logicalSectorBytes: number;
  readonly physicalSectorBytes: number;
}

export interface UnixPeer {
  /** The effective one, as this user namespace sees it: an overflow UID if it has none. */
  readonly uid: number;
  /** 0 if this PID namespace does not have the process. */
  readonly pid: number;
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
  readonly StreamSocket: StreamSocketConstructor;
  /** Absent: this process does not have all functions of OpenSSL 3 that it needs. */
  readonly TlsContext?: TlsContextConstructor;
  /** mount(2). */
  mount(source: string, target: string, type: string, flags: number, data: string): void;
  /**
   * umount2(2) in a child process without descriptors: the call may write dirty pages back through the FUSE process
   * that calls this, and must not keep that process from ending.
   */
  umount(target: string, flags: number): Promise<void>;
  /** umount2(2) in this process, which must not be the one that serves the mount. */
  umountHere(target: string, flags: number): void;
  /** Two connected UNIX sockets, through which fusermount3 passes a descriptor. */
  socketPair(): [number, number];
  /** Receives the descriptor that waits in a socket. EAGAIN if there is no message, EPROTO if it has no descriptor. */
  receiveFd(socket: number): number;
  /** One more descriptor of the mount behind a descriptor of /dev/fuse. EINVAL: there is no mount behind it. */
  cloneFuse(fd: number): number;
  blockGeometry(fd: number): BlockGeometry;
  /** BLKDISCARD; offset and length in multiples of the logical sector. */
  blockDiscard(fd: number, offset: number, lengthBytes: number): Promise<void>;
  /** fallocate(2) of the whole file, which keeps its content and its size. EOPNOTSUPP, ENOSPC. */
  reserveFile(fd: number, lengthBytes: number): Promise<void>;
  /** BLKFLSBUF: the kernel forgets what it has cached of the device. */
  blockDropCache(fd: number): Promise<void>;
  /** Reads on a thread of its own. fd was opened with O_DIRECT; offset and length are multiples of the sector. */
  blockReadDirect(fd: number, offset: number, lengthBytes: number): Promise<Buffer>;
  /** Writes a copy of the bytes on a thread of its own. fd, offset and length as above. */
  blockWriteDirect(fd: number, offset: number, bytes: Uint8Array): Promise<void>;
  /**
   * Fills target from a device that is open twice, the second time with O_DIRECT. Reads past the page cache, unless
   * that has at least half of the range. Target, offset and length must be aligned. ENODATA: past the end.
   */
  blockReadOnce(cached: number, direct: number, target: Uint8Array, offset: number): Promise<void>;
  /** Whether the memory begins at a multiple of `alignment`. */
  isAligned(memory: Uint8Array, alignment: number): boolean;
  /** Zeroed memory for direct I/O. */
  alignedBuffer(lengthBytes: number, alignment: number): Buffer;
  /** flock(LOCK_EX), which may wait. Closing the descriptor releases the lock. */
  lockFile(fd: number): Promise<void>;
  /** @param control descriptor of /dev/loop-control. @returns the number of an unattached loop device. */
  loopGetFree(control: number): number;
  /** Attaches a loop device; the kernel detaches it after the last close. EBUSY: another process has taken it meanwhile. */
  loopAttach(loop: number, backing: number, name: string, direct: boolean): void;
  /** ENXIO: nothing is attached. */
  loopBacking(loop: number): LoopBacking;
  loopDetach(loop: number): void;
  /** mknod(2) of a block device. */
  makeBlockNode(path: string, major: number, minor: number): void;
  /**
   * Opens the pages of a metadata database for meta_pages.cc.
   * @param sizeBytes size of the device.
   * @param checksGaps 1: if a record is missing, those beside it are checked, and damage there is an error. 0: they are not.
   */
  metaPagesOpen(path: string, sizeBytes: number, checksGaps: 0 | 1): MetaPagesHandle;
  /** Closes the handle, which is invalid then. A prefetch under way ends by itself. */
  metaPagesClose(handle: MetaPagesHandle): void;
  /**
   * The length of a record's value, which is in `target` if that is large enough; undefined: there is no such record. A
   * string says what is wrong on the path to the record.
   */
  metaPagesGet(handle: MetaPagesHandle, key: Uint8Array, target: Uint8Array): number | string | undefined;
  /** Records of one leaf, packed (meta_pages.cc). A string says what is wrong. */
  metaPagesLeaf(handle: MetaPagesHandle, start: Uint8Array, end: Uint8Array, limit: number): Buffer | string;
  /**
   * What is wrong on the paths to these keys; undefined: nothing. The keys are packed as below. 0x8000 in a length
   * means that the record will be removed: lmdb may then merge pages on its path with those beside them.
   */
  metaPagesCheck(handle: MetaPagesHandle, keys: Uint8Array): string | undefined;
  /**
   * Reads the paths to these keys. @param keys for each a u16 length in the machine's byte order and the key, one
   * behind the other.
   */
  metaPagesPrefetch(handle: MetaPagesHandle, keys: Uint8Array): Promise<void>;
  /** Bytes that the peer's kernel has acknowledged on this TCP connection. EBADF, ENOTSOCK, EOPNOTSUPP. */
  socketTakenBytes(fd: number): number;
  /**
   * Listens at an abstract Unix name, in this network namespace, or at a path: that begins with "/", and gets mode 0600.
   * @returns the descriptor. EADDRINUSE.
   */
  unixListen(name: string, backlog: number): number;
  /** Connects to such a name or path. Never waits. @returns the descriptor. ECONNREFUSED; EAGAIN: the backlog is full. */
  unixConnect(name: string): number;
  /** The process at the other end of a Unix socket, as it was when it connected or began to listen (SO_PEERCRED). */
  unixPeer(fd: number): UnixPeer;
  /** CRC-32C of each block in turn; the last may be short. */
  crc32cBlocks(data: Uint8Array, blockBytes: number): Uint32Array;
  /** The same without the processor's CRC instructions, for tests. */
  crc32cBlocksPortable(data: Uint8Array, blockBytes: number): Uint32Array;
  /** flock(2). EAGAIN if the lock conflicts and wait is false. */
  flock(fd: number, type: LockType, wait: boolean): void;
  /** fcntl(2) F_SETLK, F_SETLKW. EAGAIN if the lock conflicts and wait is false. */
  lockRange(fd: number, type: LockType, start: number, length: number, wait: boolean): void;
  /** Programs that this one starts do not get the descriptor. */
  closeOnExec(fd: number): void;
  /**
   * prctl(PR_SET_DUMPABLE). A process that is not dumpable leaves no core file, and only root may attach to it. A program that it
   * starts is dumpable again.
   */
  setDumpable(dumpable: boolean): void;
  /**
   * Bounds what OpenSSL takes of a peer's certificates before it has verified anything, in the contexts of TLS that this process
   * makes from now on. Its own limit is 100 KiB. @returns false if this OpenSSL does not let us.
   */
  limitCertificates(lengthBytes: number): boolean;
  /**
   * Sends one message to systemd (sd_notify(3)) in the background, with copies of up to two descriptors.
   * @param socket NOTIFY_SOCKET: a path, or an abstract name behind "@".
   * @param first a descriptor, or -1: none. @param second the same.
   * @returns when the message is in the manager's queue. ENOENT, ECONNREFUSED: there is no manager.
   */
  tellManager(socket: string, text: string, first: number, second: number): Promise<void>;
  /** memfd_create(2). @returns the descriptor of an empty file. @param name for /proc. */
  memoryFile(name: string): number;
  /** Whether the mount behind a descriptor of /dev/fuse has ended, or never was. */
  fuseHasEnded(fd: number): boolean;
  /** mmap(2), shared and writable, from the start of the file. RangeError: the file is shorter. */
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

/** The folder with our package.json. This file may run from the source folder or from any output folder below it. */
export function packageRoot(): string {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    const file = join(folder, 'package.json');
    if (existsSync(file) && JSON.parse(readFileSync(file, 'utf8')).name === 'holdfast') return folder;
    if (folder === dirname(folder)) throw new FsError('ENOENT', 'cannot find the package.json of holdfast');
  }
}

/**
 * The loaded addon, which never changes. To find it means to read package.json, which is too expensive for each
 * checksum.
 */
let loaded: NativeBinding | undefined;

/**
 * The addon, loaded at the first call.
 * @throws FsError ENOENT if it was never built, ENODEV if it cannot be loaded.
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
