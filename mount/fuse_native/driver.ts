/**
 * The second mount driver: npm's fuse-native over libfuse 2, for hosts where the native addon cannot be built.
 *
 * It is an optional dependency, loaded only if chosen. FUSE_NATIVE_LIMITS says what it cannot do; every mount logs
 * these lines, and docs/SEMANTICS.md has them. The kernel caches nothing of such a mount: all timeouts are 0 and all
 * I/O is direct, because this driver cannot invalidate anything.
 *
 * Invariants: those of the native driver. fuse-native does not report the end of a mount. So we check whether libfuse
 * still has its descriptor of /dev/fuse, which it closes when the kernel ends the connection; then `closed` resolves.
 */

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readlinkSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import {
  MS_NOATIME,
  MS_NODEV,
  MS_NODIRATIME,
  MS_NOEXEC,
  MS_NOSUID,
  MS_RDONLY,
} from '../../native/binding.js';
import { FsError } from '../../src/base/errno.js';
import { logger } from '../../src/base/log.js';
import { Deferred } from '../../src/base/wait.js';
import type { FuseDispatcherOptions } from '../../src/fuse/dispatcher.js';
import type { FuseHandlers, KernelNotifier } from '../../src/fuse/handlers.js';
import type { FuseMount, WaitingRequest } from '../fuse_mount.js';
import { type MountEntry, mountAt } from '../mount_table.js';
import { checkMountpoint } from '../mountpoint.js';
import { fusermountFailure } from '../unmount.js';
import type { Callback } from './calls.js';
import { FuseNativeOps } from './ops.js';

const log = logger('mount');

/** For people, one line each. */
export const FUSE_NATIVE_LIMITS: readonly string[] = [
  'a process that waits for a server cannot be interrupted, not even by SIGKILL, until the server is back',
  'every stat, lookup and read asks the client process: nothing is cached in the kernel',
  'files are created in the name of the user who mounted, whoever creates them',
  'fcntl and flock locks hold among the processes of this host only',
  'no shared mappings (mmap with MAP_SHARED); private ones and executing programs work',
  'no O_TMPFILE, no fallocate, no renameat2 flags, no SEEK_HOLE; copy_file_range copies through this host',
  'a file that is removed while open stays visible as .fuse_hidden* until it is closed',
  'times are kept to the millisecond, none before 1970; setting times sets both to the access time',
  'inode numbers are cut to 32 bits; names that are not UTF-8 cannot be used',
  'requests carry at most 128 KiB',
];

export interface FuseNativeMountOptions {
  readonly mountpoint: string;
  /** First word of the line in /proc/mounts: HOST:PORT. */
  readonly source: string;
  readonly allowOther: boolean;
  /** MS_*; see native/binding.ts. */
  readonly mountFlags: number;
  readonly timers: FuseDispatcherOptions['timers'];
}

type Signal = (result: number, ...values: unknown[]) => void;

/**
 * The parts of the package that we use, private ones included. It has no type declarations, and 2.2.6 is its last
 * release.
 */
interface FuseNativeInstance {
  /** Memory of the C side, valid as long as this buffer exists. */
  readonly _thread: Buffer | null;
  mount(done: (error: Error | null) => void): void;
  _op_getattr(this: { readonly ops: object }, signal: Signal, path: string): void;
  _op_fgetattr(signal: Signal, path: string, descriptor: number): void;
  _op_getxattr(signal: Signal, path: string, name: string, target: Buffer): void;
  _op_listxattr(signal: Signal, path: string, target: Buffer): void;
}
type FuseNativeClass = new (mountpoint: string, ops: object, options: object) => FuseNativeInstance;
interface FuseNativeAddon {
  fuse_native_unmount(mountpoint: string, thread: Buffer): void;
}

