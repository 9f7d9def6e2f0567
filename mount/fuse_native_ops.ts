/**
 * The operations of fuse-native (paths, small descriptors, callbacks with negative errnos) in terms of FuseHandlers.
 *
 * Invariant: each operation calls its callback exactly once; its thread in libfuse waits for that.
 */

import type { Attr, Timespec } from '../src/base/attr.js';
import { O_RDWR } from '../src/base/attr.js';
import { ERRNO, errnoOf, FsError } from '../src/base/errno.js';
import { logger } from '../src/base/log.js';
import { FUSE_ROOT_ID, OPCODE, type OpcodeName } from '../src/fuse/constants.js';
import type {
  DirEntryOut,
  EntryOut,
  FuseHandlers,
  RequestContext,
  SetattrIn,
  StatfsOut,
} from '../src/fuse/handlers.js';
import { PREFERRED_IO_BYTES } from '../src/fuse/structs_out.js';
import type { WaitingRequest } from './fuse_mount.js';
import { NodeReferences, pathNames, textOfName, walk } from './fuse_native_paths.js';

const log = logger('mount');

/** (negative errno or result, values). */
export type Callback = (result: number, ...values: unknown[]) => void;

interface OpenFile {
  readonly nodeid: number;
  readonly fh: number;
  readonly flags: number;
}

/** fuse-native hands descriptors around as signed 32-bit integers, and takes 0 for "none". */
const DESCRIPTOR_MAX = 0x7fff_ffff;
const REFERENCES_KEPT = 4096;
/** fuse-native does not say who asks; locks, which would need an owner, it does not pass on either. */
const NO_OWNER = '0000000000000000';
const UNCHANGED_ID = 0xffff_ffff;
const TWO_32 = 0x1_0000_0000;

export class FuseNativeOps {
  readonly #handlers: FuseHandlers;
  readonly references: NodeReferences;
  readonly #files = new Map<number, OpenFile>();
  readonly #running = new Map<RequestContext, WaitingRequest>();
  readonly #ended = new AbortController();
  readonly #uid = process.geteuid?.() ?? 0;
  readonly #gid = process.getegid?.() ?? 0;
  #nextDescriptor = 1;

  constructor(handlers: FuseHandlers, referencesKept = REFERENCES_KEPT) {
    this.#handlers = handlers;
    this.references = new NodeReferences(handlers, referencesKept);
  }

  waiting(): readonly WaitingRequest[] {
    return [...this.#running.values()];
  }

  get openCount(): number {
    return this.#files.size;
  }

  /** The mount is gone: what still waits ends with EINTR, references go back. */
  end(): void {
    this.#ended.abort(new FsError('EINTR', 'the mount is gone'));
    this.references.forgetAll();
  }

  /** Runs one operation and answers it. */
  #run<T>(
    operation: OpcodeName,
    done: Callback,
    work: (request: RequestContext) => Promise<T>,
    answer: (value: T) => void,
  ): void {
    const { signal } = this.#ended;
    const request: RequestContext = {
      opcode: OPCODE[operation],
      uid: this.#uid,
      gid: this.#gid,
      pid: 0,
      signal,
    };
    this.#running.set(request, { operation, nodeid: 0, pid: 0 });
    work(request).then(
      (value) => {
        this.#running.delete(request);
        answer(value);
      },
      (error: unknown) => {
        this.#running.delete(request);
        if (!(error instanceof FsError)) log('%s failed by a bug: %O', operation, error);
        done(-errnoOf(error));
      },
    );
  }

  /** Work on the node that a path leads to. */
  async #at<T>(request: RequestContext, path: string, work: (nodeid: number) => T | Promise<T>): Promise<T> {
    const nodeid = await walk(this.#handlers, this.references, request, pathNames(path));
    try {
      return await work(nodeid);
    } finally {
      this.references.unpin(nodeid);
    }
  }

