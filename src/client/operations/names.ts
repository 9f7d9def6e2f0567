/** Operations on names: lookup, create, link, unlink, rename, readdir. Names are believed under UPDATE (dentry_cache.ts). */

import { isDir, isRegular, isSymlink, S_IFDIR, S_IFMT } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fh, Fid, Name } from '../../base/ids.js';
import { isPromise, type MaybePromise } from '../../base/maybe_promise.js';
import type { CachedLock } from '../../dlm/api.js';
import { BIT_UPDATE } from '../../wire/lock.js';
import {
  Create,
  Link,
  Lookup,
  RENAME_EXCHANGE,
  RENAME_WHITEOUT,
  Readdir,
  Rename,
  SYMLINK_MAX,
  Unlink,
  WANT_ATTR,
  WANT_DATA_READ,
} from '../../wire/meta.js';
import type { ReplyOf } from '../../wire/operation.js';
import type { Caller, DirEntry, FsClient, Known, NewObject, NoEntry } from '../api.js';
import type { Core } from '../cache/context.js';
import type { Target } from '../session/target.js';
import type { HeldInodes } from './held_inodes.js';

type Listing = Awaited<ReturnType<FsClient['readdir']>>;
type ReaddirReply = ReplyOf<typeof Readdir>;

/** How far a handle has read its directory under one and the same lock. */
interface Scan {
  readonly lock: CachedLock;
  readonly cookie: number;
}

export class NameOperations {
  readonly #core: Core;
  readonly #held: HeldInodes;
  readonly #scans = new Map<Fh, Scan>();
  /** Where handles have seen the end of their directory. */
  readonly #ends = new Map<Fh, { readonly cookie: number; readonly parent: Fid }>();

  constructor(core: Core, held: HeldInodes) {
    this.#core = core;
    this.#held = held;
  }

  lookup(op: Caller, parent: Fid, name: Name): MaybePromise<Known | NoEntry> {
    const core = this.#core;
    const target = core.targets.of(parent);
    const cached = core.names.get(parent, name);
    if (cached === 0) return { attr: null, nameCacheable: core.holdsNames(target, parent) };
    if (cached !== undefined) {
      const attr = core.attrs.get(cached);
      const known = attr === undefined ? undefined : core.known(core.targets.of(cached), attr, parent);
      if (known?.attrCacheable) return known;
    }
    return core.pass(target, op, async () => {
      const want = core.wantParent(target, parent) | WANT_ATTR | WANT_DATA_READ;
      const answer = await target.call(
        'operation',
        Lookup,
        { parent, name, want },
        {
          signal: op.signal,
          apply: ({ reply }) => {
            core.applyGrants(target, reply.locks);
            if (reply.attr !== undefined) core.applyAttr(target, reply.attr);
            core.applyName(target, parent, name, reply.attr?.fid ?? 0);
          },
        },
      );
      const { attr } = answer.reply;
      if (attr !== undefined) return core.known(target, attr, parent);
      return { attr: null, nameCacheable: core.holdsNames(target, parent) };
    });
  }

  create(op: Caller, parent: Fid, name: Name, object: NewObject): MaybePromise<Known> {
    const core = this.#core;
    const target = core.targets.of(parent);
    if (object.target !== undefined && object.target.length > SYMLINK_MAX) throw new FsError('ENAMETOOLONG');
    // The caller's bytes die with this turn.
    const symlink = object.target === undefined ? undefined : Buffer.from(object.target);
    return core.pass(target, op, async () => {
      const taken = target.fids.take();
      const fid = isPromise(taken) ? await taken : taken;
      const answer = await target.call(
        'operation',
        Create,
        {
          parent,
          name,
          fid,
          mode: object.mode,
          umask: object.umask,
          uid: op.uid,
          gid: op.gid,
          rdev: object.rdev,
          target: symlink,
          exclusive: true,
          want: core.wantParent(target, parent) | WANT_ATTR,
        },
        {
          signal: op.signal,
          apply: ({ reply }) => {
            applyCreate(core, target, parent, name, reply);
            if (symlink !== undefined && isSymlink(reply.attr.mode))
              core.attrs.putSymlinkTarget(fid, symlink);
          },
        },
      );
      return core.known(target, answer.reply.attr, parent);
    });
  }

  link(op: Caller, fid: Fid, parent: Fid, name: Name): MaybePromise<Known> {
    const core = this.#core;
    const target = core.targets.of(parent);
    if (core.targets.of(fid) !== target) throw new FsError('EXDEV', 'link across targets');
    return core.pass(target, op, async () => {
      const answer = await target.call(
        'operation',
        Link,
        { fid, parent, name },
        {
          signal: op.signal,
          apply: ({ reply }) => {
            core.applyAttr(target, reply.attr);
            core.applyAttr(target, reply.parentAttr);
            core.applyName(target, parent, name, reply.attr.fid);
          },
        },
      );
      return core.known(target, answer.reply.attr, parent);
    });
  }

  unlink(op: Caller, parent: Fid, name: Name, directory: boolean): MaybePromise<void> {
    const core = this.#core;
    const target = core.targets.of(parent);
    return core.pass(target, op, async () => {
      await target.call(
        'operation',
        Unlink,
        { parent, name, directory },
        {
          signal: op.signal,
          apply: ({ reply }) => {
            const { attr } = reply;
            core.applyAttr(target, attr);
            core.applyAttr(target, reply.parentAttr);
            core.applyName(target, parent, name, 0);
            if (directory || attr.nlink === 0) this.#held.unlinked(target, attr.fid);
          },
        },
      );
    });
  }

