/** Operations on one inode: attributes, symlink targets, extended attributes, statfs. */

import { type Attr, SET_ID_BITS } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import { type Fid, ROOT_FID } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import { andThen, isPromise, type MaybePromise } from '../../base/maybe_promise.js';
import { interruptible } from '../../base/wait.js';
import { checkXattrName } from '../../rules/xattr.js';
import type { StatfsMessage } from '../../wire/meta.js';
import type { AttrChange, AttrsWithValidity, Caller } from '../api.js';
import type { ClientContext } from '../cache/context.js';
import type { FileUse } from '../io/file_use.js';
import type { DataLocks } from '../io/io_lock.js';
import type { WriteBack } from '../io/write_back.js';
import { isRefusal, uninterrupted } from '../session/callers.js';
import { ACROSS_SESSIONS, type TargetSession } from '../session/target_session.js';
import type { LookupAhead } from './lookup_ahead.js';
import type { Namespace } from './namespace.js';
import type { OwnNames } from './own_names.js';

const log = logger('client:attrs');

/** Made once: programs ask each file for ACLs, and the stack of an error takes longer than the rest of the answer. */
const NO_SUCH_XATTR = new FsError('ENODATA');

/** After this time the client answers a question about the root as last known: a stat of the mount point takes no second. */
const SOON_MS = 500;

export class AttrOperations {
  readonly #context: ClientContext;
  readonly #locks: DataLocks;
  readonly #writeBack: WriteBack;
  readonly #namespace: Namespace;
  readonly #own: OwnNames;
  readonly #changesAhead: LookupAhead;

  constructor(
    context: ClientContext,
    namespace: Namespace,
    own: OwnNames,
    changesAhead: LookupAhead,
    locks: DataLocks,
    writeBack: WriteBack,
  ) {
    this.#context = context;
    this.#own = own;
    this.#changesAhead = changesAhead;
    this.#namespace = namespace;
    this.#locks = locks;
    this.#writeBack = writeBack;
  }

