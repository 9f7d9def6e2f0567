/**
 * A thread of an application: it makes one system call at a time, and a signal that kills it ends the one it is in, as far
 * as the file system lets it (it stays in the call until its request is answered).
 */

import { isDir } from '../../src/base/attr.js';
import { ERRNO } from '../../src/base/errno.js';
import { OPCODE } from '../../src/fuse/constants.js';
import type { Answer, Pending } from './channel.js';
import { body, readAttrOut, readEntry } from './fuse_requests.js';
import type { SimKernel, Since } from './kernel.js';
import type { KernelInode } from './kernel_inode.js';
import { SystemError } from './system_error.js';

export interface Replied {
  readonly body: Buffer;
  /** The kernel's clocks when the request was made. */
  readonly since: Since;
}

export class Task {
  readonly kernel: SimKernel;
  readonly pid: number;
  #pending: Pending | undefined;
  #isKilled = false;
  #pins: KernelInode[] = [];

  constructor(kernel: SimKernel) {
    this.kernel = kernel;
    this.pid = kernel.newPid();
  }

  get isKilled(): boolean {
    return this.#isKilled;
  }

  /** A request of it is unanswered. Else it may be waiting for another process, inside the kernel, where nothing ends it. */
  get isInRequest(): boolean {
    return this.#pending !== undefined;
  }

  /** SIGKILL. Its calls fail with EINTR from now on, the one it is in as soon as that is answered. */
  kill(): void {
    this.#isKilled = true;
    this.kernel.channel.killed.add(this.pid);
    if (this.#pending !== undefined) this.kernel.channel.interrupt(this.#pending);
  }

  /** @throws SystemError */
  protected async request(opcode: number, inode: KernelInode, content: Uint8Array): Promise<Replied> {
    if (this.#isKilled) throw new SystemError(ERRNO.EINTR, 'killed');
    const since = this.kernel.since();
    const pending = this.kernel.channel.request(opcode, inode.nodeid, this.pid, content);
    this.#pending = pending;
    const answer = await pending.answer;
    this.#pending = undefined;
    return { body: checked(answer, opcode).body, since };
  }

  /** Runs one system call: inodes that it touches stay known while it runs. */
  protected async call<T>(run: () => Promise<T>): Promise<T> {
    const outer = this.#pins;
    this.#pins = [];
    try {
      return await run();
    } finally {
      for (const inode of this.#pins) this.kernel.unuse(inode);
      this.#pins = outer;
    }
  }

  protected pin(inode: KernelInode): KernelInode {
    inode.uses += 1;
    this.#pins.push(inode);
    return inode;
  }

  /** Runs with the inode's i_rwsem. */
  protected async locked<T>(inode: KernelInode, write: boolean, run: () => Promise<T>): Promise<T> {
    const release = await inode.lock.acquire(write);
    try {
      return await run();
    } finally {
      release();
    }
  }

  /** A directory and a name in it. The directories on the way are looked up. */
  protected async parentOf(path: string): Promise<{ readonly parent: KernelInode; readonly name: string }> {
    const parts = path.split('/').filter((part) => part !== '');
    const name = parts.pop();
    if (name === undefined) throw new SystemError(ERRNO.EEXIST, path);
    let parent = this.pin(this.kernel.root);
    for (const part of parts) {
      parent = await this.present(parent, part);
      // The type never changes, so it is believed without asking.
      if (parent.attr !== undefined && !isDir(parent.attr.mode)) throw new SystemError(ERRNO.ENOTDIR, path);
    }
    return { parent, name };
  }

  protected async inodeOf(path: string): Promise<KernelInode> {
    if (path === '/') return this.pin(this.kernel.root);
    const { parent, name } = await this.parentOf(path);
    return this.present(parent, name);
  }

  protected async present(parent: KernelInode, name: string): Promise<KernelInode> {
    const found = await this.find(parent, name);
    if (found === undefined) throw new SystemError(ERRNO.ENOENT, name);
    return found;
  }

  /** LOOKUP, unless the name is believed. @param isLocked the caller holds the directory's lock. */
  protected async find(
    parent: KernelInode,
    name: string,
    isLocked = false,
  ): Promise<KernelInode | undefined> {
    const cached = this.kernel.cachedName(parent, name);
    if (cached === 'negative') return undefined;
    if (cached !== undefined) return this.pin(cached);
    const lookup = async (): Promise<KernelInode | undefined> => {
      try {
        const { body: bytes, since } = await this.request(OPCODE.LOOKUP, parent, body(name));
        const inode = this.kernel.learnEntry(parent, name, readEntry(bytes), since);
        return inode === undefined ? undefined : this.pin(inode);
      } catch (error) {
        if (error instanceof SystemError && error.code === 'ENOENT') return undefined;
        throw error;
      }
    };
    return isLocked ? lookup() : this.locked(parent, false, lookup);
  }

  /** SETATTR, and what its answer says. */
  protected async setattr(inode: KernelInode, content: Uint8Array): Promise<void> {
    const { body: bytes, since } = await this.request(OPCODE.SETATTR, inode, content);
    const { attr, attrValidMs } = readAttrOut(bytes);
    // Linux takes the answer to its own SETATTR always. Another answer that has overtaken it, and may be older, does not stay valid.
    this.kernel.forgetAttr(inode);
    this.kernel.learnAttr(inode, attr, attrValidMs, since);
  }
}

export function checked(answer: Answer, what: number | string): Answer {
  if (answer.errno !== 0) throw new SystemError(answer.errno, `${what}`);
  return answer;
}

/** struct fuse_setattr_in with one field. */
export function setattrBody(change: { readonly mode?: number; readonly sizeBytes?: number }): Buffer {
  const bytes = Buffer.alloc(88);
  let valid = 0;
  if (change.mode !== undefined) {
    valid |= 1;
    bytes.writeUInt32LE(change.mode, 68);
  }
  if (change.sizeBytes !== undefined) {
    valid |= 8;
    bytes.writeBigUInt64LE(BigInt(change.sizeBytes), 16);
  }
  bytes.writeUInt32LE(valid, 0);
  return bytes;
}
