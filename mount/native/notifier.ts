/**
 * Invalidations through the native channel: encodes each notification and waits for its result.
 *
 * A thread sends all of them but INC_EPOCH: the kernel may be evicting the inode even of an attribute invalidation, and
 * the eviction waits for our answers to WRITEs. Replies encoded before a notification leave before it.
 */

import type { FuseChannel } from '../../native/binding.js';
import { ERRNO, errnoName, FsError } from '../../src/base/errno.js';
import { logger } from '../../src/base/log.js';
import { onAbort, WaitList } from '../../src/base/wait.js';
import type { KernelNotifier } from '../../src/fuse/handlers.js';
import { encodeIncEpoch, encodeInvalInode } from '../../src/fuse/notify.js';

const log = logger('mount:notify');

interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: FsError) => void;
}

export class NativeNotifier implements KernelNotifier {
  readonly #channel: () => FuseChannel;
  readonly #flush: () => void;
  readonly #waiting = new Map<number, Waiter>();
  readonly #whenNone = new WaitList();
  #nextId = 0;

  /** @param flush sends the replies that are in the slab. */
  constructor(channel: () => FuseChannel, flush: () => void) {
    this.#channel = channel;
    this.#flush = flush;
  }

  /** Number of notifications whose result we do not have yet. */
  get waitingCount(): number {
    return this.#waiting.size;
  }

  /** Resolves when no result is missing. @throws the signal's reason when it aborts first. */
  async idle(signal: AbortSignal): Promise<void> {
    const unlisten = onAbort(signal, () => this.#whenNone.wake());
    try {
      while (this.#waiting.size > 0) {
        signal.throwIfAborted();
        await this.#whenNone.wait();
      }
    } finally {
      unlisten();
    }
  }

  invalidateAttr(nodeid: number): Promise<void> {
    return this.#notify(encodeInvalInode(nodeid, -1, 0));
  }

  invalidateData(nodeid: number, offset: number, length: number): Promise<void> {
    return this.#notify(encodeInvalInode(nodeid, offset, length));
  }

  /** Sends INC_EPOCH at once: the kernel takes no lock for it. A kernel without epochs answers EINVAL. */
  bumpEpoch(): Promise<boolean> {
    this.#flush();
    const errno = this.#channel().send([encodeIncEpoch()]);
    if (errno !== 0) log('INC_EPOCH: %s', errnoName(errno));
    return Promise.resolve(errno === 0);
  }

  flushReplies(): void {
    this.#flush();
  }

  /** The channel calls this with the result of a notification. */
  notified(id: number, errno: number): void {
    const waiter = this.#waiting.get(id);
    if (waiter === undefined) return;
    this.#waiting.delete(id);
    settle(waiter, errno);
    if (this.#waiting.size === 0) this.#whenNone.wake();
  }

  #notify(message: Buffer): Promise<void> {
    this.#flush();
    return new Promise((resolve, reject) => {
      const id = this.#nextId;
      this.#nextId = (id + 1) >>> 0;
      const waiter = { resolve, reject };
      const errno = this.#channel().notify(id, message);
      if (errno === 0) this.#waiting.set(id, waiter);
      else settle(waiter, errno);
    });
  }
}

function settle(waiter: Waiter, errno: number): void {
  switch (errno) {
    case 0:
    case ERRNO.ENOENT: // the kernel does not know the inode, so it caches nothing of it
    case ERRNO.ENODEV: // the mount is gone, and its caches with it
    case ERRNO.ENOTCONN:
    case ERRNO.ECANCELED:
      waiter.resolve();
      return;
    default:
      waiter.reject(new FsError(errnoName(errno), `the kernel refused an invalidation: ${errnoName(errno)}`));
  }
}
