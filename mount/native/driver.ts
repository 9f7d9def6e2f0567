/**
 * The native mount driver: mounts through /dev/fuse and connects the addon's channel with the dispatcher.
 *
 * Invariants:
 * - If startNativeMount() cannot make a mount usable, it unmounts it again before it rejects.
 * - Once the mount exists, no code here uses its path in a system call: such a call would wait for this very process.
 * - When the kernel says ENODEV, the channel closes, the handlers get destroy(), and `closed` resolves, each once.
 */

import { spawn } from 'node:child_process';
import { closeSync, constants, fstatSync, openSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import {
  type FuseChannel,
  MNT_DETACH,
  MNT_FORCE,
  MS_NOATIME,
  MS_NODEV,
  MS_NODIRATIME,
  MS_NOEXEC,
  MS_NOSUID,
  MS_RDONLY,
  nativeBinding,
  UMOUNT_NOFOLLOW,
} from '../../native/binding.js';
import { ERRNO, errnoName, FsError } from '../../src/base/errno.js';
import { logger } from '../../src/base/log.js';
import { notice } from '../../src/base/notices.js';
import { Deferred } from '../../src/base/wait.js';
import { INIT_FLAG, opcodeName } from '../../src/fuse/constants.js';
import { FuseDispatcher, type FuseDispatcherOptions } from '../../src/fuse/dispatcher.js';
import type { FuseHandlers, KernelNotifier } from '../../src/fuse/handlers.js';
import { READ_BUFFER_BYTES } from '../../src/fuse/init.js';
import { encodeResend } from '../../src/fuse/notify.js';
import { OperationTimes } from '../../src/runtime/operation_times.js';
import type { Metrics, Waits } from '../../src/runtime/ports.js';
import type { ChannelState, FuseMount, MountHandover, WaitingRequest } from '../fuse_mount.js';
import { FILESYSTEM_TYPE, type MountEntry, mountAt } from '../mount_table.js';
import { checkMountpoint } from '../mountpoint.js';
import { type IntrMode, interruptPolicy } from '../signals.js';
import { fusermountFailure, unmountFailure } from '../unmount.js';
import { NativeNotifier } from './notifier.js';

const log = logger('mount');

/** How a mount is served, whoever has made it. */
export interface ServeOptions {
  readonly intr: IntrMode;
  /** See MountOptions. */
  readonly intrGraceMs?: number | undefined;
  readonly timers: FuseDispatcherOptions['timers'];
  readonly clock: FuseDispatcherOptions['clock'];
  /** Default: the kernel's requests are not counted. */
  readonly metrics?: Metrics;
  /** Follows the kernel's requests. */
  readonly waits?: Waits;
  /** For tests, and as a workaround for a kernel's bug. */
  readonly dispatcher?: Omit<FuseDispatcherOptions, 'timers' | 'clock' | 'interruptPolicy'>;
}

export interface NativeMountOptions extends ServeOptions {
  readonly mountpoint: string;
  /** First word of the line in /proc/mounts: HOST:PORT. */
  readonly source: string;
  readonly allowOther: boolean;
  /** MS_*; see native/binding.ts. */
  readonly mountFlags: number;
  /** Kernel readahead of the mount; the kernel's own default would be 128 KiB. Default 2048. */
  readonly readAheadKiB?: number;
}

/**
 * With ASYNC_DIO the kernel sends O_DIRECT reads and writes as background requests, and waits for them in a state that
 * no signal ends, not even SIGKILL (fuse_direct_IO; the kernel sends no INTERRUPT for background requests).
 */
const UNINTERRUPTIBLE = INIT_FLAG.ASYNC_DIO;

/** A batch has room for four of the largest requests. */
const REQUEST_SLAB_BYTES = 4 * READ_BUFFER_BYTES;
const REPLY_SLAB_BYTES = 256 * 1024;

/**
 * Mounts, and resolves when INIT was answered: the mount is usable then.
 * @throws FsError with one line: ENOENT, ENOTDIR, EBUSY (mount point), ENODEV (no /dev/fuse), EACCES, EPROTO (kernel too old).
 */
export async function startNativeMount(
  handlers: FuseHandlers,
  options: NativeMountOptions,
): Promise<FuseMount> {
  const mountpoint = await checkMountpoint(options.mountpoint);
  const root = process.getuid?.() === 0;
  const fd = root ? mountAsRoot(mountpoint, options) : await mountByFusermount(mountpoint, options);
  let mount: NativeMount;
  try {
    mount = new NativeMount(handlers, mountpoint, fd, options);
  } catch (error) {
    closeSync(fd);
    await takeAway(mountpoint, 'force');
    throw error;
  }
  try {
    await mount.usable;
  } catch (error) {
    await mount.unmount('force');
    throw error;
  }
  await raiseReadAhead(mountpoint, options.readAheadKiB ?? 2048);
  return mount;
}

/**
 * Serves a mount that another process has had until now. That process reads no more.
 * @param fd of /dev/fuse; this owns it from now on, unless it throws.
 * @param bind called before the first request is served.
 */
export function takeNativeMount(
  handlers: FuseHandlers,
  mountpoint: string,
  fd: number,
  options: ServeOptions,
  from: ChannelState,
  bind: (notifier: KernelNotifier) => void,
): FuseMount {
  const mount = new NativeMount(handlers, mountpoint, fd, options);
  bind(mount.notifier);
  mount.goOn(from);
  return mount;
}

class NativeMount implements FuseMount {
  readonly driver = 'native';
  readonly mountpoint: string;
  readonly handover: MountHandover;
  readonly notifier: NativeNotifier;
  readonly #channel: FuseChannel;
  readonly #dispatcher: FuseDispatcher;
  readonly #requestSlab: Buffer;
  readonly #usable = new Deferred<void>();
  readonly #closed = new Deferred<void>();
  /** The mount's entry in the table when it was made; undefined: not known. */
  readonly #entry: MountEntry | undefined;
  /** This process has begun to unmount. */
  #asked = false;
  /** This process has unmounted: the mount ends in a moment. */
  #unmounted = false;
  #gone = false;

  /** If this returns, the channel owns the descriptor; if it throws, the caller does. */
  constructor(handlers: FuseHandlers, mountpoint: string, fd: number, options: ServeOptions) {
    this.mountpoint = mountpoint;
    this.handover = this.#handoverOf(fd);
    this.#entry = mountAt(mountpoint);
    // Not from Buffer's pool: the channel needs 8-byte alignment, and the slabs exist as long as the mount.
    this.#requestSlab = Buffer.allocUnsafeSlow(REQUEST_SLAB_BYTES);
    const replySlab = Buffer.allocUnsafeSlow(REPLY_SLAB_BYTES);
    this.#dispatcher = new FuseDispatcher(
      handlers,
      { replySlab, send: (chunks) => this.#send(chunks) },
      {
        withoutInitFlags: unwantedFlags(),
        ...options.dispatcher,
        timers: options.timers,
        clock: options.clock,
        times: kernelTimes(options),
        waits: options.waits,
        interruptPolicy: interruptPolicy(options.intr),
        ...(options.intrGraceMs === undefined ? {} : { interruptGraceMs: options.intrGraceMs }),
      },
    );
    this.notifier = new NativeNotifier(
      () => this.#channel,
      () => this.#flushReplies(),
    );
    // A caller that awaits it gets the failure, but there may be none yet.
    this.#usable.promise.catch(() => {});
    const { FuseChannel } = nativeBinding();
    this.#channel = new FuseChannel(
      fd,
      this.#requestSlab,
      replySlab,
      READ_BUFFER_BYTES,
      (bytes) => this.#batch(bytes),
      (errno, unique) => this.#replyRefused(errno, unique),
      (id, errno) => this.notifier.notified(id, errno),
      (errno) => this.#ended(errno),
    );
  }

  /**
   * There will be no INIT. Requests that waited in the process before come first; those that the kernel has ready follow with the
   * next poll event.
   */
  goOn({ negotiated, requests }: ChannelState): void {
    this.#dispatcher.takeOver(negotiated);
    this.#usable.resolve();
    for (const request of requests) {
      const bytes = Buffer.from(request);
      this.#dispatcher.batch(bytes, bytes.length);
      this.#flushReplies();
    }
  }

  #handoverOf(descriptor: number): MountHandover {
    return {
      descriptor,
      keepRequests: (patience) => this.#dispatcher.keepRequests(patience),
      quiet: async (patience) => {
        // The kernel may answer a notification only when we have answered its WRITEs. So none may be under way when we stop reading.
        do {
          this.#channel.resume();
          await this.notifier.idle(patience);
          this.#channel.pause();
        } while (this.notifier.waitingCount > 0);
        await this.#dispatcher.idle(patience);
        this.#flushReplies();
      },
      negotiated: () => {
        const { negotiated } = this.#dispatcher;
        if (negotiated === undefined) throw new FsError('EAGAIN', 'the mount has had no INIT yet');
        return negotiated;
      },
      requests: () => this.#dispatcher.requestsToHandOver(),
      stay: (askAgain) => {
        this.#dispatcher.keepNoRequests();
        if (this.#gone) return;
        if (askAgain) this.#resend();
        this.#channel.resume();
      },
    };
  }

  /** The kernel sends again what was read and has no answer. */
  #resend(): void {
    const errno = this.#channel.send([encodeResend()]);
    if (errno !== 0) log('%s: the kernel sends nothing again: %s', this.mountpoint, errnoName(errno));
  }

  /** Resolves when INIT was answered; rejects if the mount ended before. */
  get usable(): Promise<void> {
    return this.#usable.promise;
  }

  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  waiting(): readonly WaitingRequest[] {
    return this.#dispatcher.pendingSummary();
  }

  async unmount(how: 'plain' | 'detach' | 'force' = 'plain'): Promise<void> {
    if (this.#gone) return;
    this.#asked = true;
    if (this.#isInTable) {
      await takeAway(this.mountpoint, how);
      this.#unmounted = true;
    } else if (how === 'force') abortConnection(this.#entry?.device);
    if (how === 'force') await this.closed;
  }

  /** Whether the mount is still in the table. If it is detached, any mount at its mount point belongs to another client. */
  get #isInTable(): boolean {
    return this.#entry === undefined || mountAt(this.mountpoint)?.device === this.#entry.device;
  }

  get detached(): MountEntry | undefined {
    return this.#gone || this.#unmounted || this.#isInTable ? undefined : this.#entry;
  }

  #batch(bytes: number): number {
    this.#dispatcher.batch(this.#requestSlab, bytes);
    // Code that awaits the promise runs after the answer to INIT has left.
    if (this.#dispatcher.negotiated !== undefined) this.#usable.resolve();
    return this.#dispatcher.takeReplyBytes();
  }

  #flushReplies(): void {
    const bytes = this.#dispatcher.takeReplyBytes();
    if (bytes > 0) this.#channel.flush(bytes);
  }

  #send(chunks: readonly Uint8Array[]): void {
    const errno = this.#channel.send(chunks);
    const header = chunks[0];
    // If the kernel refuses an error answer (EAGAIN to an interrupt whose request is done), no other answer is
    // possible.
    if (errno === 0 || header === undefined) return;
    const unique = new DataView(header.buffer, header.byteOffset).getBigUint64(8, true);
    this.#replyRefused(errno, unique);
  }

  /**
   * The kernel refused an answer: a bug in our encoding. The kernel itself ends most such requests; the EIO ends the
   * others.
   */
  #replyRefused(errno: number, unique: bigint): void {
    log('%s: the kernel refused the answer to #%d: %s', this.mountpoint, unique, errnoName(errno));
    const answer = Buffer.alloc(16);
    answer.writeUInt32LE(16, 0);
    answer.writeInt32LE(-ERRNO.EIO, 4);
    answer.writeBigUInt64LE(unique, 8);
    this.#channel.send([answer]);
  }

  #ended(errno: number): void {
    this.#gone = true;
    // An unmount removes the mount from the table before the kernel ends the connection.
    if (!this.#asked && this.#entry !== undefined && this.#isInTable) {
      notice('mount-aborted', `${this.mountpoint}: the FUSE connection was aborted; every call on it fails`);
    }
    log('%s: the mount has ended (%s)', this.mountpoint, errnoName(errno));
    this.#usable.reject(
      new FsError('EPROTO', `the kernel ended the mount of ${this.mountpoint} at once: FUSE too old?`),
    );
    this.#dispatcher.deviceGone();
    this.#closed.resolve();
  }
}

