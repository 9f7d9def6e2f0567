/**
 * Cache locks that a client has replayed, of which it may not have heard: when the connection broke in the middle of
 * its recovery it replays all of them again, and must not end up with each of them twice. Nobody would give back the first.
 *
 * From the second replay on the locks it has are given to it again, as far as it asks for them; the rest goes.
 */

import type { LockHandle } from '../../base/ids.js';
import type { HeldLock, LockSpec } from '../../dlm/api.js';

export class ReclaimedLocks {
  readonly #handles = new Map<string, LockHandle[]>();

  /** The client begins again. @param held what it has now. */
  begin(held: readonly HeldLock[]): void {
    this.#handles.clear();
    for (const lock of held) {
      const key = keyOf(lock);
      const same = this.#handles.get(key);
      if (same === undefined) this.#handles.set(key, [lock.handle]);
      else same.push(lock.handle);
    }
  }

  /** @returns one like this that it has. */
  take(spec: LockSpec): LockHandle | undefined {
    return this.#handles.get(keyOf(spec))?.shift();
  }

  /** Those that it has not asked for, now that it is through. */
  rest(): LockHandle[] {
    const left = [...this.#handles.values()].flat();
    this.#handles.clear();
    return left;
  }
}

function keyOf({ type, fid, mode, bits }: LockSpec): string {
  return `${type}/${fid}/${mode}/${bits}`;
}
