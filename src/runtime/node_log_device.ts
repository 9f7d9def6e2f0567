/**
 * The bytes of a redo log on a block device: read and written past this host's caches, each write durable when it ends
 * (O_DIRECT, O_DSYNC: one request to libuv's threads, where a write and a flush are two).
 */

import { close as closeCb, constants, open as openCb } from 'node:fs';
import { promisify } from 'node:util';
import { nativeBinding } from '../../native/binding.js';
import { CountDown } from '../base/wait.js';
import { deviceFailed } from './node_block.js';

const openFd = promisify(openCb);
const closeFd = promisify(closeCb);

export class NodeLogDevice {
  readonly #path: string;
  readonly #fd: number;
  /** Calls that use the descriptor now. */
  readonly #calls = new CountDown();

  private constructor(path: string, fd: number) {
    this.#path = path;
    this.#fd = fd;
  }

  /** The caller has locked the device. @throws FsError EIO */
  static async open(path: string): Promise<NodeLogDevice> {
    const flags = constants.O_RDWR | constants.O_DSYNC;
    try {
      const fd = await openFd(path, flags | constants.O_DIRECT).catch((error: NodeJS.ErrnoException) => {
        // A regular file in a filesystem without direct I/O. Devices have it.
        if (error.code === 'EINVAL') return openFd(path, flags);
        throw error;
      });
      return new NodeLogDevice(path, fd);
    } catch (error) {
      throw deviceFailed(`opening ${path} for the redo log`, error);
    }
  }

  /** Offset and length are multiples of 4096. @throws FsError EIO */
  async read(offset: number, lengthBytes: number): Promise<Buffer> {
    try {
      return await this.#calls.during(() => nativeBinding().blockReadDirect(this.#fd, offset, lengthBytes));
    } catch (error) {
      throw deviceFailed(`read of the redo log on ${this.#path} at ${offset}`, error);
    }
  }

  /** Offset and length are multiples of 4096. The caller may change the bytes at once. @throws FsError EIO */
  async write(offset: number, bytes: Uint8Array): Promise<void> {
    try {
      await this.#calls.during(() => nativeBinding().blockWriteDirect(this.#fd, offset, bytes));
    } catch (error) {
      throw deviceFailed(`write of the redo log on ${this.#path} at ${offset}`, error);
    }
  }

  /** After the calls under way: a descriptor that is closed before may be another file's when a thread uses it. */
  async close(): Promise<void> {
    await this.#calls.zero();
    await closeFd(this.#fd);
  }
}