function unwantedFlags(): bigint {
  // For tests of what only kernels before 6.9 do.
  const resend = process.env.HOLDFAST_WITHOUT_RESEND === '1' ? INIT_FLAG.HAS_RESEND : 0n;
  return UNINTERRUPTIBLE | resend;
}

function kernelTimes({ metrics, clock }: ServeOptions): OperationTimes | undefined {
  if (metrics === undefined) return undefined;
  return new OperationTimes(
    { metrics, clock },
    {
      prefix: 'fuse',
      of: 'requests of the kernel, from when the client reads them to their answers',
      nameOf: opcodeName,
    },
  );
}

function mountAsRoot(mountpoint: string, options: NativeMountOptions): number {
  const fd = openFuseDevice();
  // rootmode is octal: a directory. The kernel takes type and permissions from GETATTR later.
  const data = [`fd=${fd}`, 'rootmode=40000', 'user_id=0', 'group_id=0', 'default_permissions'];
  if (options.allowOther) data.push('allow_other');
  try {
    nativeBinding().mount(options.source, mountpoint, FILESYSTEM_TYPE, options.mountFlags, data.join(','));
  } catch (error) {
    closeSync(fd);
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'EIO';
    if (code === 'EPERM') {
      throw new FsError('EPERM', `mounting on ${mountpoint} needs CAP_SYS_ADMIN`, { cause: error });
    }
    throw new FsError('EIO', `cannot mount on ${mountpoint}: ${code}`, { cause: error });
  }
  return fd;
}

