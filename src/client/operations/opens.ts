/** open, create with open, close: the open-handle table and what goes with it. */

import { type Attr, isRegular, O_EXCL, O_TRUNC, opensForWrite } from '../../base/attr.js';
import { type Fh, type Fid, type Name, ROOT_FID } from '../../base/ids.js';
import { andThen, type MaybePromise } from '../../base/maybe_promise.js';
import { interruptible } from '../../base/wait.js';
import type { AttrsWithValidity, Caller, NewObject } from '../api.js';
import type { ClientContext } from '../cache/context.js';
import { reportWriteError } from '../cache/open_files.js';
import type { DataLocks } from '../io/io_lock.js';
import type { WriteBack } from '../io/write_back.js';
import { ACROSS_SESSIONS, type TargetSession } from '../session/target_session.js';
import type { LockOperations } from './app_locks.js';
import { freshFid, newObject } from './create.js';
import type { HeldInodes } from './held_inodes.js';
import type { LocalOpens } from './local_opens.js';
import type { NameOperations } from './names.js';
import type { Creation, Namespace } from './namespace.js';
import type { OwnNames } from './own_names.js';

const O_CREAT = 0o100;
/** Flags that act once, at open: a replayed open must not truncate again. */
const ONCE = O_TRUNC | O_EXCL | O_CREAT;

export class OpenOperations {
  readonly #context: ClientContext;
  readonly #names: NameOperations;
  readonly #appLocks: LockOperations;
  readonly #locks: DataLocks;
  readonly #writeBack: WriteBack;
  readonly #held: HeldInodes;
  readonly #namespace: Namespace;
  readonly #local: LocalOpens;
  readonly #own: OwnNames;

  constructor(
    context: ClientContext,
    namespace: Namespace,
    names: NameOperations,
    appLocks: LockOperations,
    locks: DataLocks,
    writeBack: WriteBack,
    held: HeldInodes,
    local: LocalOpens,
    own: OwnNames,
  ) {
    this.#own = own;
    this.#local = local;
    this.#held = held;
    this.#namespace = namespace;
    this.#context = context;
    this.#locks = locks;
    this.#names = names;
    this.#appLocks = appLocks;
    this.#writeBack = writeBack;
  }

