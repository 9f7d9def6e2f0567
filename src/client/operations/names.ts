/** Operations on names: lookup, create, link, unlink, rename, readdir. UPDATE locks keep names true (dentry_cache.ts). */

import { isDir, isSymlink } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fh, Fid, Name } from '../../base/ids.js';
import type { MaybePromise } from '../../base/maybe_promise.js';
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
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import type { AttrsWithValidity, Caller, DirEntry, FsClient, NewObject, NoEntry } from '../api.js';
import type { ClientContext } from '../cache/context.js';
import { ACROSS_SESSIONS, type TargetSession } from '../session/target_session.js';
import { applyCreate, newObject } from './create.js';
import type { HeldInodes } from './held_inodes.js';

type Listing = Awaited<ReturnType<FsClient['readdir']>>;
type ReaddirReply = ReplyOf<typeof Readdir>;

/** How far a handle has read its directory under one and the same lock. */
interface Scan {
  readonly lock: CachedLock;
  readonly cookie: number;
}

export class NameOperations {
  readonly #context: ClientContext;
  readonly #held: HeldInodes;
  readonly #scans = new Map<Fh, Scan>();
  /** Where handles have seen the end of their directory. */
  readonly #ends = new Map<Fh, { readonly cookie: number; readonly parent: Fid }>();

  constructor(context: ClientContext, held: HeldInodes) {
    this.#context = context;
    this.#held = held;
  }

  lookup(op: Caller, parent: Fid, name: Name): MaybePromise<AttrsWithValidity | NoEntry> {
    const context = this.#context;
    const target = context.targets.of(parent);
    const cached = context.names.get(parent, name);
    if (cached === 0) return { attr: null, nameCacheable: context.beliefs.holdsNames(target, parent) };
    if (cached !== undefined) {
      const attr = context.attrs.get(cached);
      const known =
        attr === undefined
          ? undefined
          : context.beliefs.withValidity(context.targets.of(cached), attr, parent);
      if (known?.attrCacheable) return known;
    }
    return context.pass(target, op, async () => {
      const want = context.beliefs.wantParent(target, parent) | WANT_ATTR | WANT_DATA_READ;
      const answer = await ACROSS_SESSIONS.wait(
        target.call(
          'operation',
          Lookup,
          { parent, name, want },
          {
            signal: op.signal,
            apply: ({ reply }) => {
              const { locks, attr } = reply;
              const inodes = attr === undefined ? [] : [attr];
              context.beliefs.applyGrants(target, { want, parent, inodes }, locks);
              if (reply.attr !== undefined) context.beliefs.applyAttr(target, reply.attr);
              context.beliefs.applyName(target, parent, name, reply.attr?.fid ?? 0);
            },
          },
        ),
      );
      const { attr } = answer.reply;
      if (attr !== undefined) return context.beliefs.withValidity(target, attr, parent);
      return { attr: null, nameCacheable: context.beliefs.holdsNames(target, parent) };
    });
  }

  create(op: Caller, parent: Fid, name: Name, object: NewObject): MaybePromise<AttrsWithValidity> {
    const context = this.#context;
    const target = context.targets.of(parent);
    if (object.linkText !== undefined && object.linkText.length > SYMLINK_MAX)
      throw new FsError('ENAMETOOLONG');
    // The caller's bytes are valid only in this turn.
    const linkText = object.linkText === undefined ? undefined : Buffer.from(object.linkText);
    return context.pass(target, op, async () => {
      const made = await ACROSS_SESSIONS.wait(newObject(op, target, parent, name, { ...object, linkText }));
      const want = context.beliefs.wantParent(target, parent) | WANT_ATTR;
      const request = { ...made, exclusive: true, want };
      const answer = await ACROSS_SESSIONS.wait(
        target.call('operation', Create, request, {
          signal: op.signal,
          apply: ({ reply }) => {
            applyCreate(context, target, request, reply);
            if (linkText !== undefined && isSymlink(reply.attr.mode))
              context.attrs.putSymlinkTarget(made.fid, linkText);
          },
        }),
      );
      return context.beliefs.withValidity(target, answer.reply.attr, parent);
    });
  }

  link(op: Caller, fid: Fid, parent: Fid, name: Name): MaybePromise<AttrsWithValidity> {
    const context = this.#context;
    const target = context.targets.of(parent);
    if (context.targets.of(fid) !== target) throw new FsError('EXDEV', 'link across targets');
    return context.pass(target, op, async () => {
      const answer = await ACROSS_SESSIONS.wait(
        target.call(
          'operation',
          Link,
          { fid, parent, name },
          {
            signal: op.signal,
            apply: ({ reply }) => {
              context.beliefs.applyAttr(target, reply.attr);
              context.beliefs.applyAttr(target, reply.parentAttr);
              context.beliefs.applyName(target, parent, name, reply.attr.fid);
            },
          },
        ),
      );
      return context.beliefs.withValidity(target, answer.reply.attr, parent);
    });
  }

