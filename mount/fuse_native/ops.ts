/**
 * The operations of fuse-native (paths, small descriptors, callbacks with negative errnos) in terms of FuseHandlers.
 * Names and arguments follow its documentation.
 */

import { O_RDWR } from '../../src/base/attr.js';
import { FUSE_ROOT_ID } from '../../src/fuse/constants.js';
import type { DirEntryOut, RequestContext, SetattrIn } from '../../src/fuse/handlers.js';
import { type Callback, FuseNativeCalls } from './calls.js';
import { textOfName } from './paths.js';
import { fill, latin1, NO_STAT, statOf, statvfsOf, TWO_32, timeOfMs } from './values.js';

/** fuse-native does not name the caller. It does not pass on locks either, which would need an owner. */
const NO_OWNER = '0000000000000000';
/** The id with which chown(2) says "do not change". */
const UNCHANGED_ID = 0xffff_ffff;

export class FuseNativeOps extends FuseNativeCalls {
  getattr(path: string, done: Callback): void {
    this.run(
      'GETATTR',
      done,
      (request) => this.at(request, path, (nodeid) => this.handlers.getattr(request, nodeid, undefined)),
      ({ attr }) => done(0, statOf(attr)),
    );
  }

  fgetattr(descriptor: number, done: Callback): void {
    this.run(
      'GETATTR',
      done,
      async (request) => {
        const { nodeid, fh } = this.file(descriptor);
        return this.handlers.getattr(request, nodeid, fh);
      },
      ({ attr }) => done(0, statOf(attr)),
    );
  }

