/**
 * Operations on names: lookup, create, link, unlink, rename, readdir. UPDATE locks keep names true (dentry_cache.ts). What the
 * caches do not know, the namespace answers.
 */

import { FsError } from '../../base/errno.js';
import type { Fh, Fid, Name } from '../../base/ids.js';
import { andThen, type MaybePromise } from '../../base/maybe_promise.js';
import { interruptible } from '../../base/wait.js';
import { RENAME_WHITEOUT, type Readdir, type Rename, SYMLINK_MAX } from '../../wire/meta.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import type { AttrsWithValidity, Caller, DirEntry, FsClient, NewObject, NoEntry } from '../api.js';
import type { ClientContext } from '../cache/context.js';
import type { WriteBack } from '../io/write_back.js';
import { ACROSS_SESSIONS, type TargetSession } from '../session/target_session.js';
import { freshFid, newObject } from './create.js';
import { ABSENT_NAMES, LOOKUPS, LookupAhead } from './lookup_ahead.js';
import type { Namespace } from './namespace.js';
import type { OwnNames } from './own_names.js';

interface ChangedName {
  readonly parent: Fid;
  readonly name: Name;
}

type Listing = Awaited<ReturnType<FsClient['readdir']>>;

export class NameOperations {
  readonly #context: ClientContext;
  readonly #namespace: Namespace;
  readonly #own: OwnNames;
  readonly #ahead: LookupAhead;
  readonly #changesAhead: LookupAhead;
  readonly #absentAhead: LookupAhead;
  readonly #writeBack: WriteBack;
  /** Where handles have seen the end of their directory. */
  readonly #ends = new Map<Fh, { readonly cookie: number; readonly parent: Fid }>();

  constructor(
    context: ClientContext,
    namespace: Namespace,
    own: OwnNames,
    changesAhead: LookupAhead,
    writeBack: WriteBack,
  ) {
    this.#writeBack = writeBack;
    this.#context = context;
    this.#ahead = new LookupAhead(context, namespace, LOOKUPS);
    this.#absentAhead = new LookupAhead(context, namespace, ABSENT_NAMES);
    this.#changesAhead = changesAhead;
    this.#own = own;
    this.#namespace = namespace;
  }

  lookup(op: Caller, parent: Fid, name: Name): MaybePromise<AttrsWithValidity | NoEntry> {
    const context = this.#context;
    const target = context.targets.of(parent);
    const cached = this.#cached(target, parent, name);
    if (cached !== undefined) {
      context.uses.names.hit += 1;
      return cached;
    }
    context.uses.names.miss += 1;
    return context.pass(target, op, async () => {
      const ahead = this.#ahead.miss(target, parent, op);
      if (ahead !== undefined) {
        await ACROSS_SESSIONS.wait(interruptible(ahead, op.signal));
        const known = this.#cached(target, parent, name);
        if (known !== undefined) return known;
      }
      const looked = { parent, name, contents: context.smallReads.areUsual(parent) };
      const attr = await ACROSS_SESSIONS.wait(this.#namespace.lookup(target, looked, op));
      if (attr === undefined) {
        const absent = this.#own.owns(target, parent)
          ? this.#absentAhead.miss(target, parent, op)
          : undefined;
        if (absent !== undefined) await ACROSS_SESSIONS.wait(interruptible(absent, op.signal));
        return { attr: null, nameCacheable: context.beliefs.holdsNames(target, parent) };
      }
      context.parents.saw(parent, attr.fid);
      return context.beliefs.withValidity(target, attr, parent);
    });
  }

  /** What the caches say of the name; undefined if the target must be asked. */
  #cached(target: TargetSession, parent: Fid, name: Name): AttrsWithValidity | NoEntry | undefined {
    const { names, attrs, beliefs } = this.#context;
    const fid = names.get(parent, name);
    if (fid === 0) {
      this.#absentAhead.hit(parent);
      return { attr: null, nameCacheable: beliefs.holdsNames(target, parent) };
    }
    const attr = fid === undefined ? undefined : attrs.get(fid);
    if (fid === undefined || attr === undefined) return undefined;
    const known = beliefs.withValidity(this.#context.targets.of(fid), attr, parent);
    if (!known.attrCacheable) return undefined;
    this.#ahead.hit(parent);
    this.#context.parents.saw(parent, fid);
    return known;
  }

  create(op: Caller, parent: Fid, name: Name, object: NewObject): MaybePromise<AttrsWithValidity> {
    const context = this.#context;
    const target = context.targets.of(parent);
    if (object.linkText !== undefined && object.linkText.length > SYMLINK_MAX)
      throw new FsError('ENAMETOOLONG');
    // The caller's bytes are valid only in this turn.
    const linkText = object.linkText === undefined ? undefined : Buffer.from(object.linkText);
    return context.pass(target, op, () =>
      andThen(freshFid(op, target), (fid) => {
        const made = newObject(op, fid, parent, name, { ...object, linkText });
        const attr =
          this.#own.create(target, made) ?? this.#namespace.create(target, { ...made, exclusive: true }, op);
        return andThen(attr, (known) => context.beliefs.withValidity(target, known, parent));
      }),
    );
  }

  link(op: Caller, fid: Fid, parent: Fid, name: Name): MaybePromise<AttrsWithValidity> {
    const context = this.#context;
    const target = context.targets.of(parent);
    if (context.targets.of(fid) !== target) throw new FsError('EXDEV', 'link across targets');
    return context.pass(target, op, async () => {
      const written = this.#writtenFirst(target, fid);
      if (written !== undefined) await ACROSS_SESSIONS.wait(interruptible(written, op.signal));
      const attr = await ACROSS_SESSIONS.wait(this.#namespace.link(target, { fid, parent, name }, op));
      return context.beliefs.withValidity(target, attr, parent);
    });
  }

  unlink(op: Caller, parent: Fid, name: Name, directory: boolean): MaybePromise<void> {
    const target = this.#context.targets.of(parent);
    const removed = { parent, name, directory };
    return this.#context.pass(target, op, () =>
      this.#change(
        op,
        target,
        [{ parent, name }],
        () => this.#own.unlink(target, removed),
        () => this.#namespace.unlink(target, removed, op),
      ),
    );
  }

