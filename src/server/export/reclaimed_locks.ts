/**
 * Cache locks that a client has replayed, but may not know of. If the connection broke in the middle of its recovery,
 * the client replays all of them again. It must not end up with each lock twice: nobody would give back the first.
 *
 * From the second replay on, the server gives the client the locks that it already has, as far as it asks for them. It
 * drops the rest.
 */

import type { LockHandle } from '../../base/ids.js';
import type { HeldLock, LockSpec } from '../../dlm/api.js';

export class ReclaimedLocks {
  readonly #handles = new Map<string, LockHandle[]>();

  /** The client begins its replay again. @param held the locks that it has now. */
  begin(held: readonly HeldLock[]): void {
    this.#handles.clear();
    for (const lock of held) {
      const key = keyOf(lock);
      const same = this.#handles.get(key);
      if (same === undefined) this.#handles.set(key, [lock.handle]);
      else same.push(lock.handle);
    }
  }

  /** @returns a lock like this one that the client has. */
  take(spec: LockSpec): LockHandle | undefined {
    return this.#handles.get(keyOf(spec))?.shift();
  }

  /** The locks that the client did not ask for, when its replay is complete. */
  rest(): LockHandle[] {
    const left = [...this.#handles.values()].flat();
    this.#handles.clear();
    return left;
  }
}

function keyOf({ type, fid, mode, bits }: LockSpec): string {
  return `${type}/${fid}/${mode}/${bits}`;
}