function openFuseDevice(): number {
  try {
    const fd = openSync('/dev/fuse', constants.O_RDWR | constants.O_NONBLOCK);
    if (fstatSync(fd).isCharacterDevice()) return fd;
    closeSync(fd);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'EIO';
    const cause = { cause: error };
    if (code === 'EACCES' || code === 'EPERM') {
      throw new FsError(
        'EACCES',
        '/dev/fuse may not be opened here; in a container: --device /dev/fuse',
        cause,
      );
    }
    const missing = code === 'ENOENT' ? 'does not exist' : `cannot be opened (${code})`;
    throw new FsError('ENODEV', `/dev/fuse ${missing}: modprobe fuse`, cause);
  }
  throw new FsError('ENODEV', '/dev/fuse is no character device: mknod -m 666 /dev/fuse c 10 229');
}

const FLAG_WORDS: readonly (readonly [number, string])[] = [
  [MS_RDONLY, 'ro'],
  [MS_NOSUID, 'nosuid'],
  [MS_NODEV, 'nodev'],
  [MS_NOEXEC, 'noexec'],
  [MS_NOATIME, 'noatime'],
  [MS_NODIRATIME, 'nodiratime'],
];

/** fusermount3, the helper that may mount for users, opens /dev/fuse and passes the descriptor back through a socket. */
async function mountByFusermount(mountpoint: string, options: NativeMountOptions): Promise<number> {
  const native = nativeBinding();
  const [ours, theirs] = native.socketPair();
  try {
    const words = [
      `fsname=${options.source.replaceAll('\\', '\\\\').replaceAll(',', '\\,')}`,
      'subtype=holdfast',
      'default_permissions',
      ...(options.allowOther ? ['allow_other'] : []),
      ...FLAG_WORDS.filter(([flag]) => (options.mountFlags & flag) !== 0).map(([, word]) => word),
    ];
    // Descriptor 3 of the child is its end of the socket.
    const stderr = await runFusermount(['-o', words.join(','), '--', mountpoint], theirs);
    if (stderr !== undefined) throw fusermountFailure(mountpoint, undefined, stderr);
    return native.receiveFd(ours);
  } finally {
    closeSync(ours);
    closeSync(theirs);
  }
}

