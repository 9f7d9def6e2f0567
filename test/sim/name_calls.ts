/** System calls on names and attributes. Paths are absolute in the mount, without symbolic links on the way. */

import type { Attr } from '../../src/base/attr.js';
import { ERRNO } from '../../src/base/errno.js';
import { OPCODE } from '../../src/fuse/constants.js';
import { body, readDirents, readEntry, readOpen } from './fuse_requests.js';
import type { KernelInode } from './kernel_inode.js';
import { SystemError } from './system_error.js';
import { setattrBody, Task } from './task.js';

const READDIR_BYTES = 4096;
const EXCHANGE = 2;

export class NameCalls extends Task {
  stat(path: string): Promise<Attr> {
    return this.call(async () => this.attributesOf(await this.inodeOf(path)));
  }

  protected async attributesOf(inode: KernelInode): Promise<Attr> {
    const found = await this.kernel.attributes(inode, this.pid);
    if ('errno' in found) throw new SystemError(found.errno, 'stat');
    return found;
  }

  mkdir(path: string, mode = 0o755): Promise<void> {
    return this.#make(path, OPCODE.MKDIR, (name) => body(mode, 0, name));
  }
  symlink(target: string, path: string): Promise<void> {
    return this.#make(path, OPCODE.SYMLINK, (name) => body(name, target));
  }

  #make(path: string, opcode: number, content: (name: string) => Buffer): Promise<void> {
    return this.call(async () => {
      const { parent, name } = await this.parentOf(path);
      await this.locked(parent, true, async () => {
        if ((await this.find(parent, name, true)) !== undefined) throw new SystemError(ERRNO.EEXIST, path);
        const { body: bytes, since } = await this.request(opcode, parent, content(name));
        this.kernel.forgetAttr(parent);
        this.kernel.learnEntry(parent, name, readEntry(bytes), since);
      });
    });
  }

  readlink(path: string): Promise<string> {
    return this.call(async () => {
      const inode = await this.inodeOf(path);
      return (await this.request(OPCODE.READLINK, inode, body())).body.toString('latin1');
    });
  }

  link(from: string, to: string): Promise<void> {
    return this.call(async () => {
      const inode = await this.inodeOf(from);
      const { parent, name } = await this.parentOf(to);
      await this.locked(parent, true, async () => {
        if ((await this.find(parent, name, true)) !== undefined) throw new SystemError(ERRNO.EEXIST, to);
        const content = body(BigInt(inode.nodeid), name);
        const { body: bytes, since } = await this.request(OPCODE.LINK, parent, content);
        this.kernel.forgetAttr(parent);
        this.kernel.forgetAttr(inode);
        this.kernel.learnEntry(parent, name, readEntry(bytes), since);
      });
    });
  }

  unlink(path: string): Promise<void> {
    return this.#remove(path, OPCODE.UNLINK);
  }
  rmdir(path: string): Promise<void> {
    return this.#remove(path, OPCODE.RMDIR);
  }

  #remove(path: string, opcode: number): Promise<void> {
    return this.call(async () => {
      const { parent, name } = await this.parentOf(path);
      await this.locked(parent, true, async () => {
        const victim = await this.find(parent, name, true);
        if (victim === undefined) throw new SystemError(ERRNO.ENOENT, path);
        await this.locked(victim, true, async () => {
          await this.request(opcode, parent, body(name));
          this.kernel.forgetName(parent, name);
          this.kernel.lostName(victim);
        });
      });
    });
  }

  rename(from: string, to: string, flags = 0): Promise<void> {
    return this.call(async () => {
      const source = await this.parentOf(from);
      const target = await this.parentOf(to);
      const parents = [...new Set([source.parent, target.parent])].sort((a, b) => a.nodeid - b.nodeid);
      const [first, second] = parents;
      if (first === undefined) return;
      const run = (): Promise<void> => this.#rename(source, target, flags);
      await this.locked(first, true, () => (second === undefined ? run() : this.locked(second, true, run)));
    });
  }

  async #rename(
    source: { readonly parent: KernelInode; readonly name: string },
    target: { readonly parent: KernelInode; readonly name: string },
    flags: number,
  ): Promise<void> {
    const moved = await this.find(source.parent, source.name, true);
    if (moved === undefined) throw new SystemError(ERRNO.ENOENT, source.name);
    const replaced = await this.find(target.parent, target.name, true);
    const content = body(BigInt(target.parent.nodeid), flags, 0, source.name, target.name);
    await this.request(OPCODE.RENAME2, source.parent, content);
    this.kernel.forgetName(source.parent, source.name);
    this.kernel.forgetName(target.parent, target.name);
    this.kernel.forgetAttr(moved);
    if (replaced === undefined) return;
    if ((flags & EXCHANGE) !== 0 || replaced === moved) this.kernel.forgetAttr(replaced);
    else this.kernel.lostName(replaced);
  }

  chmod(path: string, mode: number): Promise<void> {
    return this.call(async () => {
      const inode = await this.inodeOf(path);
      await this.locked(inode, true, () => this.setattr(inode, setattrBody({ mode })));
    });
  }

  setxattr(path: string, name: string, value: string): Promise<void> {
    return this.call(async () => {
      const inode = await this.inodeOf(path);
      await this.locked(inode, true, async () => {
        const content = body(value.length, 0, 0, 0, name, Buffer.from(value, 'latin1'));
        await this.request(OPCODE.SETXATTR, inode, content);
        this.kernel.forgetAttr(inode);
      });
    });
  }

  getxattr(path: string, name: string): Promise<string> {
    return this.call(async () => {
      const inode = await this.inodeOf(path);
      return (await this.request(OPCODE.GETXATTR, inode, body(65536, 0, name))).body.toString('latin1');
    });
  }

  removexattr(path: string, name: string): Promise<void> {
    return this.call(async () => {
      const inode = await this.inodeOf(path);
      await this.request(OPCODE.REMOVEXATTR, inode, body(name));
      this.kernel.forgetAttr(inode);
    });
  }

  /** Names, without the dots, in order. */
  readdir(path: string): Promise<string[]> {
    return this.call(async () => {
      const inode = await this.inodeOf(path);
      const { fh } = readOpen((await this.request(OPCODE.OPENDIR, inode, body(0o200000, 0))).body);
      try {
        return await this.#entries(inode, fh);
      } finally {
        this.kernel.channel.request(OPCODE.RELEASEDIR, inode.nodeid, 0, body(BigInt(fh), 0, 0, 0n));
      }
    });
  }

  async #entries(inode: KernelInode, fh: number): Promise<string[]> {
    const names: string[] = [];
    for (let offset = 0; ; ) {
      const content = body(BigInt(fh), BigInt(offset), READDIR_BYTES, 0, 0n, 0, 0);
      const { body: bytes, since } = await this.locked(inode, false, () =>
        this.request(OPCODE.READDIRPLUS, inode, content),
      );
      const entries = readDirents(bytes);
      for (const { name, entry, offset: next } of entries) {
        offset = next;
        if (name === '.' || name === '..') continue;
        names.push(name);
        if (entry.nodeid !== 0) this.kernel.learnEntry(inode, name, entry, since);
      }
      if (entries.length === 0) return names.sort();
    }
  }
}
