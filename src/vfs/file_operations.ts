/** Operations on open files. */

import { O_APPEND, O_TRUNC, S_IFREG, SET_ID_BITS } from '../base/attr.js';
import { FsError } from '../base/errno.js';
import type { Fh, Fid, Name } from '../base/ids.js';
import { logger } from '../base/log.js';
import { isPromise, type MaybePromise } from '../base/maybe_promise.js';
import type { AttrsWithValidity } from '../client/api.js';
import type { CreateIn, EntryOut, FuseHandlers, OpenOut, RequestContext } from '../fuse/handlers.js';
import { checkName, type VfsContext } from './context.js';
import type { AsOf } from './invalidation.js';
import { isDirect, O_DSYNC, openFlags } from './open_flags.js';

type FileHandlers = Pick<
  FuseHandlers,
  | 'open'
  | 'create'
  | 'tmpfile'
  | 'read'
  | 'write'
  | 'flush'
  | 'release'
  | 'fsync'
  | 'fallocate'
  | 'lseek'
  | 'copyFileRange'
>;

const log = logger('vfs:file');

/** What the client answers to an open that creates. */
interface Made {
  readonly known: AttrsWithValidity;
  readonly fh: Fh;
}

export function fileOperations(vfs: VfsContext): FileHandlers {
  const { kernel, lockOwners } = vfs;

  function opened(fid: Fid, fh: Fh, flags: number): MaybePromise<OpenOut> {
    const out = { fh, openFlags: openFlags(vfs.openPolicy, flags, vfs.client.holdsDataLock(fid)) };
    const suspect = kernel.opened(fid);
    return suspect === undefined ? out : suspect.then(() => out);
  }

  function createAndOpen(
    request: RequestContext,
    parent: number,
    name: Name | undefined,
    create: CreateIn & { readonly flags: number; readonly killSuidgid?: boolean },
  ): MaybePromise<EntryOut & OpenOut> {
    const object = { mode: S_IFREG | (create.mode & 0o7777), umask: create.umask };
    const out = (made: Made, since?: AsOf): EntryOut & OpenOut => ({
      ...kernel.entryOut(made.known, since),
      fh: made.fh,
      openFlags: openFlags(vfs.openPolicy, create.flags, vfs.client.holdsDataLock(made.known.attr.fid)),
    });
    const made = vfs.client.createAndOpen(request, parent as Fid, name, object, create.flags);
    if (create.killSuidgid === true && (create.flags & O_TRUNC) !== 0) {
      return truncatedExisting(request, made, create.mode, out);
    }
    if (!isPromise(made)) return out(made);
    const since = kernel.asOf();
    return made.then((later) => out(later, since));
  }

  /** If the file has set-id bits that this create did not ask for, it existed before, and this open truncates it. */
  async function truncatedExisting(
    request: RequestContext,
    answer: MaybePromise<Made>,
    mode: number,
    out: (made: Made, since: AsOf) => EntryOut & OpenOut,
  ): Promise<EntryOut & OpenOut> {
    const made = await answer;
    let { known } = made;
    try {
      if ((known.attr.mode & SET_ID_BITS & ~mode) !== 0) {
        known = await vfs.client.setattr(request, known.attr.fid, { killSuidgid: true });
      }
    } catch (thrown) {
      vfs.client.release(made.fh, undefined);
      throw thrown;
    }
    return out({ known, fh: made.fh }, kernel.asOf());
  }

  /**
   * FALLOCATE and COPY_FILE_RANGE do not say whether the caller has CAP_FSETID. The bits go first, as on local filesystems:
   * a change that fails half way must not leave them.
   */
  function withoutSetId<T>(
    request: RequestContext,
    fid: Fid,
    change: () => MaybePromise<T>,
  ): MaybePromise<T> {
    if (!vfs.client.mayHaveSetId(request, fid) || vfs.keepsSetId(request)) return change();
    return dropSetId(request, fid).then(change);
  }

  async function dropSetId(request: RequestContext, fid: Fid): Promise<void> {
    const { attr } = await vfs.client.getattr(request, fid);
    if ((attr.mode & SET_ID_BITS) === 0) return;
    await vfs.client.setattr(request, fid, { killSuidgid: true });
    // Neither reply carries attributes: the kernel would go on believing the mode that it has.
    await kernel.dropAttrs([fid]);
  }

  /** @returns what the reply of a write(2) that was applied must wait for. */
  function settle(fid: Fid, flags: number, offset: number, written: number): Promise<void> | undefined {
    if (written === 0 || !isDirect(vfs.openPolicy, flags)) return undefined;
    // The kernel cannot know where an append went: another client may have moved the end.
    if ((flags & O_APPEND) !== 0) return kernel.wroteDirect(fid, 0, 0);
    return kernel.wroteDirect(fid, offset, written);
  }

  function broughtPages(
    fid: Fid,
    data: readonly Uint8Array[],
    sizeBytes: number,
  ): MaybePromise<readonly Uint8Array[]> {
    const length = data.reduce((sum, piece) => sum + piece.length, 0);
    const wait = kernel.readPages(fid, sizeBytes - length);
    if (wait === undefined) return data;
    // The client may reuse this memory when this turn is over.
    const copies = data.map((piece) => Buffer.from(piece));
    return wait.then(() => copies);
  }

  return {
    open(request, nodeid, flags, killSuidgid) {
      const fid = nodeid as Fid;
      if (killSuidgid === true && vfs.client.mayHaveSetId(request, fid)) {
        // Clears the bits first, so that a failure leaves no handle behind.
        return Promise.resolve(vfs.client.setattr(request, fid, { killSuidgid: true }))
          .then(() => vfs.client.open(request, fid, flags))
          .then((fh) => opened(fid, fh, flags));
      }
      const fh = vfs.client.open(request, fid, flags);
      return isPromise(fh) ? fh.then((later) => opened(fid, later, flags)) : opened(fid, fh, flags);
    },

    create(request, parent, name, create) {
      return createAndOpen(request, parent, checkName(name), create);
    },

    tmpfile(request, parent, create) {
      return createAndOpen(request, parent, undefined, create);
    },

    read(request, nodeid, read) {
      const fid = nodeid as Fid;
      const { fh, offset, sizeBytes } = read;
      // A direct read locks no folio of the kernel and leaves nothing in its cache.
      if (read.direct === true) return vfs.client.read(request, fh as Fh, fid, offset, sizeBytes, true);
      kernel.readsPages(fid);
      const data = vfs.client.read(request, fh as Fh, fid, offset, sizeBytes, false);
      return isPromise(data)
        ? data.then((later) => broughtPages(fid, later, sizeBytes))
        : broughtPages(fid, data, sizeBytes);
    },

    write(request, nodeid, write) {
      const fid = nodeid as Fid;
      const { flags, writeback, offset } = write;
      const dropsSetId = write.killSuidgid && vfs.client.mayHaveSetId(request, fid);
      const answer = vfs.client.write(
        request,
        // The kernel sends any handle of the file with mapped pages that it writes back.
        writeback ? undefined : (write.fh as Fh),
        fid,
        offset,
        write.data,
        {
          append: !writeback && (flags & O_APPEND) !== 0,
          writeback,
          sync: !writeback && (vfs.syncWrites || (flags & O_DSYNC) !== 0),
          // The kernel asks for this with every write of a caller without CAP_FSETID, and each request would cost an RPC.
          killSuidgid: dropsSetId,
          direct: !writeback && isDirect(vfs.openPolicy, flags),
        },
      );
      if (writeback) return answer;
      if (isPromise(answer)) {
        return answer.then(async (written) => {
          // The reply of a WRITE carries no attributes: the kernel would go on believing the mode that it has.
          if (dropsSetId) await kernel.dropAttrs([fid]);
          await settle(fid, flags, offset, written);
          return written;
        });
      }
      const wait = settle(fid, flags, offset, answer);
      return wait === undefined ? answer : wait.then(() => answer);
    },

    flush(request, _nodeid, fh, owner) {
      lockOwners.flushed(fh as Fh, owner);
      return vfs.client.flush(request, fh as Fh, owner);
    },

    release(request, _nodeid, { fh, owner, flockUnlock }) {
      for (const ofdOwner of lockOwners.released(fh as Fh) ?? []) {
        // Drops that owner's locks. If it brings a write-back error, nobody is left to learn of it: close(2) is over.
        const flushed = vfs.client.flush(request, fh as Fh, ofdOwner);
        if (isPromise(flushed)) flushed.catch((thrown) => log('flush at release of %d: %O', fh, thrown));
      }
      vfs.client.release(fh as Fh, flockUnlock ? owner : undefined);
    },

    fsync(request, _nodeid, fh) {
      return vfs.client.fsync(request, fh as Fh);
    },

    fallocate(request, nodeid, fh, mode, offset, length) {
      const allocate = (): MaybePromise<void> =>
        vfs.client.fallocate(request, fh as Fh, mode, offset, length);
      return withoutSetId(request, nodeid as Fid, allocate);
    },

    lseek(request, _nodeid, fh, offset, what) {
      return vfs.client.seek(request, fh as Fh, offset, what);
    },

    copyFileRange(request, from, to, length) {
      if (from.nodeid === to.nodeid && overlaps(from.offset, to.offset, length)) throw new FsError('EINVAL');
      const copy = (): MaybePromise<number> =>
        vfs.client.copyRange(request, from.fh as Fh, from.offset, to.fh as Fh, to.offset, length);
      return withoutSetId(request, to.nodeid as Fid, copy);
    },
  };
}

/** copy_file_range(2): EINVAL when both ranges are in one file and overlap. */
function overlaps(a: number, b: number, length: number): boolean {
  return Math.abs(a - b) < length;
}
