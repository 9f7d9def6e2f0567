/**
 * Reading directories.
 *
 * Positions: 1 is after '.', 2 after '..', and 2 + the client's cookie after an entry. Client cookies are stable for the
 * life of the directory, so a position survives a restart of the server, and of the client process, without any state
 * here.
 */

import { S_IFDIR } from '../base/attr.js';
import type { Fh, Fid } from '../base/ids.js';
import { isPromise, type MaybePromise } from '../base/maybe_promise.js';
import type { DirEntry } from '../client/api.js';
import type { DirSink, EntryOut, FuseHandlers, OpenOut } from '../fuse/handlers.js';
import type { VfsContext } from './context.js';
import type { AsOf } from './invalidation.js';

type DirectoryHandlers = Pick<FuseHandlers, 'opendir' | 'readdir' | 'releasedir' | 'fsyncdir'>;

const DOT = 1;
const DOT_DOT = 2;
const COOKIE_SHIFT = 2;
/** Number of entries to ask the client for at once: as many as fitted into a reply lately, and a few more. */
const LIMIT_MIN = 16;
const LIMIT_MAX = 1024;
const LIMIT_SLACK = 8;

interface Page {
  readonly entries: readonly DirEntry[];
  readonly end: boolean;
  readonly parent: Fid;
}

export function directoryOperations(vfs: VfsContext): DirectoryHandlers {
  const { kernel, nodes } = vfs;
  const limit = { plain: 128, plus: 32 };

  /** @returns how many entries the reply took. */
  function fill(page: Page, fid: Fid, offset: number, plus: boolean, push: DirSink, since?: AsOf): number {
    if (offset < DOT && !push({ name: '.', ino: fid, type: S_IFDIR, cookie: DOT })) return 0;
    if (offset < DOT_DOT && !push({ name: '..', ino: page.parent, type: S_IFDIR, cookie: DOT_DOT })) return 0;
    let taken = 0;
    for (const item of page.entries) {
      let entry: EntryOut | undefined;
      if (plus && item.known !== undefined) entry = kernel.entryOut(item.known, since);
      const pushed = push({
        name: item.name,
        ino: item.fid,
        type: item.type,
        cookie: item.cookie + COOKIE_SHIFT,
        entry,
      });
      if (!pushed) {
        // entryOut() counted a lookup of it, and the entry does not go out.
        if (entry !== undefined && nodes.forget(item.fid, 1)) vfs.client.forgotten(item.fid);
        break;
      }
      taken += 1;
    }
    return taken;
  }

  function learn(plus: boolean, page: Page, taken: number): void {
    // Only a full reply tells how many entries fit.
    if (taken === 0 || (taken === page.entries.length && page.end)) return;
    const next = Math.min(
      LIMIT_MAX,
      Math.max(LIMIT_MIN, taken === page.entries.length ? taken * 2 : taken + LIMIT_SLACK),
    );
    if (plus) limit.plus = next;
    else limit.plain = next;
  }

  return {
    opendir(request, nodeid, flags) {
      const fid = nodeid as Fid;
      const out = (fh: Fh): MaybePromise<OpenOut> => {
        const opened = { fh, openFlags: 0 };
        const suspect = kernel.opened(fid);
        return suspect === undefined ? opened : suspect.then(() => opened);
      };
      const fh = vfs.client.open(request, fid, flags);
      return isPromise(fh) ? fh.then(out) : out(fh);
    },

    readdir(request, nodeid, fh, offset, plus, push) {
      const fid = nodeid as Fid;
      const cookie = Math.max(0, offset - COOKIE_SHIFT);
      const answer = vfs.client.readdir(request, fh as Fh, cookie, plus ? limit.plus : limit.plain, plus);
      if (!isPromise(answer)) {
        learn(plus, answer, fill(answer, fid, offset, plus, push));
        return undefined;
      }
      const since = kernel.asOf();
      return answer.then((page) => learn(plus, page, fill(page, fid, offset, plus, push, since)));
    },

    releasedir(_request, _nodeid, fh) {
      vfs.client.release(fh as Fh, undefined);
    },

    fsyncdir(request, _nodeid, fh) {
      return vfs.client.fsync(request, fh as Fh);
    },
  };
}