  #setattr(path: string, change: Partial<SetattrIn>, done: Callback): void {
    this.run('SETATTR', done, (request) =>
      this.at(request, path, (nodeid) =>
        this.handlers.setattr(request, nodeid, { killSuidgid: false, ...change }),
      ),
    );
  }

  truncate(path: string, sizeBytes: number, done: Callback): void {
    this.#setattr(path, { sizeBytes }, done);
  }

  ftruncate(_path: string, descriptor: number, sizeBytes: number, done: Callback): void {
    this.run('SETATTR', done, async (request) => {
      const { nodeid, fh } = this.file(descriptor);
      return this.handlers.setattr(request, nodeid, { fh, sizeBytes, killSuidgid: false });
    });
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

  /** Times are in milliseconds; fuse-native 2.2.6 passes the access time twice. */
  utimens(path: string, atimeMs: number, mtimeMs: number, done: Callback): void {
    this.#setattr(path, { atime: timeOfMs(atimeMs), mtime: timeOfMs(mtimeMs) }, done);
  }

  readlink(path: string, done: Callback): void {
    this.run(
      'READLINK',
      done,
      (request) => this.at(request, path, (nodeid) => this.handlers.readlink(request, nodeid)),
      (target) => done(0, Buffer.from(target).toString('utf8')),
    );
  }

  symlink(target: string, path: string, done: Callback): void {
    this.run('SYMLINK', done, (request) =>
      this.inParent(request, path, async (parent, name) => {
        const bytes = Buffer.from(target, 'utf8');
        this.made(await this.handlers.symlink(request, parent, name, bytes));
      }),
    );
  }

  mknod(path: string, mode: number, rdev: number, done: Callback): void {
    this.run('MKNOD', done, (request) =>
      this.inParent(request, path, async (parent, name) => {
        // The kernel has applied the umask already.
        this.made(await this.handlers.mknod(request, parent, name, { mode, rdev, umask: 0 }));
      }),
    );
  }

  mkdir(path: string, mode: number, done: Callback): void {
    this.run('MKDIR', done, (request) =>
      this.inParent(request, path, async (parent, name) => {
        this.made(await this.handlers.mkdir(request, parent, name, { mode, umask: 0 }));
      }),
    );
  }

  unlink(path: string, done: Callback): void {
    this.run('UNLINK', done, (request) =>
      this.inParent(request, path, (parent, name) => this.handlers.unlink(request, parent, name)),
    );
  }

  rmdir(path: string, done: Callback): void {
    this.run('RMDIR', done, (request) =>
      this.inParent(request, path, (parent, name) => this.handlers.rmdir(request, parent, name)),
    );
  }

  rename(path: string, newPath: string, done: Callback): void {
    this.run('RENAME', done, (request) =>
      this.inParent(request, path, (parent, name) =>
        this.inParent(request, newPath, (newParent, newName) =>
          this.handlers.rename(request, parent, name, newParent, newName, 0),
        ),
      ),
    );
  }

  link(path: string, newPath: string, done: Callback): void {
    this.run('LINK', done, (request) =>
      this.at(request, path, (nodeid) =>
        this.inParent(request, newPath, async (newParent, newName) => {
          this.made(await this.handlers.link(request, nodeid, newParent, newName));
        }),
      ),
    );
  }

  open(path: string, flags: number, done: Callback): void {
    this.run(
      'OPEN',
      done,
      (request) =>
        this.at(request, path, async (nodeid) => {
          const { fh } = await this.handlers.open(request, nodeid, flags);
          this.references.pin(nodeid);
          return this.describe({ nodeid, fh, flags });
        }),
      (descriptor) => done(0, descriptor),
    );
  }

  /** fuse-native does not pass the open flags on, so we open the file for reading and writing. */
  create(path: string, mode: number, done: Callback): void {
    const flags = O_RDWR;
    this.run(
      'CREATE',
      done,
      (request) =>
        this.inParent(request, path, async (parent, name) => {
          const made = await this.handlers.create(request, parent, name, { mode, umask: 0, flags });
          const nodeid = this.references.addPinned(made);
          return this.describe({ nodeid, fh: made.fh, flags });
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
    this.run(
      'READ',
      done,
      async (request) => {
        const { nodeid, fh, flags } = this.file(descriptor);
        const chunks = await this.handlers.read(request, nodeid, {
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
    this.run(
      'WRITE',
      done,
      async (request) => {
        const { nodeid, fh, flags } = this.file(descriptor);
        const data = source.subarray(0, lengthBytes);
        const write = { fh, offset, data, flags, writeback: false, killSuidgid: false };
        return this.handlers.write(request, nodeid, write);
      },
      (count) => done(count),
    );
  }

  flush(_path: string, descriptor: number, done: Callback): void {
    this.run('FLUSH', done, async (request) => {
      const { nodeid, fh } = this.file(descriptor);
      await this.handlers.flush(request, nodeid, fh, NO_OWNER);
    });
  }

  release(_path: string, descriptor: number, done: Callback): void {
    this.run('RELEASE', done, async (request) => {
      const { nodeid, fh, flags } = this.closeFile(descriptor);
      try {
        await this.handlers.release(request, nodeid, { fh, flags, owner: NO_OWNER, flockUnlock: false });
      } finally {
        this.references.unpin(nodeid);
      }
    });
  }

  fsync(_path: string, datasync: number, descriptor: number, done: Callback): void {
    this.run('FSYNC', done, async (request) => {
      const { nodeid, fh } = this.file(descriptor);
      await this.handlers.fsync(request, nodeid, fh, datasync !== 0);
    });
  }

  fsyncdir(path: string, datasync: number, _descriptor: number, done: Callback): void {
    this.run('FSYNCDIR', done, (request) =>
      this.#withDirectory(request, path, (nodeid, fh) =>
        this.handlers.fsyncdir(request, nodeid, fh, datasync !== 0),
      ),
    );
  }

  async #withDirectory<T>(
    request: RequestContext,
    path: string,
    work: (nodeid: number, fh: number) => T | Promise<T>,
  ): Promise<T> {
    return this.at(request, path, async (nodeid) => {
      const { fh } = await this.handlers.opendir(request, nodeid, 0);
      try {
        return await work(nodeid, fh);
      } finally {
        await this.handlers.releasedir(request, nodeid, fh);
      }
    });
  }

  /** Reads the whole directory at once; libfuse passes it on in pieces. */
  readdir(path: string, done: Callback): void {
    this.run(
      'READDIR',
      done,
      (request) =>
        this.#withDirectory(request, path, async (nodeid, fh) => {
          const entries: DirEntryOut[] = [];
          for (;;) {
            const before = entries.length;
            const offset = entries.at(-1)?.cookie ?? 0;
            await this.handlers.readdir(
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
    this.run(
      'STATFS',
      done,
      async (request) => this.handlers.statfs(request, FUSE_ROOT_ID),
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
    this.run('SETXATTR', done, (request) =>
      this.at(request, path, (nodeid) =>
        this.handlers.setxattr(request, nodeid, latin1(name), value, flags, false),
      ),
    );
  }

  /** Answers the size, or -ERANGE if `target` is too small. With an empty target the caller asks for the size. */
  getxattr(path: string, name: string, target: Buffer, done: Callback): void {
    this.run(
      'GETXATTR',
      done,
      (request) => this.at(request, path, (nodeid) => this.handlers.getxattr(request, nodeid, latin1(name))),
      (value) => done(fill(target, value)),
    );
  }

  listxattr(path: string, target: Buffer, done: Callback): void {
    this.run(
      'LISTXATTR',
      done,
      (request) => this.at(request, path, (nodeid) => this.handlers.listxattr(request, nodeid)),
      (names) => done(fill(target, Buffer.from(names.map((name) => `${name}\0`).join(''), 'latin1'))),
    );
  }

  removexattr(path: string, name: string, done: Callback): void {
    this.run('REMOVEXATTR', done, (request) =>
      this.at(request, path, (nodeid) => this.handlers.removexattr(request, nodeid, latin1(name))),
    );
  }
}
