/**
 * Takes the locks of one operation, once one of them had to wait: takes them in order, and keeps the locks it has while
 * it waits for the next. The order (modes.ts) is the same for all operations, so two operations never wait for each
 * other. A client gives back a lock that is called back, whatever its own operations wait for.
 */

import type { FsError } from '../base/errno.js';
import type { LockSpec } from './api.js';
import type { ServerLock, Waiter } from './resource.js';

export interface AcquisitionHooks {
  lock(spec: LockSpec): ServerLock;
  /** Called when the lock was queued. */
  waits(lock: ServerLock): void;
  acquired(): void;
  failed(error: FsError): void;
}

export class Acquisition implements Waiter {
  /** The locks granted so far, in order. The operation owns this array when it has all of them. */
  readonly #held: ServerLock[];
  readonly #specs: readonly LockSpec[];
  readonly #hooks: AcquisitionHooks;
  #waiting: ServerLock | undefined = undefined;

  /**
   * @param held the locks granted before the one that has to wait; specs are in lock order, at most one for each
   * resource.
   */
  constructor(held: ServerLock[], specs: readonly LockSpec[], hooks: AcquisitionHooks) {
    this.#held = held;
    this.#specs = specs;
    this.#hooks = hooks;
  }

  wait(lock: ServerLock): void {
    this.#waiting = lock;
    lock.resource.queue(lock, this);
    this.#hooks.waits(lock);
  }

  granted(): void {
    if (this.#waiting !== undefined) this.#held.push(this.#waiting);
    this.#waiting = undefined;
    for (;;) {
      const spec = this.#specs[this.#held.length];
      if (spec === undefined) break;
      const lock = this.#hooks.lock(spec);
      if (!lock.resource.free(lock)) {
        this.wait(lock);
        return;
      }
      lock.resource.grant(lock);
      this.#held.push(lock);
    }
    this.#hooks.acquired();
  }

  rejected(error: FsError): void {
    this.#hooks.failed(error);
  }

  /** Gives all locks back and fails. @returns the locks it gave back; the caller settles their resources. */
  abandon(error: FsError): readonly ServerLock[] {
    const gone = [...this.#held];
    for (const lock of gone) lock.resource.remove(lock);
    this.#held.length = 0;
    if (this.#waiting !== undefined) {
      this.#waiting.resource.unqueue(this.#waiting);
      gone.push(this.#waiting);
      this.#waiting = undefined;
    }
    this.#hooks.failed(error);
    return gone;
  }
}
