/**
 * What vfs must remember of open handles: which owners took fcntl locks through them. A handle without such locks has no
 * entry, and there is no table of handles: fh is the client's own number.
 *
 * Why: the kernel does not say whether a lock is a classic POSIX lock (owned by the process) or an OFD lock (owned by
 * the open file description), and tells of neither's end in the same way. A process's locks end with any close(2) of the
 * file, seen as FLUSH with its owner. An OFD lock ends with the description, seen as RELEASE without the owner. Every
 * process that took a lock through a handle flushes it before its RELEASE comes; what is left then is OFD.
 */

import type { Fh } from '../base/ids.js';

export class LockOwners {
  readonly #byHandle = new Map<Fh, Set<string>>();

  took(fh: Fh, owner: string): void {
    const owners = this.#byHandle.get(fh);
    if (owners === undefined) this.#byHandle.set(fh, new Set([owner]));
    else owners.add(owner);
  }

  flushed(fh: Fh, owner: string): void {
    const owners = this.#byHandle.get(fh);
    if (owners?.delete(owner) === true && owners.size === 0) this.#byHandle.delete(fh);
  }

  /** @returns owners whose locks end with the handle. */
  released(fh: Fh): ReadonlySet<string> | undefined {
    const owners = this.#byHandle.get(fh);
    if (owners !== undefined) this.#byHandle.delete(fh);
    return owners;
  }
}
