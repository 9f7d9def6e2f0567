/**
 * The opcode table. For each request that a filesystem answers it says how to read the arguments, which handler to call
 * and how to write the result. Arguments are read before the handler runs; nothing here waits.
 *
 * ENOSYS is not an error but a contract: for most opcodes the kernel remembers it, and never asks again while the mount
 * lives. So it is the answer only to opcodes without an operation here, never to a handler's own failure.
 */

import { ERRNO, FsError } from '../base/errno.js';
import { NAME_MAX } from '../base/ids.js';
import { checkFileEnd } from '../base/limits.js';
import { andThen, isPromise, type MaybePromise } from '../base/maybe_promise.js';
import {
  ENOTTY,
  FSYNC_FDATASYNC,
  GETATTR_FH,
  OPCODE,
  OPEN_KILL_SUIDGID,
  SEEK_DATA,
  SEEK_HOLE,
  SETXATTR_ACL_KILL_SGID,
  SIZE,
} from './constants.js';
import { type Cursor, Writer } from './cursor.js';
import { DirFill } from './dirents.js';
import type { AttrOut, EntryOut, FuseHandlers, NegativeEntry } from './handlers.js';
import type { EndedBy, FuseOperation, Request } from './request.js';
import { readCopyRange, readLock, readRead, readRelease, readSetattr, readWrite } from './structs_in.js';
import {
  putAttrOut,
  putCreate,
  putEntry,
  putLock,
  putNegativeEntry,
  putOpen,
  putStatfs,
  putStatx,
  putU64,
  putWrite,
} from './structs_out.js';

/** The most bytes that a `put` writes (STATX). */
export const FIXED_REPLY_BYTES = SIZE.STATX_OUT;

type HandlerCall<R> = (handlers: FuseHandlers, request: Request, body: Cursor) => MaybePromise<R>;

function fixed<R>(
  call: HandlerCall<R>,
  put: (writer: Writer, at: number, result: R) => number,
): FuseOperation {
  // `put` is a method of the interface, so that TypeScript accepts each operation's own result type for unknown.
  const operation: { call: HandlerCall<R>; put(w: Writer, at: number, result: R): number; endedBy: EndedBy } =
    {
      call,
      put,
      endedBy: 'awayOrDeath',
    };
  return operation;
}

function empty(call: HandlerCall<void>, endedBy: EndedBy = 'awayOrDeath'): FuseOperation {
  return { call, endedBy };
}

function bytes(call: HandlerCall<readonly Uint8Array[]>): FuseOperation {
  const operation: {
    call: HandlerCall<readonly Uint8Array[]>;
    chunks(result: readonly Uint8Array[]): readonly Uint8Array[];
    endedBy: EndedBy;
  } = { call, chunks: (result) => result, endedBy: 'awayOrDeath' };
  return operation;
}

/** The kernel passes names of up to 1024 bytes; ours have at most NAME_MAX. */
function entryName(c: Cursor): string {
  const name = c.name();
  if (name.length > NAME_MAX) throw new FsError('ENAMETOOLONG', `name of ${name.length} bytes`);
  return name;
}

function putLookup(w: Writer, at: number, entry: EntryOut | NegativeEntry): number {
  if (entry.attr !== null) return putEntry(w, at, entry);
  return entry.entryValidSec > 0 ? putNegativeEntry(w, at, entry) : -ERRNO.ENOENT;
}

