/**
 * Which files a client has open, and for what: for sessions whose users the server checks. What an open handle allows stays allowed,
 * whatever becomes of the file's mode and owner (POSIX), and the server cannot tell through which handle a client works.
 *
 * Made at the first question, and kept by OpenTable from then on: other sessions pay nothing for it.
 *
 * Invariant: the counts are those of the client's handles.
 */

import { assert } from '../../base/assert.js';
import { ACCESS_READ, ACCESS_WRITE, accessOf } from '../../base/attr.js';
import type { Fid } from '../../base/ids.js';

export interface OpenHandle {
  readonly fid: Fid;
  readonly flags: number;
}

interface Counts {
  all: number;
  read: number;
  write: number;
}

export class HandleAccess {
  readonly #files = new Map<Fid, Counts>();

  constructor(handles: Iterable<OpenHandle>) {
    for (const handle of handles) this.add(handle);
  }

  add({ fid, flags }: OpenHandle): void {
    const counts = this.#files.get(fid) ?? { all: 0, read: 0, write: 0 };
    this.#files.set(fid, counts);
    count(counts, flags, 1);
  }

  remove({ fid, flags }: OpenHandle): void {
    const counts = this.#files.get(fid);
    assert(counts !== undefined, `inode ${fid} is closed, and was not open`);
    count(counts, flags, -1);
    if (counts.all === 0) this.#files.delete(fid);
  }

  /**
   * @param access ACCESS_* bits, all of which are needed, though not by one handle; 0: any handle will do that reads or writes. One
   * that does neither (O_PATH) was opened without any permission.
   */
  allows(fid: Fid, access: number): boolean {
    const counts = this.#files.get(fid);
    if (counts === undefined) return false;
    if (access === 0) return counts.read > 0 || counts.write > 0;
    const reads = (access & ACCESS_READ) === 0 || counts.read > 0;
    return reads && ((access & ACCESS_WRITE) === 0 || counts.write > 0);
  }

  checkInvariants(handles: Iterable<OpenHandle>): void {
    const expected = new HandleAccess(handles);
    assert(expected.#files.size === this.#files.size, `${this.#files.size} files are open by their counts`);
    for (const [fid, { all, read, write }] of expected.#files) {
      const counts = this.#files.get(fid);
      assert(
        counts?.all === all && counts.read === read && counts.write === write,
        `the handles on inode ${fid} are counted wrong`,
      );
    }
  }
}

function count(counts: Counts, flags: number, by: number): void {
  const access = accessOf(flags);
  counts.all += by;
  if ((access & ACCESS_READ) !== 0) counts.read += by;
  if ((access & ACCESS_WRITE) !== 0) counts.write += by;
}