/** @returns undefined if it succeeded, else its message. */
function runFusermount(args: readonly string[], socket?: number): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    const child = spawn('fusermount3', args, {
      stdio: ['ignore', 'ignore', 'pipe', ...(socket === undefined ? [] : [socket])],
      env: { ...process.env, LC_ALL: 'C', ...(socket === undefined ? {} : { _FUSE_COMMFD: '3' }) },
    });
    let text = '';
    child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
    });
    child.once('error', (error) => reject(fusermountFailure('', error, '')));
    child.once('close', (status) => resolve(status === 0 ? undefined : text));
  });
}

async function takeAway(mountpoint: string, how: 'plain' | 'detach' | 'force'): Promise<void> {
  if (process.getuid?.() !== 0) {
    const stderr = await runFusermount([how === 'plain' ? '-u' : '-uz', '--', mountpoint]);
    if (stderr !== undefined) throw fusermountFailure(mountpoint, undefined, stderr);
    return;
  }
  const flags = { plain: 0, detach: MNT_DETACH, force: MNT_DETACH | MNT_FORCE };
  try {
    await nativeBinding().umount(mountpoint, UMOUNT_NOFOLLOW | flags[how]);
  } catch (error) {
    throw unmountFailure(mountpoint, error);
  }
}

/** Ends a mount that is not in the table any more. The kernel names its connection by the device's minor number. */
function abortConnection(device: string | undefined): void {
  const minor = device?.split(':')[1];
  if (minor !== undefined) writeFileSync(`/sys/fs/fuse/connections/${minor}/abort`, '1');
}

/** By default readahead stops at 128 KiB. It is set through sysfs, because the kernel caps the value of INIT. */
async function raiseReadAhead(mountpoint: string, kiB: number): Promise<void> {
  const device = mountAt(mountpoint)?.device;
  if (device === undefined) return;
  try {
    await writeFile(`/sys/class/bdi/${device}/read_ahead_kb`, String(kiB));
  } catch (error) {
    // Only root may write it, and some containers show no sysfs. The mount is slower then, but correct.
    log('readahead of %s stays as it is: %s', mountpoint, error instanceof Error ? error.message : error);
  }
}