  open(op: Caller, fid: Fid, flags: number): MaybePromise<Fh> {
    const context = this.#context;
    const target = context.targets.of(fid);
    // Whether this caller may read it, and locks on it, are matters of a target that checks them.
    const isAsked = target.squashesRoot && target.gate.isOpen;
    const isRoot = fid === ROOT_FID && !opensForWrite(flags) && !isAsked;
    const root = isRoot ? context.attrs.lastKnown(fid) : undefined;
    // Nobody can remove the root, so the target need not know that it is open. df(1) opens a mount point before it asks for its
    // space.
    if (root !== undefined)
      return context.handles.add(context.handles.newFh(), fid, flags, root, ACROSS_SESSIONS, 'never').fh;
    return context.pass(target, op, () => {
      if ((flags & O_TRUNC) === 0) {
        return this.#local.open(target, fid, flags & ~ONCE) ?? this.#open(op, target, fid, flags);
      }
      const file = context.files.of(fid);
      const cut = async (): Promise<Fh> => {
        // The truncate would only cut off what is dirty, so that is dropped; but no WRITE may come after the cut.
        context.dropPages(target, file);
        this.#writeBack.dropped(file);
        await ACROSS_SESSIONS.wait(this.#writeBack.flush(target, file));
        return this.#open(op, target, fid, flags);
      };
      const use = { op, life: ACROSS_SESSIONS, target, file };
      return this.#locks.exclusively(use, () => this.#locks.truncateUnderLock(use, 0, cut));
    });
  }

  async #open(op: Caller, target: TargetSession, fid: Fid, flags: number): Promise<Fh> {
    const context = this.#context;
    const fh = context.handles.newFh();
    const handle = new NewHandle(context, target, fh);
    const answered = this.#namespace.open(target, { fid, fh, flags }, op, (attr) =>
      handle.opened(attr, flags),
    );
    await ACROSS_SESSIONS.wait(handle.wait(answered));
    return fh;
  }

  createAndOpen(
    op: Caller,
    parent: Fid,
    name: Name | undefined,
    object: NewObject,
    flags: number,
  ): MaybePromise<{ readonly known: AttrsWithValidity; readonly fh: Fh }> {
    const context = this.#context;
    const target = context.targets.of(parent);
    const parentOfName = name === undefined ? undefined : parent;
    return context.pass(target, op, () =>
      andThen(freshFid(op, target), (fid) => {
        const made = newObject(op, fid, parent, name, object);
        const attr = this.#own.create(target, made);
        if (attr === undefined) return this.#createThere(op, target, made, flags);
        const fh = context.handles.newFh();
        context.handles.add(fh, fid, flags & ~ONCE, attr, target.session, 'covered');
        return { known: context.beliefs.withValidity(target, attr, parentOfName), fh };
      }),
    );
  }

  async #createThere(
    op: Caller,
    target: TargetSession,
    object: Omit<Creation, 'exclusive'>,
    flags: number,
  ): Promise<{ readonly known: AttrsWithValidity; readonly fh: Fh }> {
    const context = this.#context;
    const fh = context.handles.newFh();
    const handle = new NewHandle(context, target, fh);
    const created = { ...object, exclusive: (flags & O_EXCL) !== 0, fh, flags };
    const answered = this.#namespace.create(target, created, op, (attr) => handle.opened(attr, flags));
    const attr = await ACROSS_SESSIONS.wait(handle.wait(answered));
    const parentOfName = object.name === undefined ? undefined : object.parent;
    return { known: context.beliefs.withValidity(target, attr, parentOfName), fh };
  }

  /** close(2). Never parks: at a closed gate it changes our tables. The target learns of it when the gate opens, or need not. */
  flush(op: Caller, fh: Fh, owner: string): MaybePromise<void> {
    const context = this.#context;
    const handle = context.handles.get(fh);
    const target = context.targets.of(handle.fid);
    const file = context.files.get(handle.fid);
    const isWriter = file !== undefined && !handle.gone && opensForWrite(handle.flags);
    const written = isWriter ? this.#writeBack.closed(target, file) : undefined;
    const unlocked = this.#appLocks.closed(target, handle.fid, owner);
    if (unlocked === undefined && written === undefined) return reportWriteError(handle);
    return Promise.all([unlocked, written && interruptible(written, op.signal)]).then(() =>
      reportWriteError(handle),
    );
  }

  /** The last close. */
  release(fh: Fh, flockOwner: string | undefined): void {
    const context = this.#context;
    this.#names.closed(fh);
    const handle = context.handles.remove(fh);
    if (handle === undefined) return;
    const target = context.targets.of(handle.fid);
    if (!handle.gone) {
      if (flockOwner !== undefined) this.#appLocks.released(target, handle.fid, flockOwner);
      this.#held.closed(target, handle.fid);
      if (handle.known === 'yes') target.outgoing.close(fh);
    }
    context.forgetIfUnused(target, handle.fid);
  }
}

/** A handle between its request and its reply, whose caller may be interrupted meanwhile. */
class NewHandle {
  readonly #context: ClientContext;
  readonly #target: TargetSession;
  readonly #fh: Fh;
  #abandoned = false;
  #applied = false;

  constructor(context: ClientContext, target: TargetSession, fh: Fh) {
    this.#context = context;
    this.#target = target;
    this.#fh = fh;
  }

  /** The answer has come: the target holds the handle open. */
  opened(attr: Attr, flags: number): void {
    this.#applied = true;
    if (this.#abandoned) {
      this.#target.outgoing.close(this.#fh);
      return;
    }
    this.#context.handles.add(this.#fh, attr.fid, flags & ~ONCE, attr, this.#target.session);
    if (isRegular(attr.mode)) this.#context.files.of(attr.fid);
  }

  async wait<T>(call: Promise<T>): Promise<T> {
    try {
      return await ACROSS_SESSIONS.wait(call);
    } catch (error) {
      this.#abandoned = true;
      // The caller was interrupted in the turn in which the handle was opened.
      const handle = this.#applied ? this.#context.handles.remove(this.#fh) : undefined;
      if (handle !== undefined) {
        this.#target.outgoing.close(this.#fh);
        this.#context.forgetIfUnused(this.#target, handle.fid);
      }
      throw error;
    }
  }
}