  /** Work on the last name of a path in its directory. */
  async #in<T>(
    request: RequestContext,
    path: string,
    work: (parent: number, name: string) => T | Promise<T>,
  ): Promise<T> {
    const names = pathNames(path);
    const name = names.pop();
    if (name === undefined) throw new FsError('EBUSY', 'the root has no name');
    const parent = await walk(this.#handlers, this.references, request, names);
    try {
      return await work(parent, name);
    } finally {
      this.references.unpin(parent);
    }
  }

  #file(descriptor: number): OpenFile {
    const file = this.#files.get(descriptor);
    if (file === undefined) throw new FsError('EBADF', `no descriptor ${descriptor}`);
    return file;
  }

  /** The node stays pinned until release. */
  #describe(file: OpenFile): number {
    let descriptor = this.#nextDescriptor;
    while (this.#files.has(descriptor)) descriptor = (descriptor % DESCRIPTOR_MAX) + 1;
    this.#nextDescriptor = (descriptor % DESCRIPTOR_MAX) + 1;
    this.#files.set(descriptor, file);
    return descriptor;
  }

  /** An entry made by an operation: counted, and not needed any more. */
  #made(entry: EntryOut): void {
    this.references.unpin(this.references.addPinned(entry));
  }

  getattr(path: string, done: Callback): void {
    this.#run(
      'GETATTR',
      done,
      (request) => this.#at(request, path, (nodeid) => this.#handlers.getattr(request, nodeid, undefined)),
      ({ attr }) => done(0, statOf(attr)),
    );
  }

  fgetattr(descriptor: number, done: Callback): void {
    this.#run(
      'GETATTR',
      done,
      async (request) => {
        const { nodeid, fh } = this.#file(descriptor);
        return this.#handlers.getattr(request, nodeid, fh);
      },
      ({ attr }) => done(0, statOf(attr)),
    );
  }

  #setattr(path: string, change: Partial<SetattrIn>, done: Callback): void {
    this.#run(
      'SETATTR',
      done,
      (request) =>
        this.#at(request, path, (nodeid) =>
          this.#handlers.setattr(request, nodeid, { killSuidgid: false, ...change }),
        ),
      () => done(0),
    );
  }

  truncate(path: string, sizeBytes: number, done: Callback): void {
    this.#setattr(path, { sizeBytes }, done);
  }

  ftruncate(_path: string, descriptor: number, sizeBytes: number, done: Callback): void {
    this.#run(
      'SETATTR',
      done,
      async (request) => {
        const { nodeid, fh } = this.#file(descriptor);
        return this.#handlers.setattr(request, nodeid, { fh, sizeBytes, killSuidgid: false });
      },
      () => done(0),
    );
  }

  chmod(path: string, mode: number, done: Callback): void {
    this.#setattr(path, { mode: mode & 0o7777 }, done);
  }

  chown(path: string, uid: number, gid: number, done: Callback): void {
    const change = {
      ...(uid === UNCHANGED_ID ? {} : { uid }),
      ...(gid === UNCHANGED_ID ? {} : { gid }),
    };
    this.#setattr(path, change, done);
  }

  /** Milliseconds; fuse-native 2.2.6 passes the access time twice. */
  utimens(path: string, atimeMs: number, mtimeMs: number, done: Callback): void {
    this.#setattr(path, { atime: timeOfMs(atimeMs), mtime: timeOfMs(mtimeMs) }, done);
  }

  readlink(path: string, done: Callback): void {
    this.#run(
      'READLINK',
      done,
      (request) => this.#at(request, path, (nodeid) => this.#handlers.readlink(request, nodeid)),
      (target) => done(0, Buffer.from(target).toString('utf8')),
    );
  }

  symlink(target: string, path: string, done: Callback): void {
    this.#run(
      'SYMLINK',
      done,
      (request) =>
        this.#in(request, path, async (parent, name) => {
          const bytes = Buffer.from(target, 'utf8');
          this.#made(await this.#handlers.symlink(request, parent, name, bytes));
        }),
      () => done(0),
    );
  }

  mknod(path: string, mode: number, rdev: number, done: Callback): void {
    this.#run(
      'MKNOD',
      done,
      (request) =>
        this.#in(request, path, async (parent, name) => {
          // The kernel has applied the umask already.
          this.#made(await this.#handlers.mknod(request, parent, name, { mode, rdev, umask: 0 }));
        }),
      () => done(0),
    );
  }

  mkdir(path: string, mode: number, done: Callback): void {
    this.#run(
      'MKDIR',
      done,
      (request) =>
        this.#in(request, path, async (parent, name) => {
          this.#made(await this.#handlers.mkdir(request, parent, name, { mode, umask: 0 }));
        }),
      () => done(0),
    );
  }

  unlink(path: string, done: Callback): void {
    this.#run(
      'UNLINK',
      done,
      (request) => this.#in(request, path, (parent, name) => this.#handlers.unlink(request, parent, name)),
      () => done(0),
    );
  }

  rmdir(path: string, done: Callback): void {
    this.#run(
      'RMDIR',
      done,
      (request) => this.#in(request, path, (parent, name) => this.#handlers.rmdir(request, parent, name)),
      () => done(0),
    );
  }

  rename(path: string, newPath: string, done: Callback): void {
    this.#run(
      'RENAME',
      done,
      (request) =>
        this.#in(request, path, (parent, name) =>
          this.#in(request, newPath, (newParent, newName) =>
            this.#handlers.rename(request, parent, name, newParent, newName, 0),
          ),
        ),
      () => done(0),
    );
  }

  link(path: string, newPath: string, done: Callback): void {
    this.#run(
      'LINK',
      done,
      (request) =>
        this.#at(request, path, (nodeid) =>
          this.#in(request, newPath, async (newParent, newName) => {
            this.#made(await this.#handlers.link(request, nodeid, newParent, newName));
          }),
        ),
      () => done(0),
    );
  }

  open(path: string, flags: number, done: Callback): void {
    this.#run(
      'OPEN',
      done,
      (request) =>
        this.#at(request, path, async (nodeid) => {
          const { fh } = await this.#handlers.open(request, nodeid, flags);
          this.references.pin(nodeid);
          return this.#describe({ nodeid, fh, flags });
        }),
      (descriptor) => done(0, descriptor),
    );
  }

  /** fuse-native does not pass the open flags on: the file is opened for reading and writing. */
  create(path: string, mode: number, done: Callback): void {
    const flags = O_RDWR;
    this.#run(
      'CREATE',
      done,
      (request) =>
        this.#in(request, path, async (parent, name) => {
          const made = await this.#handlers.create(request, parent, name, { mode, umask: 0, flags });
          const nodeid = this.references.addPinned(made);
          return this.#describe({ nodeid, fh: made.fh, flags });
        }),
      (descriptor) => done(0, descriptor),
    );
  }

  read(
    _path: string,
    descriptor: number,
    target: Buffer,
    lengthBytes: number,
    offset: number,
    done: Callback,
  ): void {
    this.#run(
      'READ',
      done,
      async (request) => {
        const { nodeid, fh, flags } = this.#file(descriptor);
        const chunks = await this.#handlers.read(request, nodeid, {
          fh,
          offset,
          sizeBytes: lengthBytes,
          flags,
        });
        let at = 0;
        for (const chunk of chunks) {
          target.set(chunk, at);
          at += chunk.length;
        }
        return at;
      },
      (count) => done(count),
    );
  }

  write(
    _path: string,
    descriptor: number,
    source: Buffer,
    lengthBytes: number,
    offset: number,
    done: Callback,
  ): void {
    this.#run(
      'WRITE',
      done,
      async (request) => {
        const { nodeid, fh, flags } = this.#file(descriptor);
        const data = source.subarray(0, lengthBytes);
        const write = { fh, offset, data, flags, writeback: false, killSuidgid: false };
        return this.#handlers.write(request, nodeid, write);
      },
      (count) => done(count),
    );
  }

  flush(_path: string, descriptor: number, done: Callback): void {
    this.#run(
      'FLUSH',
      done,
      async (request) => {
        const { nodeid, fh } = this.#file(descriptor);
        await this.#handlers.flush(request, nodeid, fh, NO_OWNER);
      },
      () => done(0),
    );
  }

  release(_path: string, descriptor: number, done: Callback): void {
    this.#run(
      'RELEASE',
      done,
      async (request) => {
        const { nodeid, fh, flags } = this.#file(descriptor);
        this.#files.delete(descriptor);
        try {
          await this.#handlers.release(request, nodeid, { fh, flags, owner: NO_OWNER, flockUnlock: false });
        } finally {
          this.references.unpin(nodeid);
        }
      },
      () => done(0),
    );
  }

  fsync(_path: string, datasync: number, descriptor: number, done: Callback): void {
    this.#run(
      'FSYNC',
      done,
      async (request) => {
        const { nodeid, fh } = this.#file(descriptor);
        await this.#handlers.fsync(request, nodeid, fh, datasync !== 0);
      },
      () => done(0),
    );
  }

  fsyncdir(path: string, datasync: number, _descriptor: number, done: Callback): void {
    this.#run(
      'FSYNCDIR',
      done,
      (request) =>
        this.#withDirectory(request, path, (nodeid, fh) =>
          this.#handlers.fsyncdir(request, nodeid, fh, datasync !== 0),
        ),
      () => done(0),
    );
  }

  async #withDirectory<T>(
    request: RequestContext,
    path: string,
    work: (nodeid: number, fh: number) => T | Promise<T>,
  ): Promise<T> {
    return this.#at(request, path, async (nodeid) => {
      const { fh } = await this.#handlers.opendir(request, nodeid, 0);
      try {
        return await work(nodeid, fh);
      } finally {
        await this.#handlers.releasedir(request, nodeid, fh);
      }
    });
  }

  /** The whole directory at once: libfuse hands it out in pieces. */
  readdir(path: string, done: Callback): void {
    this.#run(
      'READDIR',
      done,
      (request) =>
        this.#withDirectory(request, path, async (nodeid, fh) => {
          const entries: DirEntryOut[] = [];
          for (;;) {
            const before = entries.length;
            const offset = entries.at(-1)?.cookie ?? 0;
            await this.#handlers.readdir(
              request,
              nodeid,
              fh,
              offset,
              false,
              (entry) => entries.push(entry) > 0,
            );
            if (entries.length === before) return entries;
          }
        }),
      (entries) => {
        const stats = entries.map(({ ino, type }) => ({ ...NO_STAT, ino: ino % TWO_32, mode: type }));
        done(
          0,
          entries.map(({ name }) => textOfName(name)),
          stats,
        );
      },
    );
  }

  statfs(_path: string, done: Callback): void {
    this.#run(
      'STATFS',
      done,
      async (request) => this.#handlers.statfs(request, FUSE_ROOT_ID),
      (out) => done(0, statvfsOf(out)),
    );
  }

  setxattr(
    path: string,
    name: string,
    value: Buffer,
    _position: number,
    flags: number,
    done: Callback,
  ): void {
    this.#run(
      'SETXATTR',
      done,
      (request) =>
        this.#at(request, path, (nodeid) =>
          this.#handlers.setxattr(request, nodeid, latin1(name), value, flags, false),
        ),
      () => done(0),
    );
  }

  /** Answers the size, or -ERANGE when `target` is too small; a target of no bytes asks for the size. */
  getxattr(path: string, name: string, target: Buffer, done: Callback): void {
    this.#run(
      'GETXATTR',
      done,
      (request) =>
        this.#at(request, path, (nodeid) => this.#handlers.getxattr(request, nodeid, latin1(name))),
      (value) => done(fill(target, value)),
    );
  }

  listxattr(path: string, target: Buffer, done: Callback): void {
    this.#run(
      'LISTXATTR',
      done,
      (request) => this.#at(request, path, (nodeid) => this.#handlers.listxattr(request, nodeid)),
      (names) => done(fill(target, Buffer.from(names.map((name) => `${name}\0`).join(''), 'latin1'))),
    );
  }

  removexattr(path: string, name: string, done: Callback): void {
    this.#run(
      'REMOVEXATTR',
      done,
      (request) =>
        this.#at(request, path, (nodeid) => this.#handlers.removexattr(request, nodeid, latin1(name))),
      () => done(0),
    );
  }
}

