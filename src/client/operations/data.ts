/** read, write, fsync, fallocate, lseek, copy_file_range: file contents under data locks, through the page cache. */

import {
  ACCESS_READ,
  accessOf,
  compareTime,
  O_ACCMODE,
  O_RDWR,
  SET_ID_BITS,
  type Timespec,
} from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fh, Fid } from '../../base/ids.js';
import { checkFileEnd } from '../../base/limits.js';
import type { MaybePromise } from '../../base/maybe_promise.js';
import { interruptible } from '../../base/wait.js';
import type { CachedLock } from '../../dlm/api.js';
import { CopyRange, Fallocate, Seek, Sync, Write } from '../../wire/data.js';
import { Getattr, Setattr, WANT_ATTR } from '../../wire/meta.js';
import type { Caller, FsClient } from '../api.js';
import type { ClientContext } from '../cache/context.js';
import type { FileState } from '../cache/file_state.js';
import { type Handle, reportLoss, reportWriteError } from '../cache/open_files.js';
import type { FileUse } from '../io/file_use.js';
import type { DataLocks, Io } from '../io/io_lock.js';
import type { Reader } from '../io/readahead.js';
import type { WriteBack } from '../io/write_back.js';
import type { TargetSession } from '../session/target_session.js';

type WriteOptions = Parameters<FsClient['write']>[5];

export class DataOperations {
  readonly #context: ClientContext;
  readonly #locks: DataLocks;
  readonly #reader: Reader;
  readonly #writeBack: WriteBack;

  constructor(context: ClientContext, locks: DataLocks, reader: Reader, writeBack: WriteBack) {
    this.#context = context;
    this.#locks = locks;
    this.#reader = reader;
    this.#writeBack = writeBack;
  }

  read(
    op: Caller,
    fh: Fh,
    _fid: Fid,
    offset: number,
    length: number,
    direct = false,
  ): MaybePromise<readonly Uint8Array[]> {
    const handle = this.#context.handles.live(fh);
    const target = this.#context.targets.of(handle.fid);
    const { uses } = this.#context;
    // What the kernel asks for, beyond the end of the file too: what it gets costs a sum over views.
    uses.bytes.read += length;
    // The kernel does not tell when a mapped page gets dirty: a handle that could dirty one reads under PW (docs/LOCKING.md).
    const mode = (handle.flags & O_ACCMODE) === O_RDWR ? 'PW' : 'PR';
    const known = this.#context.files.get(handle.fid);
    if (known?.sizeKnown && target.locks.match('data', handle.fid, mode, 0) !== undefined) {
      const views = this.#cached(target, known, handle, offset, length);
      if (views !== undefined) {
        uses.pages.hit += 1;
        return views;
      }
    }
    uses.pages.miss += 1;
    const file = this.#context.files.of(handle.fid);
    const io: Io = {
      op,
      life: handle.life,
      target,
      file,
      handle,
      mode,
      start: offset,
      end: offset + length,
      write: false,
      folios: !direct,
    };
    return this.#locks.under(io, () => this.#readUnder(io, handle, offset, length));
  }