  rename(
    op: Caller,
    parent: Fid,
    name: Name,
    newParent: Fid,
    newName: Name,
    flags: number,
  ): MaybePromise<void> {
    const core = this.#core;
    const target = core.targets.of(parent);
    if (core.targets.of(newParent) !== target) throw new FsError('EXDEV', 'rename across targets');
    return core.pass(target, op, async () => {
      const whiteout = (flags & RENAME_WHITEOUT) === 0 ? undefined : await whiteoutOf(op, target);
      await target.call(
        'operation',
        Rename,
        { parent, name, newParent, newName, flags, ...whiteout },
        {
          signal: op.signal,
          apply: ({ reply }) => {
            const { attr, otherAttr, whiteoutAttr } = reply;
            core.applyAttr(target, attr);
            core.applyAttr(target, reply.parentAttr);
            core.applyAttr(target, reply.newParentAttr);
            if (otherAttr !== undefined) core.applyAttr(target, otherAttr);
            if (whiteoutAttr !== undefined) core.applyAttr(target, whiteoutAttr);
            if ((flags & RENAME_EXCHANGE) !== 0) {
              core.applyName(target, parent, name, otherAttr?.fid ?? 0);
              core.applyName(target, newParent, newName, attr.fid);
            } else if (!isDir(attr.mode) && attr.nlink > 1) {
              // Two names of one inode: then rename does nothing, and both stay.
              core.names.forget(parent, name);
              core.names.forget(newParent, newName);
            } else {
              core.applyName(target, parent, name, whiteoutAttr?.fid ?? 0);
              core.applyName(target, newParent, newName, attr.fid);
              if (otherAttr?.nlink === 0) this.#held.unlinked(target, otherAttr.fid);
            }
          },
        },
      );
    });
  }

  readdir(op: Caller, fh: Fh, cookie: number, limit: number, plus: boolean): MaybePromise<Listing> {
    const core = this.#core;
    const handle = core.handles.live(fh);
    if (!handle.directory) throw new FsError('ENOTDIR', `handle ${fh} is no directory's`);
    const { fid } = handle;
    const target = core.targets.of(fid);
    // Over is over until rewinddir: new names come last, so who makes one for each that it reads would never end.
    const over = this.#ends.get(fh);
    if (cookie !== 0 && cookie === over?.cookie) return { entries: [], end: true, parent: over.parent };
    return core.pass(
      target,
      op,
      async () => {
        if (handle.dead !== undefined) throw handle.dead;
        const want = core.wantParent(target, fid) | (plus ? WANT_ATTR | WANT_DATA_READ : 0);
        const { reply } = await target.call(
          'operation',
          Readdir,
          { fid, cookie, limit, plus, want },
          { signal: op.signal, apply: (answer) => this.#applyListing(target, fh, fid, cookie, answer.reply) },
        );
        this.#ends.delete(fh);
        const last = reply.entries.at(-1)?.cookie ?? cookie;
        if (reply.end) this.#ends.set(fh, { cookie: last, parent: reply.parent });
        return { entries: this.#entries(target, fid, reply), end: reply.end, parent: reply.parent };
      },
      handle,
    );
  }

  closed(fh: Fh): void {
    this.#scans.delete(fh);
    this.#ends.delete(fh);
  }

  #entries(target: Target, parent: Fid, reply: ReaddirReply): DirEntry[] {
    return reply.entries.map(({ name, fid, type, cookie, attr }) => {
      if (attr === undefined) return { name, fid, type, cookie };
      return { name, fid, type, cookie, known: this.#core.known(target, attr, parent) };
    });
  }

  /** A directory read from its beginning to its end under one lock is known whole. */
  #applyListing(target: Target, fh: Fh, fid: Fid, cookie: number, reply: ReaddirReply): void {
    const core = this.#core;
    core.applyGrants(target, reply.locks);
    for (const { attr } of reply.entries) if (attr !== undefined) core.applyAttr(target, attr);
    const scan = this.#scans.get(fh);
    this.#scans.delete(fh);
    const lock = target.locks.match('inode', fid, 'PR', BIT_UPDATE);
    if (lock === undefined) return;
    for (const entry of reply.entries) core.names.put(fid, entry.name, entry.fid);
    const gapless = cookie === 0 || (scan?.lock === lock && scan.cookie === cookie);
    if (!gapless) return;
    if (reply.end) core.names.setComplete(fid);
    else this.#scans.set(fh, { lock, cookie: reply.entries.at(-1)?.cookie ?? cookie });
  }
}

async function whiteoutOf(
  op: Caller,
  target: Target,
): Promise<{ whiteoutFid: Fid; uid: number; gid: number }> {
  return { whiteoutFid: await target.fids.take(), uid: op.uid, gid: op.gid };
}

/** What a CREATE brings, in its apply(). */
export function applyCreate(
  core: Core,
  target: Target,
  parent: Fid,
  name: Name | undefined,
  reply: ReplyOf<typeof Create>,
): void {
  const { attr } = reply;
  core.applyGrants(target, reply.locks);
  core.applyAttr(target, attr);
  if (reply.parentAttr !== undefined) core.applyAttr(target, reply.parentAttr);
  if (name !== undefined) core.applyName(target, parent, name, attr.fid);
  // Nobody but us could have put a name into it, and from now on nobody can without calling the lock back.
  const empty = !reply.existed && (attr.mode & S_IFMT) === S_IFDIR;
  if (empty && core.holdsNames(target, attr.fid)) core.names.setComplete(attr.fid);
  if (isRegular(attr.mode) && target.locks.holds('data', attr.fid)) core.files.of(attr.fid);
}