  /**
   * A change of these names: the client makes it by itself, or asks the target. A client that had to ask several times reads the
   * directory ahead.
   * @param here makes it here. @returns false: the target must be asked.
   */
  #change(
    op: Caller,
    target: TargetSession,
    changed: readonly ChangedName[],
    here: () => boolean,
    there: () => Promise<void>,
  ): MaybePromise<void> {
    if (here()) {
      for (const { parent } of changed) this.#changesAhead.hit(parent);
      return undefined;
    }
    const lacking = changed.filter(({ parent, name }) => this.#own.lacksLock(target, parent, name));
    const parents = new Set(lacking.map(({ parent }) => parent));
    const ahead = [...parents].flatMap((parent) => this.#changesAhead.miss(target, parent, op) ?? []);
    if (ahead.length === 0) return there();
    return ACROSS_SESSIONS.wait(interruptible(Promise.all(ahead), op.signal)).then(() =>
      here() ? undefined : there(),
    );
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
    const move = { parent, name, newParent, newName, flags };
    const changed = [
      { parent, name },
      { parent: newParent, name: newName },
    ];
    return context.pass(target, op, () =>
      this.#change(
        op,
        target,
        changed,
        () => this.#own.rename(target, move),
        () => this.#rename(op, target, move),
      ),
    );
  }

  async #rename(op: Caller, target: TargetSession, move: RequestOf<typeof Rename>): Promise<void> {
    const { flags } = move;
    const written = this.#writtenFirst(target, this.#context.names.get(move.parent, move.name) || undefined);
    if (written !== undefined) await ACROSS_SESSIONS.wait(interruptible(written, op.signal));
    const whiteoutFid =
      (flags & RENAME_WHITEOUT) === 0 ? undefined : await ACROSS_SESSIONS.wait(freshFid(op, target));
    const owner = whiteoutFid === undefined ? undefined : { uid: op.uid, gid: op.gid };
    const names = { ...move, whiteoutFid, ...owner };
    await ACROSS_SESSIONS.wait(this.#namespace.rename(target, names, op));
  }

  /**
   * A program that writes a file and then gives it its name counts on it that nobody sees a short file under that name, whatever
   * happens: what is dirty of the file is written before.
   */
  #writtenFirst(target: TargetSession, fid: Fid | undefined): Promise<void> | undefined {
    const file = fid === undefined ? undefined : this.#context.files.get(fid);
    return file === undefined ? undefined : this.#writeBack.flush(target, file);
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
        const part = { fh, fid, cookie, limit, plus };
        const reply = await handle.life.wait(this.#namespace.readdir(target, part, op));
        this.#ends.delete(fh);
        const last = reply.entries.at(-1)?.cookie ?? cookie;
        if (reply.end) this.#ends.set(fh, { cookie: last, parent: reply.parent });
        return { entries: this.#entries(target, fid, reply), end: reply.end, parent: reply.parent };
      },
      handle,
    );
  }

  closed(fh: Fh): void {
    this.#namespace.closed(fh);
    this.#ends.delete(fh);
  }

  #entries(target: TargetSession, parent: Fid, reply: ReplyOf<typeof Readdir>): DirEntry[] {
    return reply.entries.map(({ name, fid, type, cookie, attr }) => {
      if (attr === undefined) return { name, fid, type, cookie };
      this.#context.parents.saw(parent, fid);
      return { name, fid, type, cookie, known: this.#context.beliefs.withValidity(target, attr, parent) };
    });
  }
}