  #cached(
    target: TargetSession,
    file: FileState,
    handle: Handle,
    offset: number,
    length: number,
  ): readonly Uint8Array[] | undefined {
    const end = Math.min(offset + length, file.sizeBytes);
    const views = offset < end ? file.pages.collect(offset, end) : [];
    if (views === undefined) return undefined;
    // The whole range: beyond the end of the file the kernel keeps pages of zeros.
    if (file.handingBack !== 'no') file.delivered.push({ start: offset, end: offset + length });
    if (offset < end) this.#reader.advance(target, file, handle, offset, end);
    return views;
  }

  async #readUnder(
    use: FileUse,
    handle: Handle,
    offset: number,
    length: number,
  ): Promise<readonly Uint8Array[]> {
    const { life, target, file } = use;
    for (;;) {
      if (!file.sizeKnown) await life.wait(this.#locks.learnSize(use));
      const views = this.#cached(target, file, handle, offset, length);
      if (views !== undefined) return views;
      const end = Math.min(offset + length, file.sizeBytes);
      this.#context.smallReads.read(file.fid, file.sizeBytes);
      const needed = this.#reader.need(use, offset, end);
      this.#reader.advance(target, file, handle, offset, end);
      await life.wait(needed);
    }
  }

  write(
    op: Caller,
    fh: Fh | undefined,
    fid: Fid,
    offset: number,
    data: Uint8Array,
    options: WriteOptions,
  ): MaybePromise<number> {
    const handle = fh === undefined ? undefined : this.#context.handles.live(fh);
    if (handle !== undefined) reportWriteError(handle);
    if (data.length === 0) return 0;
    this.#context.uses.bytes.write += data.length;
    // #put() cuts what a mapping brings at the file's size.
    if (!options.writeback && !options.append) checkFileEnd(offset + data.length);
    const target = this.#context.targets.of(fid);
    const prepare = options.killSuidgid ? () => this.#killSuidgid(op, target, fid) : undefined;
    if (!options.sync && prepare === undefined) {
      const written = this.#writeNow(target, fid, offset, data, options);
      if (written !== undefined) return written;
    }
    if (options.writeback && target.locks.forgets('data', fid)) {
      // A mapping dirtied these pages under a lock that an eviction took from this client: others may have written since. The
      // kernel remembers the failure for every open of the file, as it does for every WRITE of its own that fails.
      throw new FsError('EIO', `stores into a mapping of inode ${fid} are lost: this client lost its lock`);
    }
    const file = this.#context.files.of(fid);
    const end = offset + data.length;
    const io: Io = {
      op,
      life: handle?.life ?? target.session,
      target,
      file,
      handle,
      mode: 'PW',
      start: offset,
      end,
      write: true,
      folios: options.direct !== true,
      prepare,
    };
    // The caller's buffer is valid only in this turn.
    const copy = Buffer.from(data);
    return this.#locks.under(io, (lock) => this.#writeUnder(io, handle, lock, offset, copy, options));
  }

  /** The common case: under PW, with room and grant, no RPC and no promise. */
  #writeNow(
    target: TargetSession,
    fid: Fid,
    offset: number,
    data: Uint8Array,
    options: WriteOptions,
  ): number | undefined {
    const file = this.#context.files.get(fid);
    if (file === undefined || !file.sizeKnown || file.exclusive !== undefined) return undefined;
    const { gate, locks } = target;
    // What the kernel writes back, and what would hold up an invalidation, passes while the gate drains.
    if (!options.writeback && !gate.isOpen && !gate.isDraining) return undefined;
    const lock = options.writeback
      ? locks.find('data', fid, 'PW', 0)
      : this.#locks.usable(target, file, 'PW');
    if (lock === undefined) return undefined;
    if (!options.writeback && !this.#writeBack.hasRoom(data.length)) return undefined;
    return this.#put(target, file, offset, data, options);
  }

  /**
   * Copies into the page cache. The caller holds PW and has room.
   * @returns undefined when the target has not promised space for the data; what the kernel writes back goes in anyway.
   */
  #put(
    target: TargetSession,
    file: FileState,
    offset: number,
    data: Uint8Array,
    options: WriteOptions,
    unpaid = false,
  ): number | undefined {
    const start = options.append ? file.sizeBytes : offset;
    if (options.append) checkFileEnd(start + data.length);
    // A mapping never extends its file: the rest of the last page is not data.
    const end = options.writeback ? Math.min(offset + data.length, file.sizeBytes) : start + data.length;
    if (end > start) {
      const cost = target.grantsUsed && !unpaid ? file.pages.grantCost(start, end) : 0;
      const paid = cost <= target.grantBytes;
      if (!paid && !options.writeback) return undefined;
      if (paid) target.grantBytes -= cost;
      target.changes.contentChanges(file.fid);
      file.pages.write(
        start,
        data.subarray(0, end - start),
        paid && cost > 0,
        this.#context.runtime.clock.nowMs(),
      );
      if (!paid) file.unpaidSeq = file.pages.seq;
      file.spoil(start, end);
      file.sizeBytes = Math.max(file.sizeBytes, end);
      file.mtime = this.#context.runtime.clock.wall();
      if (compareTime(file.mtime, file.ctime) > 0) file.ctime = file.mtime;
      // The kernel itself drops a page that it has written back.
      if (file.handingBack !== 'no' && !options.writeback) file.delivered.push({ start, end });
      this.#writeBack.dirtied(target, file, start, end);
    }
    // The kernel put the bytes where it believed the end of the file to be; another client had moved the end.
    if (start !== offset) this.#dropKernelPages(file, offset, offset + data.length);
    return data.length;
  }

  #dropKernelPages(file: FileState, start: number, end: number): void {
    const { kernel, runtime } = this.#context;
    runtime.timers.soon(() => {
      void kernel.dropPages(file.fid, [{ start, end }]);
      void kernel.dropAttrs(file.fid);
    });
  }

  async #writeUnder(
    use: FileUse,
    handle: Handle | undefined,
    lock: CachedLock,
    offset: number,
    data: Buffer,
    options: WriteOptions,
  ): Promise<number> {
    const { op, life, target, file } = use;
    if (!file.sizeKnown) await life.wait(this.#locks.learnSize(use));
    if (lock.mode !== 'PW') return this.#writeThrough(use, offset, data, options);
    let through = options.sync;
    for (;;) {
      const room = this.#writeBack.room(use, data.length);
      if (room !== undefined) await life.wait(room);
      if (this.#put(target, file, offset, data, options) !== undefined) break;
      const more = this.#writeBack.moreGrant(target, op);
      if (more !== undefined) {
        await life.wait(more);
        continue;
      }
      // The target promises no more space: its answer to the WRITE says whether it has space, and write(2) returns that.
      this.#put(target, file, offset, data, options, true);
      through = true;
      break;
    }
    // A write that goes through only for want of a promise answers for what this handle wrote, as every write does.
    if (through) await life.wait(this.#flushed(use, handle, options.sync ? reportLoss : reportWriteError));
    if (options.sync)
      await life.wait(target.call('operation', Sync, { fid: file.fid }, { signal: op.signal }));
    return data.length;
  }

  /**
   * Executes a write on which an invalidation is stuck while the client gives a PR lock back: on the target, before the client
   * that waits for our lock gets its own.
   */
  async #writeThrough(
    { op, life, target, file }: FileUse,
    offset: number,
    data: Buffer,
    options: WriteOptions,
  ): Promise<number> {
    const start = options.append ? file.sizeBytes : offset;
    const end = start + data.length;
    checkFileEnd(end);
    const mtime = this.#context.runtime.clock.wall();
    const request = { fid: file.fid, offset: start, mtime, grantUsed: 0 };
    const sent = target.changing(file.fid, () =>
      target.call('data', Write, request, {
        bulk: [data],
        apply: () => {
          this.#context.dropPages(target, file, start, end);
          file.sizeBytes = Math.max(file.sizeBytes, end);
          this.#context.attrs.delete(file.fid);
        },
      }),
    );
    await life.wait(interruptible(sent, op.signal));
    if (options.sync)
      await life.wait(target.call('operation', Sync, { fid: file.fid }, { signal: op.signal }));
    return data.length;
  }

  async #killSuidgid(op: Caller, target: TargetSession, fid: Fid): Promise<void> {
    const context = this.#context;
    const { signal } = op;
    const { session } = target;
    const { reply } = await session.wait(
      target.call(
        'operation',
        Getattr,
        { fid, want: WANT_ATTR },
        {
          signal,
          apply: (answer) => {
            const { attr, locks } = answer.reply;
            context.beliefs.applyGrants(target, { want: WANT_ATTR, inodes: [{ ...attr, fid }] }, locks);
            context.beliefs.applyAttr(target, answer.reply.attr);
          },
        },
      ),
    );
    if ((reply.attr.mode & SET_ID_BITS) === 0) return;
    const killed = target.changing(fid, () =>
      target.call(
        'operation',
        Setattr,
        { fid, killSuidgid: true },
        { apply: (answer) => context.beliefs.applyAttr(target, answer.reply.attr) },
      ),
    );
    await session.wait(interruptible(killed, signal));
  }

  /** @throws FsError the write-back error, EINTR */
  async #flushed(
    { op, life, target, file }: FileUse,
    handle: Handle | undefined,
    report: (handle: Handle) => void = reportLoss,
  ): Promise<void> {
    const written = this.#writeBack.flush(target, file);
    if (written !== undefined) await life.wait(interruptible(written, op.signal));
    if (handle !== undefined) report(handle);
  }

  fsync(op: Caller, fh: Fh): MaybePromise<void> {
    const handle = this.#context.handles.get(fh);
    const { life } = handle;
    if (life.isOver) {
      // Lost data is reported once: by this, or by close.
      reportWriteError(handle);
      life.check();
    }
    const target = this.#context.targets.of(handle.fid);
    return this.#context.pass(
      target,
      op,
      async () => {
        life.check();
        const file = this.#context.files.get(handle.fid);
        const written = file && this.#writeBack.flush(target, file);
        if (written === undefined) reportLoss(handle);
        const { waits } = this.#context.runtime;
        const waited = written && waits.during(() => 'write-back', interruptible(written, op.signal));
        // If all of it is on its way, SYNC may follow at once: the target answers it behind those WRITEs.
        if (!target.ordersSync || file?.isDirty !== false) await life.wait(waited);
        const synced = target.call('operation', Sync, { fid: handle.fid }, { signal: op.signal });
        await life.wait(Promise.all([waited, synced]));
        if (written !== undefined) reportLoss(handle);
      },
      handle,
    );
  }

  fallocate(op: Caller, fh: Fh, mode: number, offset: number, length: number): MaybePromise<void> {
    const handle = this.#context.handles.live(fh);
    const target = this.#context.targets.of(handle.fid);
    const file = this.#context.files.of(handle.fid);
    const { life } = handle;
    const run = async (): Promise<void> => {
      await life.wait(this.#writeBack.flush(target, file));
      const request = { fid: handle.fid, mode, offset, length };
      const taking = target.takingSpace(({ grantOffered, takes }) =>
        target.call(
          'operation',
          Fallocate,
          { ...request, grantOffered },
          {
            apply: ({ reply }) => {
              this.#context.dropPages(target, file, offset, offset + length);
              takes(reply.grantTaken);
              this.#context.beliefs.applyAttr(target, reply.attr, true);
            },
          },
        ),
      );
      await life.wait(taking);
    };
    return this.#context.pass(
      target,
      op,
      () => this.#locks.exclusively({ op, life, target, file }, run),
      handle,
    );
  }

  seek(op: Caller, fh: Fh, offset: number, what: 'data' | 'hole'): MaybePromise<number> {
    const handle = this.#context.handles.live(fh);
    const target = this.#context.targets.of(handle.fid);
    const file = this.#context.files.of(handle.fid);
    const { life } = handle;
    const use = { op, life, target, file };
    // Under a data lock, and with nothing dirty: the target knows all holes then.
    const run = async (): Promise<number> => {
      await life.wait(this.#flushed(use, undefined));
      const request = { fid: handle.fid, offset, what };
      return (await life.wait(target.call('operation', Seek, request, { signal: op.signal }))).reply.offset;
    };
    // Whoever may write and not read has no right to the other lock.
    const mode = (accessOf(handle.flags) & ACCESS_READ) !== 0 ? 'PR' : 'PW';
    return this.#context.pass(target, op, () => this.#locks.locked(use, mode, run), handle);
  }

  copyRange(
    op: Caller,
    from: Fh,
    fromOffset: number,
    to: Fh,
    toOffset: number,
    length: number,
  ): MaybePromise<number> {
    const source = this.#context.handles.live(from);
    const destination = this.#context.handles.live(to);
    const target = this.#context.targets.of(destination.fid);
    if (this.#context.targets.of(source.fid) !== target)
      throw new FsError('EXDEV', 'the files are on two targets');
    const sourceFile = this.#context.files.of(source.fid);
    const file = this.#context.files.of(destination.fid);
    const { life } = destination;
    const run = async (): Promise<number> => {
      await life.wait(
        Promise.all([this.#writeBack.flush(target, sourceFile), this.#writeBack.flush(target, file)]),
      );
      source.life.check();
      const request = { fromFid: source.fid, fromOffset, toFid: destination.fid, toOffset, length };
      const taking = target.takingSpace(({ grantOffered, takes }) =>
        target.call(
          'operation',
          CopyRange,
          { ...request, grantOffered },
          {
            apply: ({ reply }) => {
              this.#context.dropPages(target, file, toOffset, toOffset + reply.copied);
              takes(reply.grantTaken);
              this.#context.beliefs.applyAttr(target, reply.attr, true);
            },
          },
        ),
      );
      return (await life.wait(taking)).reply.copied;
    };
    return this.#context.pass(
      target,
      op,
      () => this.#locks.exclusively({ op, life, target, file }, run),
      destination,
    );
  }

  /** Size and times as programs on this client see them, for the target to tell other clients. undefined: no PW held. */
  glimpse(
    target: TargetSession,
    fid: Fid,
  ): { sizeBytes: number; mtime: Timespec; ctime: Timespec; dirtyBytes: number } | undefined {
    const file = this.#context.files.get(fid);
    if (!file?.sizeKnown || target.locks.find('data', fid, 'PW', 0) === undefined) return undefined;
    const { sizeBytes, mtime, ctime } = file;
    return { sizeBytes, mtime, ctime, dirtyBytes: file.unwrittenBytes };
  }
}
