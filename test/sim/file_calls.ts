/** System calls on open files: read, write, mappings, sync, locks. */

import { type Attr, O_ACCMODE, O_APPEND, O_EXCL, O_TRUNC } from '../../src/base/attr.js';
import { ERRNO } from '../../src/base/errno.js';
import { FOPEN, LK_FLOCK, OPCODE, READ_LOCKOWNER } from '../../src/fuse/constants.js';
import { body, readEntry, readOpen } from './fuse_requests.js';
import { type KernelInode, PAGE_BYTES, type Page } from './kernel_inode.js';
import { NameCalls } from './name_calls.js';
import { SystemError } from './system_error.js';
import { setattrBody } from './task.js';

export const O_CREAT = 0o100;
/** falloc.h */
export const FALLOC_KEEP_SIZE = 1;
const READ_MAX_BYTES = 128 << 10;
/** As INIT agreed. */
const WRITE_MAX_BYTES = 1 << 20;

/** An open file description. */
export class OpenFile {
  readonly inode: KernelInode;
  readonly fh: number;
  readonly flags: number;
  readonly isDirect: boolean;
  usedFlock = false;
  isClosed = false;
  /** Of those of its inode, what it was told, or what was there before it. */
  #toldErrors: number;

  constructor(inode: KernelInode, fh: number, flags: number, isDirect: boolean) {
    this.inode = inode;
    this.fh = fh;
    this.flags = flags;
    this.isDirect = isDirect;
    this.#toldErrors = inode.writeErrors;
    inode.uses += 1;
  }

  /** @throws SystemError EIO when pages could not be written back since it was told last. */
  checkWritten(call: string): void {
    const { writeErrors } = this.inode;
    if (writeErrors === this.#toldErrors) return;
    this.#toldErrors = writeErrors;
    throw new SystemError(ERRNO.EIO, call);
  }
}

export class Process extends NameCalls {
  readonly #files = new Set<OpenFile>();

  /**
   * The end of the process, by itself or by a signal: its kernel closes what it had open.
   * @returns what closing failed with.
   */
  async exit(): Promise<SystemError[]> {
    const failures: SystemError[] = [];
    for (const file of [...this.#files]) {
      await this.close(file).catch((error: unknown) => {
        if (!(error instanceof SystemError)) throw error;
        failures.push(error);
      });
    }
    return failures;
  }

  /** open(2). If the inode is gone, Linux does not believe its dentries and walks the path once more (retry_estale). */
  open(path: string, flags: number, mode = 0o644): Promise<OpenFile> {
    return this.call(async () => {
      try {
        return await this.#openPath(path, flags, mode);
      } catch (error) {
        if (!(error instanceof SystemError) || error.code !== 'ESTALE') throw error;
        const { parent, name } = await this.parentOf(path);
        this.kernel.forgetName(parent, name);
        return await this.#openPath(path, flags, mode);
      }
    });
  }

  async #openPath(path: string, flags: number, mode: number): Promise<OpenFile> {
    if ((flags & O_CREAT) === 0) return this.#openInode(await this.inodeOf(path), flags);
    const { parent, name } = await this.parentOf(path);
    return this.locked(parent, true, async () => {
      const found = await this.find(parent, name, true);
      if (found === undefined) return this.#create(parent, name, flags, mode);
      if ((flags & O_EXCL) !== 0) throw new SystemError(ERRNO.EEXIST, path);
      return this.#openInode(found, flags);
    });
  }

  async #create(parent: KernelInode, name: string, flags: number, mode: number): Promise<OpenFile> {
    const content = body(flags, mode | 0o100000, 0, 0, name);
    const { body: bytes, since } = await this.request(OPCODE.CREATE, parent, content);
    this.kernel.forgetAttr(parent);
    const inode = this.kernel.learnEntry(parent, name, readEntry(bytes), since);
    if (inode === undefined) throw new SystemError(ERRNO.EIO, 'CREATE without an inode');
    return this.#opened(inode, bytes, 128, flags);
  }