const REQUEST_BYTES_MAX = 131072;
/** libfuse 2.9 speaks 7.19. No handler needs any of its flags. */
const LIBFUSE2_MINOR = 19;
const CLOSED_CHECK_MS = 1000;
/** Interval of the checks while our own unmount is under way. */
const LEAVING_CHECK_MS = 10;

/**
 * Mounts, and resolves when the mount is usable.
 * @throws FsError with one line: ENOENT, ENOTDIR, EBUSY (mount point), ENODEV (package or library missing), EIO.
 */
export async function startFuseNativeMount(
  handlers: FuseHandlers,
  options: FuseNativeMountOptions,
): Promise<FuseMount> {
  const { Fuse, addon } = loadFuseNative();
  const mountpoint = await checkMountpoint(options.mountpoint);
  if (!existsSync('/dev/fuse')) throw new FsError('ENODEV', '/dev/fuse does not exist: modprobe fuse');
  const ops = new FuseNativeOps(handlers);
  const fuse = new Fuse(mountpoint, operationTable(ops), {
    // false is "no timeout". With the default of 15 s, calls would fail in an upgrade that takes longer.
    timeout: false,
    defaultPermissions: true,
    allowOther: options.allowOther,
    // fuse-native passes on options that it does not know if they follow the name.
    fsname: [escapeOption(options.source), ...libfuseOptions(options)].join(','),
  });
  replaceFaulty(fuse, ops);
  const before = fuseDescriptors();
  await new Promise<void>((resolve, reject) => {
    fuse.mount((error) => (error === null ? resolve() : reject(mountFailure(mountpoint, error))));
  });
  handlers.init?.({ minor: LIBFUSE2_MINOR, flags: 0n, maxWrite: REQUEST_BYTES_MAX });
  for (const limit of FUSE_NATIVE_LIMITS) log('driver fuse-native: %s', limit);
  const descriptor = fuseDescriptors().find((path) => !before.includes(path));
  return new FuseNativeMount(handlers, ops, fuse, addon, mountpoint, descriptor, options.timers);
}

/** Paths below /proc of this process's descriptors of /dev/fuse. */
function fuseDescriptors(): string[] {
  return readdirSync('/proc/self/fd')
    .map((number) => `/proc/self/fd/${number}`)
    .filter(isFuseDescriptor);
}

function isFuseDescriptor(path: string): boolean {
  try {
    return readlinkSync(path) === '/dev/fuse';
  } catch {
    return false; // closed
  }
}

const FLAG_WORDS: readonly (readonly [number, string])[] = [
  [MS_RDONLY, 'ro'],
  [MS_NOSUID, 'nosuid'],
  [MS_NODEV, 'nodev'],
  [MS_NOEXEC, 'noexec'],
  [MS_NOATIME, 'noatime'],
  [MS_NODIRATIME, 'nodiratime'],
];

function libfuseOptions(options: FuseNativeMountOptions): string[] {
  return [
    'subtype=holdfast',
    'direct_io',
    'big_writes',
    'use_ino',
    'entry_timeout=0',
    'negative_timeout=0',
    'attr_timeout=0',
    ...FLAG_WORDS.filter(([flag]) => (options.mountFlags & flag) !== 0).map(([, word]) => word),
  ];
}

function escapeOption(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll(',', '\\,');
}

/** @throws FsError ENODEV that says what to install. */
function loadFuseNative(): { readonly Fuse: FuseNativeClass; readonly addon: FuseNativeAddon } {
  const require = createRequire(import.meta.url);
  try {
    const main = require.resolve('fuse-native');
    // The same addon object that the package uses: Node caches it by path.
    const load = createRequire(main)('node-gyp-build') as (folder: string) => FuseNativeAddon;
    const addon = load(dirname(main));
    const Fuse = require('fuse-native') as FuseNativeClass;
    const helper = spawnSync('fusermount', ['-V'], { stdio: 'ignore' });
    if (helper.error === undefined) return { Fuse, addon };
    throw new FsError('ENODEV', 'driver=fuse-native needs fusermount: apt-get install fuse3', {
      cause: helper.error,
    });
  } catch (error) {
    throw loadFailure(error);
  }
}