  getattr(op: Caller, fid: Fid): MaybePromise<AttrsWithValidity> {
    const context = this.#context;
    const target = context.targets.of(fid);
    const cached = context.beliefs.cachedAttr(target, fid);
    if (cached !== undefined) {
      context.uses.attributes.hit += 1;
      return cached;
    }
    context.uses.attributes.miss += 1;
    const lastKnown = (): AttrsWithValidity | undefined => {
      const attr = context.attrs.lastKnown(fid);
      return attr === undefined ? undefined : { attr, attrCacheable: false, nameCacheable: false };
    };
    if (fid === ROOT_FID && !target.gate.isOpen) {
      // Monitoring tools ask for the root all the time, and df(1) asks for it before it asks for the space.
      const known = lastKnown();
      if (known !== undefined) return known;
    }
    const answered = context.pass(target, op, async () => {
      const attr = await ACROSS_SESSIONS.wait(this.#namespace.getattr(target, fid, op, true));
      return context.beliefs.withValidity(target, attr, undefined);
    });
    return fid === ROOT_FID ? this.#soon(answered, lastKnown) : answered;
  }

  /**
   * With every write and O_TRUNC of a caller without CAP_FSETID, the kernel asks the client to clear set-id bits; few files have
   * such bits. Only attributes under a lock can say that there are none: another client may set them.
   */
  mayHaveSetId(op: Caller, fid: Fid): boolean {
    const known = this.getattr(op, fid);
    if (isPromise(known)) {
      // Not awaited: this request is done the long way, and the next write finds the attributes in the cache.
      known.catch((thrown) => log('attributes of %d: %O', fid, thrown));
      return true;
    }
    return !known.attrCacheable || (known.attr.mode & SET_ID_BITS) !== 0;
  }

  /**
   * The server's answer about the root, or after a moment the last known one. A server may be silent for a long time before
   * its client knows that it is away, and a process that lists the folder above a mount must not wait for it.
   */
  #soon<T>(answered: MaybePromise<T>, lastKnown: () => MaybePromise<T> | undefined): MaybePromise<T> {
    if (!isPromise(answered)) return answered;
    return new Promise((resolve, reject) => {
      const timer = this.#context.runtime.timers.after(SOON_MS, () => {
        const known = lastKnown();
        if (known !== undefined) resolve(known);
      });
      answered.then(resolve, reject).finally(() => timer.cancel());
    });
  }

  /**
   * Learns what #soon() answers from, before the mount is visible. It takes no lock: a mount that nobody uses must not be in the
   * way of other clients, for which the server would have to call its lock back.
   */
  async learnRoot(op: Caller): Promise<void> {
    const target = this.#context.targets.of(ROOT_FID);
    const asked = this.#namespace.getattr(target, ROOT_FID, op, false);
    const [names] = await ACROSS_SESSIONS.wait(
      Promise.all([this.listxattr(op, ROOT_FID), asked, this.statfs(op)]),
    );
    const values = names.map(async (name) => {
      const known = this.getxattr(op, ROOT_FID, name);
      return [
        name,
        await ACROSS_SESSIONS.wait(target.squashesRoot ? unlessForbidden(known) : known),
      ] as const;
    });
    const known = await ACROSS_SESSIONS.wait(Promise.all(values));
    target.rootXattrs = new Map(
      known.flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
    );
  }

  setattr(op: Caller, fid: Fid, change: AttrChange): MaybePromise<AttrsWithValidity> {
    const context = this.#context;
    const target = context.targets.of(fid);
    const handle = change.fh === undefined ? undefined : context.handles.live(change.fh);
    const life = handle?.life ?? ACROSS_SESSIONS;
    const run = (): MaybePromise<AttrsWithValidity> => {
      life.check();
      const attr = this.#setattrHere(target, fid, change) ?? askTarget();
      return andThen(attr, (known) => context.beliefs.withValidity(target, known, undefined));
    };
    const askTarget = async (): Promise<Attr> => {
      const ahead = this.#ahead(op, target, fid, change);
      if (ahead !== undefined) {
        await life.wait(interruptible(ahead, op.signal));
        const here = this.#setattrHere(target, fid, change);
        if (here !== undefined) return here;
      }
      const timed = change.mtime !== undefined || change.atime !== undefined || change.ctime !== undefined;
      const file = context.files.get(fid);
      let attr: Attr;
      if (change.sizeBytes !== undefined) {
        const use = { op, life, target, file: file ?? context.files.of(fid) };
        attr = await life.wait(this.#truncate(use, change, change.sizeBytes));
      } else if (timed && file !== undefined) {
        // Flushes first: a WRITE that came after the SETATTR would set the times once more.
        const flushFirst = async (): Promise<Attr> => {
          await life.wait(this.#writeBack.flush(target, file));
          return this.#namespace.setattr(target, fid, change, true, uninterrupted(op));
        };
        attr = await life.wait(this.#locks.exclusively({ op, life, target, file }, flushFirst));
      } else {
        attr = await life.wait(this.#namespace.setattr(target, fid, change, false, op));
      }
      return attr;
    };
    return context.pass(target, op, run, handle);
  }

  #setattrHere(target: TargetSession, fid: Fid, change: AttrChange): Attr | undefined {
    const attr = this.#own.setattr(target, fid, change);
    const parent = attr === undefined ? undefined : this.#context.parents.of(fid);
    if (parent !== undefined) this.#changesAhead.hit(parent);
    return attr;
  }

  /** The target has to make the change. @returns see LookupAhead.miss */
  #ahead(op: Caller, target: TargetSession, fid: Fid, { sizeBytes }: AttrChange): Promise<void> | undefined {
    const parent = this.#context.parents.of(fid);
    if (parent === undefined || sizeBytes !== undefined || !this.#own.lacksOwn(target, fid)) return undefined;
    return this.#changesAhead.miss(target, parent, op);
  }

  #truncate(use: FileUse, change: AttrChange, size: number): Promise<Attr> {
    const { op, life, target, file } = use;
    const cut = async (): Promise<Attr> => {
      this.#context.dropPages(target, file, size);
      this.#writeBack.dropped(file);
      // WRITEs under way could come after the cut and extend the file again.
      await life.wait(this.#writeBack.flush(target, file));
      return this.#namespace.setattr(target, file.fid, change, true, uninterrupted(op));
    };
    return this.#locks.exclusively(use, () => this.#locks.truncateUnderLock(use, size, cut));
  }

  readlink(op: Caller, fid: Fid): MaybePromise<Uint8Array> {
    const context = this.#context;
    const cached = context.attrs.symlinkTarget(fid);
    if (cached !== undefined) return cached;
    const target = context.targets.of(fid);
    return context.pass(target, op, () => this.#namespace.readlink(target, fid, op));
  }

  getxattr(op: Caller, fid: Fid, name: string): MaybePromise<Uint8Array> {
    const target = this.#context.targets.of(fid);
    if (this.#context.beliefs.lacksXattrs(target, fid)) {
      checkXattrName(name);
      throw NO_SUCH_XATTR;
    }
    const known = fid === ROOT_FID ? target.rootXattrs : undefined;
    if (known !== undefined && !target.gate.isOpen) return rootXattr(known, name);
    const answered = this.#context.pass(target, op, () => this.#namespace.getxattr(target, fid, name, op));
    return known === undefined ? answered : this.#soon(answered, async () => rootXattr(known, name));
  }

  setxattr(
    op: Caller,
    fid: Fid,
    name: string,
    value: Uint8Array,
    flags: number,
    killSgid: boolean,
  ): MaybePromise<void> {
    const target = this.#context.targets.of(fid);
    // The caller's bytes are valid only in this turn.
    const request = { fid, name, value: Buffer.from(value), flags, killSgid: killSgid ? true : undefined };
    return this.#context.pass(target, op, () => this.#namespace.setxattr(target, request, op));
  }

  listxattr(op: Caller, fid: Fid): MaybePromise<readonly string[]> {
    const target = this.#context.targets.of(fid);
    if (this.#context.beliefs.lacksXattrs(target, fid)) return [];
    const known = fid === ROOT_FID ? target.rootXattrs : undefined;
    if (known !== undefined && !target.gate.isOpen) return [...known.keys()];
    const answered = this.#context.pass(target, op, () => this.#namespace.listxattr(target, fid, op));
    return known === undefined ? answered : this.#soon(answered, () => [...known.keys()]);
  }

  removexattr(op: Caller, fid: Fid, name: string): MaybePromise<void> {
    const target = this.#context.targets.of(fid);
    return this.#context.pass(target, op, () => this.#namespace.removexattr(target, fid, name, op));
  }

  /** Asks the root's target. While its gate is not open: the last known answer. */
  statfs(op: Caller): MaybePromise<StatfsMessage> {
    const target = this.#context.targets.of(ROOT_FID);
    if (!target.gate.isOpen && target.lastStatfs !== undefined) return target.lastStatfs;
    const answered = this.#context.pass(target, op, () => this.#namespace.statfs(target, op));
    return this.#soon(answered, () => target.lastStatfs);
  }
}

/** Root may not see all attributes of the root either. */
async function unlessForbidden(known: MaybePromise<Uint8Array>): Promise<Uint8Array | undefined> {
  try {
    return await ACROSS_SESSIONS.wait(Promise.resolve(known));
  } catch (error) {
    if (isRefusal(error) || (error instanceof FsError && error.code === 'ENODATA')) return undefined;
    throw error;
  }
}

/** @throws FsError ENODATA */
function rootXattr(known: ReadonlyMap<string, Uint8Array>, name: string): Uint8Array {
  const value = known.get(name);
  if (value === undefined) throw new FsError('ENODATA', `the root was last seen without ${name}`);
  return value;
}
