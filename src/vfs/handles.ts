/**
 * What vfs must remember of open handles: which owners took fcntl locks through them. A handle without such locks has no
 * entry. There is no table of all handles: fh is the client's own number.
 *
 * Why: the kernel does not say whether a lock is a classic POSIX lock (owned by the process) or an OFD lock (owned by
 * the open file description), and it tells of their ends in different ways. A process's locks end with any close(2) of the
 * file, which vfs sees as FLUSH with that owner. An OFD lock ends with the description, which vfs sees as RELEASE without the
 * owner. Every process that took a lock through a handle flushes the handle before its RELEASE comes; owners that are left
 * then have OFD locks.
 */

import type { Fh } from '../base/ids.js';

export class LockOwners {
  readonly #byHandle = new Map<Fh, Set<string>>();

  took(fh: Fh, owner: string): void {
    const owners = this.#byHandle.get(fh);
    if (owners === undefined) this.#byHandle.set(fh, new Set([owner]));
    else owners.add(owner);
  }

  all(): { readonly fh: Fh; readonly owners: readonly string[] }[] {
    return Array.from(this.#byHandle, ([fh, owners]) => ({ fh, owners: [...owners] }));
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