export function loadFailure(error: unknown): FsError {
  if (error instanceof FsError) return error;
  const message = error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error);
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const cause = { cause: error };
  if (message.includes('libfuse')) {
    return new FsError(
      'ENODEV',
      'driver=fuse-native needs libfuse.so.2: apt-get install libfuse2 fuse3',
      cause,
    );
  }
  if (code === 'MODULE_NOT_FOUND') {
    return new FsError(
      'ENODEV',
      'driver=fuse-native needs the package fuse-native: npm install fuse-native',
      cause,
    );
  }
  return new FsError('ENODEV', `driver=fuse-native cannot be loaded: ${message}`, cause);
}

/** Our methods by fuse-native's names. Operations without a method here are not offered to libfuse. */
function operationTable(ops: FuseNativeOps): Record<string, unknown> {
  const table: Record<string, unknown> = {};
  for (const name of OFFERED) table[name] = ops[name].bind(ops);
  return table;
}

const OFFERED = [
  'getattr',
  'fgetattr',
  'truncate',
  'ftruncate',
  'chmod',
  'chown',
  'utimens',
  'readlink',
  'symlink',
  'mknod',
  'mkdir',
  'unlink',
  'rmdir',
  'rename',
  'link',
  'open',
  'create',
  'read',
  'write',
  'flush',
  'release',
  'fsync',
  'fsyncdir',
  'readdir',
  'statfs',
  'setxattr',
  'getxattr',
  'listxattr',
  'removexattr',
] as const;

/**
 * Replaces methods of the package that have bugs. Its fgetattr asks by path although it has a descriptor. Its getxattr
 * and listxattr do not check whether the bytes fit, so libfuse would send memory beyond its buffer.
 */
function replaceFaulty(fuse: FuseNativeInstance, ops: FuseNativeOps): void {
  const byPath = fuse._op_getattr;
  fuse._op_fgetattr = (signal, path, descriptor) => {
    const getattr = (_path: string, done: Callback): void => ops.fgetattr(descriptor, done);
    byPath.call({ ops: { getattr } }, signal, path);
  };
  fuse._op_getxattr = (signal, path, name, target) => {
    ops.getxattr(path, name, target, (result) => signal(result, target.buffer));
  };
  fuse._op_listxattr = (signal, path, target) => {
    ops.listxattr(path, target, (result) => signal(result, target.buffer));
  };
}

function mountFailure(mountpoint: string, error: Error): FsError {
  return new FsError('EIO', `fuse-native cannot mount on ${mountpoint}: ${error.message}`, { cause: error });
}

/** The kernel caches nothing, so there is nothing to invalidate. */
class NothingToNotify implements KernelNotifier {
  invalidateAttr(): Promise<void> {
    return Promise.resolve();
  }
  invalidateData(): Promise<void> {
    return Promise.resolve();
  }
  bumpEpoch(): Promise<boolean> {
    return Promise.resolve(true);
  }
  flushReplies(): void {}
}

class FuseNativeMount implements FuseMount {
  readonly driver = 'fuse-native';
  readonly handover = undefined;
  readonly notifier: KernelNotifier = new NothingToNotify();
  readonly mountpoint: string;
  readonly #closed = new Deferred<void>();
  readonly closed = this.#closed.promise;
  readonly #handlers: FuseHandlers;
  readonly #ops: FuseNativeOps;
  readonly #fuse: FuseNativeInstance;
  readonly #addon: FuseNativeAddon;
  readonly #timers: FuseDispatcherOptions['timers'];
  /** libfuse's descriptor of /dev/fuse, as a path. */
  readonly #descriptor: string | undefined;
  readonly #entry: MountEntry | undefined;
  #nextCheck: { cancel(): void } | undefined = undefined;
  #leaving = false;
  #gone = false;