function latin1(text: string): string {
  return Buffer.from(text, 'utf8').toString('latin1');
}

function fill(target: Buffer, value: Uint8Array): number {
  if (target.length === 0) return value.length;
  if (value.length > target.length) return -ERRNO.ERANGE;
  target.set(value);
  return value.length;
}

/** What fuse-native makes of a stat: unsigned 32-bit numbers, sizes and times in two of them. */
const NO_STAT = {
  mode: 0,
  ino: 0,
  nlink: 1,
  uid: 0,
  gid: 0,
  size: 0,
  rdev: 0,
  blksize: 0,
  blocks: 0,
  atime: 0,
  mtime: 0,
  ctime: 0,
};

function statOf(attr: Attr): typeof NO_STAT {
  return {
    mode: attr.mode,
    // Cut to what fits: numbers differ from those that other clients see when there are more than 2^32 files.
    ino: attr.fid % TWO_32,
    nlink: attr.nlink,
    uid: attr.uid,
    gid: attr.gid,
    size: attr.sizeBytes,
    rdev: attr.rdev,
    blksize: PREFERRED_IO_BYTES,
    blocks: attr.blocks,
    atime: msOfTime(attr.atime),
    mtime: msOfTime(attr.mtime),
    ctime: msOfTime(attr.ctime),
  };
}

/** Times before 1970 would come out as far future. */
function msOfTime(time: Timespec): number {
  return Math.max(0, time.sec * 1000 + Math.floor(time.nsec / 1e6));
}

function timeOfMs(ms: number): Timespec {
  return { sec: Math.floor(ms / 1000), nsec: (ms % 1000) * 1e6 };
}

/** Counts are 32 bits wide there: a large target is told in larger blocks. */
function statvfsOf(out: StatfsOut): Record<string, number> {
  let scale = 1;
  while (out.blocks / scale >= TWO_32) scale *= 2;
  const cut = (count: number): number => Math.min(count, TWO_32 - 1);
  return {
    bsize: out.blockBytes * scale,
    frsize: out.blockBytes * scale,
    blocks: Math.floor(out.blocks / scale),
    bfree: Math.floor(out.blocksFree / scale),
    bavail: Math.floor(out.blocksAvailable / scale),
    files: cut(out.inodes),
    ffree: cut(out.inodesFree),
    favail: cut(out.inodesFree),
    namemax: out.nameMax,
  };
}