  async #openInode(inode: KernelInode, flags: number): Promise<OpenFile> {
    const content = body(flags & ~(O_CREAT | O_EXCL), 0);
    if ((flags & O_TRUNC) === 0) {
      return this.#opened(inode, (await this.request(OPCODE.OPEN, inode, content)).body, 0, flags);
    }
    return this.locked(inode, true, () =>
      this.#truncating(inode, async () => {
        const { body: bytes } = await this.request(OPCODE.OPEN, inode, content);
        this.kernel.changedAttr(inode);
        this.kernel.forgetAttr(inode);
        inode.sizeBytes = 0;
        inode.cutPages(0);
        return this.#opened(inode, bytes, 0, flags);
      }),
    );
  }

  async #opened(inode: KernelInode, bytes: Buffer, at: number, flags: number): Promise<OpenFile> {
    const { fh, openFlags } = readOpen(bytes, at);
    const file = new OpenFile(inode, fh, flags & ~O_TRUNC, (openFlags & FOPEN.DIRECT_IO) !== 0);
    this.#files.add(file);
    if ((openFlags & FOPEN.KEEP_CACHE) === 0) await this.kernel.dropPages(inode, 0, Number.POSITIVE_INFINITY);
    return file;
  }

  /** No page is written back while this runs. */
  async #truncating<T>(inode: KernelInode, run: () => Promise<T>): Promise<T> {
    let over = (): void => undefined;
    inode.truncating = new Promise((resolve) => {
      over = resolve;
    });
    try {
      return await run();
    } finally {
      inode.truncating = undefined;
      over();
    }
  }

  /** close(2). The description has one descriptor. @throws SystemError what write-back failed with. */
  async close(file: OpenFile): Promise<void> {
    const { inode, fh } = file;
    if (file.isClosed) throw new SystemError(ERRNO.EBADF, 'close');
    file.isClosed = true;
    this.#files.delete(file);
    try {
      await this.kernel.writeBack(inode);
      const owner = BigInt(this.pid);
      // Not interruptible, and not by a signal that came before: close(2) always closes.
      const flush = body(BigInt(fh), 0, 0, owner);
      const { errno } = await this.kernel.channel.request(OPCODE.FLUSH, inode.nodeid, this.pid, flush).answer;
      if (errno !== 0) throw new SystemError(errno, 'close');
      file.checkWritten('close');
    } finally {
      const owner = BigInt(file.usedFlock ? this.#flockOwner(file) : 0);
      const release = body(BigInt(fh), file.flags, file.usedFlock ? 2 : 0, owner);
      this.kernel.channel.request(OPCODE.RELEASE, inode.nodeid, 0, release);
      this.kernel.unuse(inode);
    }
  }

  fstat(file: OpenFile): Promise<Attr> {
    return this.call(() => this.attributesOf(file.inode));
  }

  pread(file: OpenFile, offset: number, length: number): Promise<Buffer> {
    return this.call(async () => {
      if (file.isDirect) return this.#readDirect(file, offset, length);
      const { inode } = file;
      let { sizeBytes } = inode;
      if (inode.attr === undefined || offset + length > sizeBytes) {
        // A real kernel goes on with the size that it had if an invalidation of this inode crossed the answer
        // (docs/SEMANTICS.md, "Contents"): left out here, to find other things.
        ({ sizeBytes } = await this.attributesOf(inode));
      }
      const end = Math.min(offset + length, sizeBytes);
      const parts: Buffer[] = [];
      for (let at = offset; at < end; ) {
        const index = Math.floor(at / PAGE_BYTES);
        const page = await this.#page(file, index);
        const stop = Math.min(end, (index + 1) * PAGE_BYTES);
        const content = page.content ?? Buffer.alloc(PAGE_BYTES);
        parts.push(Buffer.from(content.subarray(at - index * PAGE_BYTES, stop - index * PAGE_BYTES)));
        at = stop;
      }
      return Buffer.concat(parts);
    });
  }

  async #readDirect(file: OpenFile, offset: number, length: number): Promise<Buffer> {
    await this.kernel.writeBack(file.inode, offset, offset + length);
    const parts: Buffer[] = [];
    for (let at = offset; at < offset + length; ) {
      const size = Math.min(READ_MAX_BYTES, offset + length - at);
      const bytes = await this.#read(file, at, size, READ_LOCKOWNER);
      parts.push(bytes);
      at += bytes.length;
      if (bytes.length < size) break;
    }
    return Buffer.concat(parts);
  }

  async #read(file: OpenFile, offset: number, size: number, readFlags: number): Promise<Buffer> {
    const content = body(BigInt(file.fh), BigInt(offset), size, readFlags, BigInt(this.pid), file.flags, 0);
    return (await this.request(OPCODE.READ, file.inode, content)).body;
  }

  /** A page in the page cache, read if it is not there. */
  async #page(file: OpenFile, index: number): Promise<Page> {
    const { inode, kernel } = { inode: file.inode, kernel: this.kernel };
    for (;;) {
      const there = inode.pages.get(index);
      if (there !== undefined) {
        while (there.locked !== undefined) await there.locked;
        if (there.content !== undefined && inode.pages.get(index) === there) return there;
        if (inode.pages.get(index) === there) inode.pages.delete(index);
        continue;
      }
      const page: Page = { content: undefined, isDirty: false, locked: undefined };
      inode.pages.set(index, page);
      try {
        await kernel.lockPage(page, async () => {
          const version = inode.attrVersion;
          const bytes = await this.#read(file, index * PAGE_BYTES, PAGE_BYTES, 0);
          // Shorter than the size that the kernel believes: the file was cut.
          const end = index * PAGE_BYTES + bytes.length;
          if (bytes.length < PAGE_BYTES && end < inode.sizeBytes && inode.attrVersion === version) {
            inode.sizeBytes = end;
          }
          page.content = Buffer.concat([bytes, Buffer.alloc(PAGE_BYTES - bytes.length)]);
        });
      } finally {
        if (page.content === undefined && inode.pages.get(index) === page) inode.pages.delete(index);
      }
      return page;
    }
  }

  /** @returns the bytes written. With O_APPEND the offset does not matter. */
  pwrite(file: OpenFile, offset: number, data: Buffer): Promise<number> {
    return this.call(() =>
      this.locked(file.inode, true, async () => {
        const { inode } = file;
        const append = (file.flags & O_APPEND) !== 0;
        if (append) await this.attributesOf(inode);
        const at = append ? inode.sizeBytes : offset;
        await this.kernel.dropPages(inode, at, at + data.length);
        let written = 0;
        while (written < data.length) {
          const part = data.subarray(written, written + WRITE_MAX_BYTES);
          const done = await this.#write(file, at + written, part);
          written += done;
          this.kernel.changedAttr(inode);
          this.kernel.forgetAttr(inode);
          if (at + written > inode.sizeBytes) inode.sizeBytes = at + written;
          if (done < part.length) break;
        }
        return written;
      }),
    );
  }

  async #write(file: OpenFile, offset: number, data: Buffer): Promise<number> {
    const head = body(BigInt(file.fh), BigInt(offset), data.length, 2, BigInt(this.pid), file.flags, 0);
    const content = Buffer.concat([head, data]);
    return (await this.request(OPCODE.WRITE, file.inode, content)).body.readUInt32LE(0);
  }

  fsync(file: OpenFile): Promise<void> {
    return this.call(async () => {
      await this.kernel.writeBack(file.inode);
      await this.locked(file.inode, true, () =>
        this.request(OPCODE.FSYNC, file.inode, body(BigInt(file.fh), 0, 0)),
      );
      file.checkWritten('fsync');
    });
  }

  fallocate(file: OpenFile, mode: number, offset: number, lengthBytes: number): Promise<void> {
    return this.call(() =>
      this.locked(file.inode, true, async () => {
        const { inode } = file;
        const content = body(BigInt(file.fh), BigInt(offset), BigInt(lengthBytes), mode, 0);
        await this.request(OPCODE.FALLOCATE, inode, content);
        const end = offset + lengthBytes;
        this.kernel.changedAttr(inode);
        this.kernel.forgetAttr(inode);
        if ((mode & FALLOC_KEEP_SIZE) === 0 && end > inode.sizeBytes) inode.sizeBytes = end;
      }),
    );
  }

  truncate(path: string, sizeBytes: number): Promise<void> {
    return this.call(async () => {
      const inode = await this.inodeOf(path);
      await this.locked(inode, true, () =>
        this.#truncating(inode, async () => {
          await this.setattr(inode, setattrBody({ sizeBytes }));
          inode.cutPages(sizeBytes);
        }),
      );
    });
  }

  // ---- Mappings. The caller keeps inside the file.

  readMapped(file: OpenFile, offset: number, length: number): Promise<Buffer> {
    return this.call(async () => {
      await this.#inFile(file, offset, length);
      const index = Math.floor(offset / PAGE_BYTES);
      const page = await this.#page(file, index);
      const at = offset - index * PAGE_BYTES;
      return Buffer.from((page.content ?? Buffer.alloc(PAGE_BYTES)).subarray(at, at + length));
    });
  }

  /** Within one page. Written back by msync, fsync, close, or when the kernel likes. */
  writeMapped(file: OpenFile, offset: number, data: Buffer): Promise<void> {
    return this.call(async () => {
      if ((file.flags & O_ACCMODE) !== 2) throw new SystemError(ERRNO.EACCES, 'mmap');
      await this.#inFile(file, offset, data.length);
      const index = Math.floor(offset / PAGE_BYTES);
      for (;;) {
        const page = await this.#page(file, index);
        // Taken away between the fault and the store: faulted in anew.
        if (file.inode.pages.get(index) !== page || page.locked !== undefined) continue;
        page.content?.set(data, offset - index * PAGE_BYTES);
        page.isDirty = true;
        return;
      }
    });
  }

  async #inFile(file: OpenFile, offset: number, length: number): Promise<void> {
    const { sizeBytes } = await this.attributesOf(file.inode);
    if (offset + length > sizeBytes) throw new SystemError(ERRNO.EFBIG, 'a mapping behind the end: SIGBUS');
  }

  msync(file: OpenFile): Promise<void> {
    return this.call(async () => {
      await this.kernel.writeBack(file.inode);
      file.checkWritten('msync');
    });
  }

  // ---- Locks.

  #flockOwner(file: OpenFile): number {
    return 2 ** 40 + file.fh;
  }

  /** flock(2). */
  flock(file: OpenFile, how: 'shared' | 'exclusive' | 'unlock', wait = true): Promise<void> {
    file.usedFlock = true;
    return this.#setLock(file, this.#flockOwner(file), how, 0, undefined, wait, LK_FLOCK);
  }

  /** fcntl(2), owned by the process. @param end exclusive; undefined: to the end of the file. */
  fcntl(
    file: OpenFile,
    how: 'shared' | 'exclusive' | 'unlock',
    start: number,
    end: number | undefined,
    wait = true,
  ): Promise<void> {
    return this.#setLock(file, this.pid, how, start, end, wait, 0);
  }

  #setLock(
    file: OpenFile,
    owner: number,
    how: 'shared' | 'exclusive' | 'unlock',
    start: number,
    end: number | undefined,
    wait: boolean,
    flags: number,
  ): Promise<void> {
    return this.call(async () => {
      const type = how === 'shared' ? 0 : how === 'exclusive' ? 1 : 2;
      const last = end === undefined ? 0x7fff_ffff_ffff_ffffn : BigInt(end - 1);
      const content = body(BigInt(file.fh), BigInt(owner), BigInt(start), last, type, this.pid, flags, 0);
      const opcode = wait || how === 'unlock' ? OPCODE.SETLKW : OPCODE.SETLK;
      await this.request(opcode, file.inode, content);
    });
  }
}