  constructor(
    handlers: FuseHandlers,
    ops: FuseNativeOps,
    fuse: FuseNativeInstance,
    addon: FuseNativeAddon,
    mountpoint: string,
    descriptor: string | undefined,
    timers: FuseDispatcherOptions['timers'],
  ) {
    this.#handlers = handlers;
    this.#ops = ops;
    this.#fuse = fuse;
    this.#addon = addon;
    this.mountpoint = mountpoint;
    this.#timers = timers;
    this.#descriptor = descriptor;
    this.#entry = mountAt(mountpoint);
    this.#checkLater();
  }

  get detached(): MountEntry | undefined {
    this.#check();
    const isInTable = mountAt(this.mountpoint)?.device === this.#entry?.device;
    return this.#gone || this.#leaving || isInTable ? undefined : this.#entry;
  }

  waiting(): readonly WaitingRequest[] {
    return this.#ops.waiting();
  }

  async unmount(how: 'plain' | 'detach' | 'force' = 'plain'): Promise<void> {
    this.#check();
    if (this.#gone) return;
    if (how === 'force') {
      await takeAwayByForce(this.mountpoint);
      // We do not wait until libfuse has noticed: its threads wait for our answers, and only end() gives them.
      this.#end();
      return;
    }
    await run('fusermount', [how === 'plain' ? '-u' : '-uz', '--', this.mountpoint], this.mountpoint);
    this.#leaving = true;
    this.#checkLater();
  }

  /** The timer keeps the process alive as long as the mount exists, as an open channel would. */
  #checkLater(): void {
    this.#nextCheck?.cancel();
    this.#nextCheck = this.#timers.after(this.#leaving ? LEAVING_CHECK_MS : CLOSED_CHECK_MS, () => {
      this.#check();
      if (!this.#gone) this.#checkLater();
    });
  }

  #check(): void {
    const there =
      this.#descriptor === undefined
        ? mountAt(this.mountpoint) !== undefined
        : isFuseDescriptor(this.#descriptor);
    if (!there) this.#end();
  }

  #end(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#nextCheck?.cancel();
    // Lets go of the event loop, which the addon holds; the memory behind _thread stays with this object.
    if (this.#fuse._thread !== null) this.#addon.fuse_native_unmount(this.mountpoint, this.#fuse._thread);
    this.#ops.end();
    this.#handlers.destroy?.();
    log('%s: the mount has ended', this.mountpoint);
    this.#closed.resolve();
  }
}

/** Ends waiting requests, and removes the mount from sight. */
async function takeAwayByForce(mountpoint: string): Promise<void> {
  if (process.getuid?.() === 0) {
    // MNT_FORCE aborts the connection. -c and -i: to canonicalize the path or to run the helper would send requests to
    // us.
    await run('umount', ['-i', '-c', '-f', '-l', '--', mountpoint], mountpoint);
    return;
  }
  // Users may abort their own connections if fusectl is mounted.
  const minor = mountAt(mountpoint)?.device.split(':')[1];
  const abort = `/sys/fs/fuse/connections/${minor}/abort`;
  try {
    await writeFile(abort, '1');
  } catch (error) {
    // The mount is detached all the same. Waiting requests go on waiting until we answer.
    log('cannot abort by %s: %s', abort, error instanceof Error ? error.message : error);
  }
  await run('fusermount', ['-uz', '--', mountpoint], mountpoint);
}

/** @throws FsError EBUSY, or EPERM with the command's message. */
function run(command: string, args: readonly string[], mountpoint: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, LC_ALL: 'C' },
    });
    let text = '';
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
    });
    child.once('error', (error) => reject(fusermountFailure(mountpoint, error, '')));
    child.once('close', (status) => {
      if (status === 0) resolve();
      else reject(fusermountFailure(mountpoint, undefined, text));
    });
  });
}