  unlink(op: Caller, parent: Fid, name: Name, directory: boolean): MaybePromise<void> {
    const context = this.#context;
    const target = context.targets.of(parent);
    return context.pass(target, op, async () => {
      await ACROSS_SESSIONS.wait(
        target.call(
          'operation',
          Unlink,
          { parent, name, directory },
          {
            signal: op.signal,
            apply: ({ reply }) => {
              const { attr } = reply;
              context.beliefs.applyAttr(target, attr);
              context.beliefs.applyAttr(target, reply.parentAttr);
              context.beliefs.applyName(target, parent, name, 0);
              if (directory || attr.nlink === 0) this.#held.unlinked(target, attr.fid);
            },
          },
        ),
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
    const context = this.#context;
    const target = context.targets.of(parent);
    if (context.targets.of(newParent) !== target) throw new FsError('EXDEV', 'rename across targets');
    return context.pass(target, op, async () => {
      const whiteout =
        (flags & RENAME_WHITEOUT) === 0 ? undefined : await ACROSS_SESSIONS.wait(whiteoutOf(op, target));
      await ACROSS_SESSIONS.wait(
        target.call(
          'operation',
          Rename,
          { parent, name, newParent, newName, flags, ...whiteout },
          {
            signal: op.signal,
            apply: ({ reply }) => {
              const { attr, otherAttr, whiteoutAttr } = reply;
              context.beliefs.applyAttr(target, attr);
              context.beliefs.applyAttr(target, reply.parentAttr);
              context.beliefs.applyAttr(target, reply.newParentAttr);
              if (otherAttr !== undefined) context.beliefs.applyAttr(target, otherAttr);
              if (whiteoutAttr !== undefined) context.beliefs.applyAttr(target, whiteoutAttr);
              if ((flags & RENAME_EXCHANGE) !== 0) {
                context.beliefs.applyName(target, parent, name, otherAttr?.fid ?? 0);
                context.beliefs.applyName(target, newParent, newName, attr.fid);
              } else if (!isDir(attr.mode) && attr.nlink > 1) {
                // Both may be names of one inode: then rename does nothing, and both stay.
                context.names.forget(parent, name);
                context.names.forget(newParent, newName);
              } else {
                context.beliefs.applyName(target, parent, name, whiteoutAttr?.fid ?? 0);
                context.beliefs.applyName(target, newParent, newName, attr.fid);
                if (otherAttr?.nlink === 0) this.#held.unlinked(target, otherAttr.fid);
              }
            },
          },
        ),
      );
    });
  }

  readdir(op: Caller, fh: Fh, cookie: number, limit: number, plus: boolean): MaybePromise<Listing> {
    const context = this.#context;
    const handle = context.handles.live(fh);
    if (!handle.directory) throw new FsError('ENOTDIR', `handle ${fh} is not of a directory`);
    const { fid } = handle;
    const target = context.targets.of(fid);
    // A handle at the end stays there until rewinddir. New names come last: a program that makes a name for each name that it
    // reads would never end.
    const over = this.#ends.get(fh);
    if (cookie !== 0 && cookie === over?.cookie) return { entries: [], end: true, parent: over.parent };
    return context.pass(
      target,
      op,
      async () => {
        handle.life.check();
        const want = context.beliefs.wantParent(target, fid) | (plus ? WANT_ATTR | WANT_DATA_READ : 0);
        const { reply } = await handle.life.wait(
          target.call(
            'operation',
            Readdir,
            { fid, cookie, limit, plus, want },
            {
              signal: op.signal,
              apply: (answer) => this.#applyListing(target, fh, { fid, cookie, want }, answer.reply),
            },
          ),
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

  #entries(target: TargetSession, parent: Fid, reply: ReaddirReply): DirEntry[] {
    return reply.entries.map(({ name, fid, type, cookie, attr }) => {
      if (attr === undefined) return { name, fid, type, cookie };
      return { name, fid, type, cookie, known: this.#context.beliefs.withValidity(target, attr, parent) };
    });
  }

  /** Applies a part of a listing. The client knows a directory whole if it has read it from beginning to end under one lock. */
  #applyListing(
    target: TargetSession,
    fh: Fh,
    { fid, cookie, want }: Pick<RequestOf<typeof Readdir>, 'fid' | 'cookie' | 'want'>,
    reply: ReaddirReply,
  ): void {
    const context = this.#context;
    // The server may grant a lock on an entry without attributes too; the type of an entry is always there.
    const inodes = reply.entries.map((entry) => ({ fid: entry.fid, mode: entry.type }));
    context.beliefs.applyGrants(target, { want, parent: fid, inodes }, reply.locks);
    for (const { attr } of reply.entries) if (attr !== undefined) context.beliefs.applyAttr(target, attr);
    const scan = this.#scans.get(fh);
    this.#scans.delete(fh);
    const lock = target.locks.match('inode', fid, 'PR', BIT_UPDATE);
    if (lock === undefined) return;
    for (const entry of reply.entries) context.names.put(fid, entry.name, entry.fid);
    const gapless = cookie === 0 || (scan?.lock === lock && scan.cookie === cookie);
    if (!gapless) return;
    if (reply.end) context.names.setComplete(fid);
    else this.#scans.set(fh, { lock, cookie: reply.entries.at(-1)?.cookie ?? cookie });
  }
}

async function whiteoutOf(
  op: Caller,
  target: TargetSession,
): Promise<{ whiteoutFid: Fid; uid: number; gid: number }> {
  return { whiteoutFid: await ACROSS_SESSIONS.wait(target.fids.take()), uid: op.uid, gid: op.gid };
}