/** fuse_getattr_in: flags, padding, fh. fh is valid only with GETATTR_FH. */
function getattr(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<AttrOut> {
  const flags = c.u32();
  c.skip(4);
  return h.getattr(r, r.nodeid, (flags & GETATTR_FH) !== 0 ? c.u64() : undefined);
}

/** fuse_statx_in begins as fuse_getattr_in does; sx_flags and sx_mask only narrow what we may answer. */
function statx(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<AttrOut> {
  if (c.remainingBytes < SIZE.STATX_IN) throw new FsError('EINVAL', 'short fuse_statx_in');
  return getattr(h, r, c);
}

/** fuse_mknod_in: mode, rdev, umask, padding. */
function mknod(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<EntryOut> {
  const mode = c.u32();
  const rdev = c.u32();
  const umask = c.u32();
  c.skip(4);
  return h.mknod(r, r.nodeid, entryName(c), { mode, rdev, umask });
}

/** fuse_mkdir_in: mode, umask. */
function mkdir(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<EntryOut> {
  const mode = c.u32();
  const umask = c.u32();
  return h.mkdir(r, r.nodeid, entryName(c), { mode, umask });
}

/** Name and target, both NUL-terminated. */
function symlink(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<EntryOut> {
  const name = entryName(c);
  return h.symlink(r, r.nodeid, name, c.takeString());
}

/** fuse_rename_in: newdir; then the two names. */
function rename(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<void> {
  const newParent = c.u64();
  const name = entryName(c);
  return h.rename(r, r.nodeid, name, newParent, entryName(c), 0);
}

/** fuse_rename2_in: newdir, flags (renameat2(2)), padding; then the two names. */
function rename2(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<void> {
  const newParent = c.u64();
  const flags = c.u32();
  c.skip(4);
  const name = entryName(c);
  return h.rename(r, r.nodeid, name, newParent, entryName(c), flags);
}

/** fuse_create_in: flags, mode, umask, open_flags; then the name ("/" for TMPFILE). */
function readCreate(c: Cursor): { flags: number; mode: number; umask: number; killSuidgid: boolean } {
  const flags = c.u32();
  const mode = c.u32();
  const umask = c.u32();
  return { flags, mode, umask, killSuidgid: (c.u32() & OPEN_KILL_SUIDGID) !== 0 };
}

/** fuse_fsync_in: fh, fsync_flags, padding. */
function readFsync(c: Cursor): { fh: number; datasync: boolean } {
  const fh = c.u64();
  const flags = c.u32();
  c.skip(4);
  return { fh, datasync: (flags & FSYNC_FDATASYNC) !== 0 };
}

/** fuse_getxattr_in: size, padding. With size 0 the caller asks how large the answer would be. */
function xattrAnswer(value: Uint8Array, sizeBytes: number): readonly Uint8Array[] {
  if (sizeBytes === 0) {
    const writer = new Writer(Buffer.alloc(SIZE.GETXATTR_OUT));
    writer.u32(0, value.length);
    return [writer.bytes];
  }
  if (value.length > sizeBytes) throw new FsError('ERANGE', `value of ${value.length} bytes`);
  return [value];
}

function getxattr(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<readonly Uint8Array[]> {
  const sizeBytes = c.u32();
  c.skip(4);
  return andThen(h.getxattr(r, r.nodeid, c.name()), (value) => xattrAnswer(value, sizeBytes));
}

function listxattr(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<readonly Uint8Array[]> {
  const sizeBytes = c.u32();
  c.skip(4);
  return andThen(h.listxattr(r, r.nodeid), (names) =>
    xattrAnswer(Buffer.from(names.map((name) => `${name}\0`).join(''), 'latin1'), sizeBytes),
  );
}

/**
 * fuse_setxattr_in: size, flags, and, if SETXATTR_EXT was agreed, setxattr_flags and padding; then name and value. A
 * kernel without SETXATTR_EXT (before 5.13, 7.33) sends only the first half: SETXATTR_COMPAT.
 */
function setxattr(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<void> {
  const sizeBytes = c.u32();
  const flags = c.u32();
  const extFlags = c.u32();
  c.skip(4);
  const name = c.name();
  return h.setxattr(r, r.nodeid, name, c.take(sizeBytes), flags, (extFlags & SETXATTR_ACL_KILL_SGID) !== 0);
}

function setxattrCompat(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<void> {
  const sizeBytes = c.u32();
  const flags = c.u32();
  const name = c.name();
  return h.setxattr(r, r.nodeid, name, c.take(sizeBytes), flags, false);
}

/** For connections that did not agree on SETXATTR_EXT. */
export const SETXATTR_COMPAT: FuseOperation = empty(setxattrCompat);

function read(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<readonly Uint8Array[]> {
  const args = readRead(c);
  r.replyLimitBytes = args.sizeBytes;
  return h.read(r, r.nodeid, args);
}

function readdir(plus: boolean): HandlerCall<readonly Uint8Array[]> {
  return (h, r, c) => {
    const { fh, offset, sizeBytes } = readRead(c);
    const fill = new DirFill(sizeBytes, plus);
    const filled = h.readdir(r, r.nodeid, fh, offset, plus, fill.push);
    return isPromise(filled) ? filled.then(() => fill.chunks()) : fill.chunks();
  };
}

/** fuse_flush_in: fh, unused, padding, lock_owner. */
function flush(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<void> {
  const fh = c.u64();
  c.skip(8);
  return h.flush(r, r.nodeid, fh, c.hex64());
}

/** fuse_fallocate_in: fh, offset, length, mode, padding. */
function fallocate(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<void> {
  const fh = c.u64();
  const offset = c.u64('EFBIG');
  const length = c.u64('EFBIG');
  const mode = c.u32();
  c.skip(4);
  checkFileEnd(offset + length);
  return h.fallocate(r, r.nodeid, fh, mode, offset, length);
}

/** fuse_lseek_in: fh, offset, whence, padding. */
function lseek(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<number> {
  const fh = c.u64();
  const offset = c.u64('ENXIO');
  const whence = c.u32();
  c.skip(4);
  if (whence !== SEEK_DATA && whence !== SEEK_HOLE) throw new FsError('EINVAL', `lseek whence ${whence}`);
  return h.lseek(r, r.nodeid, fh, offset, whence === SEEK_DATA ? 'data' : 'hole');
}

function copyRange(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<number> {
  const args = readCopyRange(c);
  return h.copyFileRange(
    r,
    { nodeid: r.nodeid, fh: args.fhIn, offset: args.offsetIn },
    { nodeid: args.nodeidOut, fh: args.fhOut, offset: args.offsetOut },
    args.length,
  );
}

/** fuse_open_in: flags, open_flags. */
function open(h: FuseHandlers, r: Request, c: Cursor): ReturnType<FuseHandlers['open']> {
  const flags = c.u32();
  return h.open(r, r.nodeid, flags, (c.u32() & OPEN_KILL_SUIDGID) !== 0);
}

function opendir(h: FuseHandlers, r: Request, c: Cursor): ReturnType<FuseHandlers['opendir']> {
  const flags = c.u32();
  c.skip(4);
  return h.opendir(r, r.nodeid, flags);
}

function setattr(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<AttrOut> {
  return h.setattr(r, r.nodeid, readSetattr(c));
}

function create(h: FuseHandlers, r: Request, c: Cursor): ReturnType<FuseHandlers['create']> {
  const args = readCreate(c);
  return h.create(r, r.nodeid, entryName(c), args);
}

function fsync(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<void> {
  const { fh, datasync } = readFsync(c);
  return h.fsync(r, r.nodeid, fh, datasync);
}

function fsyncdir(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<void> {
  const { fh, datasync } = readFsync(c);
  return h.fsyncdir(r, r.nodeid, fh, datasync);
}

/** The kernel unlocks for flock(2) with this opcode too, and no signal may end an unlock. */
function setlkw(h: FuseHandlers, r: Request, c: Cursor): MaybePromise<void> {
  const lock = readLock(c, true);
  if (lock.type === 'unlock') r.operation = UNLOCK;
  return h.setlk(r, r.nodeid, lock);
}

const UNLOCK: FuseOperation = empty(setlkw);

const BY_OPCODE: Readonly<Record<number, FuseOperation>> = {
  [OPCODE.LOOKUP]: fixed((h, r, c) => h.lookup(r, r.nodeid, entryName(c)), putLookup),
  [OPCODE.GETATTR]: fixed(getattr, putAttrOut),
  [OPCODE.STATX]: fixed(statx, putStatx),
  [OPCODE.SETATTR]: fixed(setattr, putAttrOut),
  [OPCODE.READLINK]: bytes((h, r) => andThen(h.readlink(r, r.nodeid), (target) => [target])),
  [OPCODE.SYMLINK]: fixed(symlink, putEntry),
  [OPCODE.MKNOD]: fixed(mknod, putEntry),
  [OPCODE.MKDIR]: fixed(mkdir, putEntry),
  [OPCODE.UNLINK]: empty((h, r, c) => h.unlink(r, r.nodeid, entryName(c))),
  [OPCODE.RMDIR]: empty((h, r, c) => h.rmdir(r, r.nodeid, entryName(c))),
  [OPCODE.RENAME]: empty(rename),
  [OPCODE.RENAME2]: empty(rename2),
  // The header has the nodeid of the new directory, fuse_link_in that of the inode.
  [OPCODE.LINK]: fixed((h, r, c) => h.link(r, c.u64(), r.nodeid, entryName(c)), putEntry),
  [OPCODE.OPEN]: fixed(open, putOpen),
  [OPCODE.CREATE]: fixed(create, putCreate),
  [OPCODE.TMPFILE]: fixed((h, r, c) => h.tmpfile(r, r.nodeid, readCreate(c)), putCreate),
  [OPCODE.READ]: bytes(read),
  [OPCODE.WRITE]: fixed((h, r, c) => h.write(r, r.nodeid, readWrite(c)), putWrite),
  [OPCODE.FLUSH]: empty(flush, 'nothing'),
  [OPCODE.RELEASE]: empty((h, r, c) => h.release(r, r.nodeid, readRelease(c)), 'nothing'),
  [OPCODE.FSYNC]: empty(fsync),
  [OPCODE.OPENDIR]: fixed(opendir, putOpen),
  [OPCODE.READDIR]: bytes(readdir(false)),
  [OPCODE.READDIRPLUS]: bytes(readdir(true)),
  [OPCODE.RELEASEDIR]: empty((h, r, c) => h.releasedir(r, r.nodeid, readRelease(c).fh), 'nothing'),
  [OPCODE.FSYNCDIR]: empty(fsyncdir),
  [OPCODE.STATFS]: fixed((h, r) => h.statfs(r, r.nodeid), putStatfs),
  [OPCODE.GETXATTR]: bytes(getxattr),
  [OPCODE.SETXATTR]: empty(setxattr),
  [OPCODE.LISTXATTR]: bytes(listxattr),
  [OPCODE.REMOVEXATTR]: empty((h, r, c) => h.removexattr(r, r.nodeid, c.name())),
  [OPCODE.GETLK]: fixed((h, r, c) => h.getlk(r, r.nodeid, readLock(c, false)), putLock),
  [OPCODE.SETLK]: empty((h, r, c) => h.setlk(r, r.nodeid, readLock(c, false))),
  [OPCODE.SETLKW]: empty(setlkw, 'lockWait'),
  [OPCODE.FALLOCATE]: empty(fallocate),
  [OPCODE.LSEEK]: fixed(lseek, putU64),
  [OPCODE.COPY_FILE_RANGE]: fixed(copyRange, putWrite),
  [OPCODE.COPY_FILE_RANGE_64]: fixed(copyRange, putU64),
  // Only virtiofs sends SYNCFS; our own write-back does what it asks for.
  [OPCODE.SYNCFS]: empty(() => undefined),
};

/** Indexed by opcode. An array, because every request is looked up here. */
export const OPERATIONS: readonly (FuseOperation | undefined)[] = Array.from(
  { length: Math.max(...Object.values(OPCODE)) + 1 },
  (_, opcode) => BY_OPCODE[opcode],
);

/**
 * The answer to an opcode without an operation. After ENOSYS the kernel always uses its own fallback: no BMAP, the
 * default poll mask, access by the mode bits. For IOCTL it does not remember ENOSYS, and callers expect ENOTTY.
 */
export function errnoWithoutOperation(opcode: number): number {
  return opcode === OPCODE.IOCTL ? ENOTTY : ERRNO.ENOSYS;
}
