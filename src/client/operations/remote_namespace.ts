/**
 * The namespace of the server: one RPC for each call. The reply is applied to the caches in the turn in which it arrives, so
 * that the caches follow the order of the frames.
 *
 * While a change is under way here, the client changes nothing of what it touches by itself (ChangeLog.pin). An inode that gets a
 * second name, or may get a name in a directory that is not ours, is private no more from the moment at which the request leaves.
 */

import {
  type Attr,
  accessOf,
  isDir,
  isRegular,
  isSymlink,
  O_TRUNC,
  opensForWrite,
  S_IFDIR,
  S_IFMT,
  S_ISGID,
} from '../../base/attr.js';
import { type Fh, type Fid, type Name, ROOT_FID } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import { interruptible } from '../../base/wait.js';
import type { CachedLock } from '../../dlm/api.js';
import { ACL_ACCESS } from '../../rules/acl.js';
import { CopyRange, Fallocate, Write } from '../../wire/data.js';
import { BIT_UPDATE } from '../../wire/lock.js';
import {
  Create,
  Getattr,
  Getxattr,
  Link,
  Listxattr,
  Lookup,
  Open,
  RENAME_EXCHANGE,
  Readdir,
  Readlink,
  Removexattr,
  Rename,
  Setattr,
  Setxattr,
  Statfs,
  type StatfsMessage,
  Unlink,
  WANT_ATTR,
  WANT_CONTENT,
  WANT_DATA_READ,
  WANT_DATA_WRITE,
  WANT_OWN,
  WANT_OWN_FILES,
  WANT_OWN_PARENT,
} from '../../wire/meta.js';
import type { Operation, ReplyOf, RequestOf } from '../../wire/operation.js';
import type { AttrChange } from '../api.js';
import type { ClientContext } from '../cache/context.js';
import { callAs } from '../session/callers.js';
import { OWN_BITS } from '../session/own_directories.js';
import { ACROSS_SESSIONS, type TargetSession } from '../session/target_session.js';
import type { HeldInodes } from './held_inodes.js';
import type { LocalOpens } from './local_opens.js';
import {
  type By,
  type Creation,
  changesOf,
  type Listing,
  type LookedUp,
  type Namespace,
  type Opened,
  type Opening,
} from './namespace.js';

/** What replies to changes tell of inodes. */
interface Told {
  readonly attr?: Attr;
  readonly parentAttr?: Attr;
  readonly newParentAttr?: Attr;
  readonly otherAttr?: Attr;
}

const log = logger('client:namespace');

type ReaddirReply = ReplyOf<typeof Readdir>;

/** How far a handle has read its directory under one and the same lock, with all names that it has read in the cache. */
interface Scan {
  readonly lock: CachedLock;
  readonly cookie: number;
  readonly content: object | undefined;
}

export class RemoteNamespace implements Namespace {
  readonly #context: ClientContext;
  readonly #held: HeldInodes;
  readonly #local: LocalOpens;
  readonly #scans = new Map<Fh, Scan>();

  constructor(context: ClientContext, held: HeldInodes, local: LocalOpens) {
    this.#context = context;
    this.#held = held;
    this.#local = local;
  }

  /**
   * @param apply applies the reply in its turn.
   * @param needsGroups see CallAs.
   * @param ended called when the request has ended, which may be long after its caller was interrupted.
   */
  async #ask<Q, R>(
    target: TargetSession,
    operation: Operation<Q, R>,
    request: Q,
    asker: By,
    apply: (reply: R) => void,
    ended?: () => void,
    needsGroups?: boolean,
  ): Promise<R> {
    const signal = asker?.signal;
    const options = {
      kind: 'operation',
      needsGroups,
      apply: ({ reply }: { readonly reply: R }) => {
        apply(reply);
        if (operation.modifies && signal?.aborted === true) this.#tellKernel(reply as Told);
      },
    } as const;
    const { groupsOf } = this.#context.options;
    const answered = callAs(target, asker, groupsOf, operation, request, options);
    if (ended !== undefined) answered.then(ended, ended);
    const waited = signal === undefined ? answered : interruptible(answered, signal);
    return (await ACROSS_SESSIONS.wait(waited)).reply;
  }

  /**
   * An operation whose caller was interrupted has taken effect. The kernel was told of EINTR, and goes on to believe what it knew
   * before: that there is no such name, above all.
   */
  #tellKernel({ attr, parentAttr, newParentAttr, otherAttr }: Told): void {
    const { kernel } = this.#context;
    const waits = [kernel.dropNames()];
    for (const each of [attr, parentAttr, newParentAttr, otherAttr]) {
      const dropped = each === undefined ? undefined : kernel.dropAttrs(each.fid);
      if (dropped !== undefined) waits.push(dropped);
    }
    // Not awaited: nobody waits for the operation any more.
    Promise.all(waits).catch((error: unknown) => log('after an interrupt: %O', error));
  }

  // Names.

  async lookup(target: TargetSession, looked: LookedUp, asker: By): Promise<Attr | undefined> {
    const { beliefs } = this.#context;
    const { parent, name, contents } = looked;
    const want =
      beliefs.wantParent(target, parent) |
      WANT_ATTR |
      WANT_DATA_READ |
      (contents === true ? WANT_CONTENT : 0) |
      (target.ownFilesUsed && owns(target, parent) ? WANT_OWN_FILES : 0);
    const request = { parent, name, want };
    const { attr } = await ACROSS_SESSIONS.wait(
      this.#ask(target, Lookup, request, asker, (reply) => {
        const inodes = reply.attr === undefined ? [] : [reply.attr];
        beliefs.applyGrants(target, { want, parent, inodes }, reply.locks);
        if (reply.attr !== undefined) beliefs.applyAttr(target, reply.attr);
        if (reply.attr !== undefined) this.#applyContent(target, reply.attr, reply.content);
        beliefs.applyName(target, parent, name, reply.attr?.fid ?? 0);
      }),
    );
    return attr;
  }

  async readdir(
    target: TargetSession,
    { fh, contents, owns: wantsOwn, ...part }: Listing,
    asker: By,
  ): Promise<ReaddirReply> {
    const { beliefs } = this.#context;
    const ofEntries = part.plus ? WANT_ATTR | WANT_DATA_READ | (contents === true ? WANT_CONTENT : 0) : 0;
    const own = wantsOwn === true ? WANT_OWN_FILES | (owns(target, part.fid) ? 0 : WANT_OWN_PARENT) : 0;
    const want = beliefs.wantParent(target, part.fid) | ofEntries | own;
    const request = { ...part, want };
    return this.#ask(target, Readdir, request, asker, (reply) =>
      this.#applyListing(target, fh, request, reply),
    );
  }

  /** Keeps the content that came with a file's attributes, if a lock of ours keeps it true and nothing of the file is here yet. */
  #applyContent(target: TargetSession, { fid, sizeBytes }: Attr, content: Uint8Array | undefined): void {
    if (content === undefined || content.length !== sizeBytes) return;
    const file = this.#context.files.get(fid);
    if (file === undefined || !file.sizeKnown || file.sizeBytes !== sizeBytes || !file.isEmpty) return;
    if (target.locks.match('data', fid, 'PR', 0) === undefined) return;
    // The message's memory would stay as long as the page does.
    file.pages.fill(0, Uint8Array.from(content));
  }

  closed(fh: Fh): void {
    this.#scans.delete(fh);
  }

  /** Applies a part of a listing. The client knows a directory whole if it has read it from beginning to end under one lock. */
  #applyListing(
    target: TargetSession,
    fh: Fh,
    { fid, cookie, want }: RequestOf<typeof Readdir>,
    reply: ReaddirReply,
  ): void {
    const context = this.#context;
    // The server may grant a lock on an entry without attributes too; the type of an entry is always there.
    const inodes = reply.entries.map((entry) => ({ fid: entry.fid, mode: entry.type }));
    context.beliefs.applyGrants(target, { want, parent: fid, inodes }, reply.locks);
    for (const { attr, content } of reply.entries) {
      if (attr === undefined) continue;
      context.beliefs.applyAttr(target, attr);
      this.#applyContent(target, attr, content);
    }
    const scan = this.#scans.get(fh);
    this.#scans.delete(fh);
    const lock = target.locks.match('inode', fid, 'PR', BIT_UPDATE);
    if (lock === undefined) return;
    const { names } = context;
    const isNext = scan?.lock === lock && scan.cookie === cookie && scan.content === names.contentOf(fid);
    for (const entry of reply.entries) context.beliefs.applyName(target, fid, entry.name, entry.fid);
    if (cookie !== 0 && !isNext) return;
    if (reply.end) names.setComplete(fid);
    else
      this.#scans.set(fh, {
        lock,
        cookie: reply.entries.at(-1)?.cookie ?? cookie,
        content: names.contentOf(fid),
      });
  }

  async create(target: TargetSession, object: Creation, asker: By, opened?: Opened): Promise<Attr> {
    const { parent, name, fh, flags = 0 } = object;
    const parentWant = name === undefined ? 0 : this.#context.beliefs.wantParent(target, parent);
    const want =
      parentWant | this.#wantOwn(target, object) | WANT_ATTR | (fh === undefined ? 0 : dataWant(flags));
    const request = { ...object, want };
    const apply = (reply: ReplyOf<typeof Create>): void => {
      this.#applyCreate(target, request, reply);
      this.#keepTicket(target, reply.attr.fid, flags, reply.ticket);
      opened?.(reply.attr);
    };
    const ended = target.changes.pin(name === undefined ? [] : [parent]);
    const { attr } = await ACROSS_SESSIONS.wait(
      this.#ask(target, Create, request, asker, apply, ended, (object.mode & S_ISGID) !== 0),
    );
    return attr;
  }

  /** A new directory is worth an own lock, and so is an old one in which this client makes one name after the other. */
  #wantOwn(target: TargetSession, { parent, name, mode }: Creation): number {
    if (!target.batchUsed || name === undefined) return 0;
    const ofNew = isDir(mode) ? WANT_OWN : 0;
    if (owns(target, parent)) return ofNew;
    return ofNew | (target.own.wantsParent(parent) ? WANT_OWN_PARENT : 0);
  }

  #applyCreate(
    target: TargetSession,
    { parent, name, flags = 0, target: linkText, want }: RequestOf<typeof Create>,
    { attr, parentAttr, existed, locks }: ReplyOf<typeof Create>,
  ): void {
    const context = this.#context;
    const { beliefs, files } = context;
    const cut = existed && (flags & O_TRUNC) !== 0 ? files.get(attr.fid) : undefined;
    if (cut !== undefined) {
      context.dropPages(target, cut);
      cut.sizeKnown = false;
    }
    beliefs.applyGrants(target, { want, parent, inodes: [attr] }, locks);
    beliefs.applyAttr(target, attr);
    if (parentAttr !== undefined) beliefs.applyAttr(target, parentAttr);
    if (name !== undefined) beliefs.applyName(target, parent, name, attr.fid);
    // No other client could have put a name into it, and from now on none can before the server calls the lock back.
    const empty = !existed && (attr.mode & S_IFMT) === S_IFDIR;
    const home = target.locks.match('inode', parent, 'EX', OWN_BITS);
    const isPrivate = !existed && name !== undefined && target.locks.holds('inode', attr.fid);
    if (isPrivate && home !== undefined) target.own.addPrivate(attr.fid, home);
    if (empty && beliefs.holdsNames(target, attr.fid)) context.names.setComplete(attr.fid);
    if (isRegular(attr.mode) && target.locks.holds('data', attr.fid)) files.of(attr.fid);
    if (linkText !== undefined && isSymlink(attr.mode)) context.attrs.putSymlinkTarget(attr.fid, linkText);
  }

  async link(target: TargetSession, link: RequestOf<typeof Link>, asker: By): Promise<Attr> {
    const { beliefs } = this.#context;
    target.own.giveUp(link.fid);
    const apply = (reply: ReplyOf<typeof Link>): void => {
      beliefs.applyAttr(target, reply.attr);
      beliefs.applyAttr(target, reply.parentAttr);
      beliefs.applyName(target, link.parent, link.name, reply.attr.fid);
    };
    const ended = target.changes.pin([link.parent, link.fid]);
    const { attr } = await ACROSS_SESSIONS.wait(this.#ask(target, Link, link, asker, apply, ended));
    return attr;
  }

  async unlink(target: TargetSession, removed: RequestOf<typeof Unlink>, asker: By): Promise<void> {
    const { beliefs } = this.#context;
    const { parent, name, directory } = removed;
    const apply = ({ attr, parentAttr }: ReplyOf<typeof Unlink>): void => {
      target.own.giveUp(attr.fid);
      beliefs.applyAttr(target, attr);
      beliefs.applyAttr(target, parentAttr);
      beliefs.applyName(target, parent, name, 0);
      if (directory || attr.nlink === 0) this.#held.unlinked(target, attr.fid);
    };
    const there = this.#openedThere(target, parent, name, asker?.signal);
    if (there !== undefined) await ACROSS_SESSIONS.wait(there);
    const victim = this.#known(parent, name);
    for (const fid of victim) if (fid !== undefined) target.own.giveUp(fid);
    const unpin = target.changes.pin([parent, ...victim]);
    const removedHere = this.#local.unlinking(target, parent, name);
    const ended = (): void => {
      unpin();
      removedHere();
    };
    await ACROSS_SESSIONS.wait(this.#ask(target, Unlink, removed, asker, apply, ended));
  }

  /** @returns the inode of the name, for pin(): none, if it does not exist, or undefined if nobody here knows. */
  #known(parent: Fid, name: Name): readonly (Fid | undefined)[] {
    const fid = this.#context.names.get(parent, name);
    return fid === 0 ? [] : [fid];
  }

  /**
   * An inode may lose its last name. If it is open here and not at the target yet, the target gets it first. Then it can be told of
   * the handle, and a crash between the two changes nothing.
   */
  #openedThere(
    target: TargetSession,
    parent: Fid,
    name: Name,
    signal: AbortSignal | undefined,
  ): Promise<void> | undefined {
    const { changes } = target;
    const victims = this.#known(parent, name);
    const mayBeBorn = victims.some((fid) =>
      fid === undefined ? changes.size > 0 : changes.isBorn(fid) && this.#context.handles.isOpen(fid),
    );
    if (!mayBeBorn) return undefined;
    // While the log is sent, this client makes no new change of these inodes.
    const unpin = changes.pin(victims);
    const flushed = changes.flushed().finally(unpin);
    return signal === undefined ? flushed : interruptible(flushed, signal);
  }

  async rename(target: TargetSession, names: RequestOf<typeof Rename>, asker: By): Promise<void> {
    const apply = (reply: ReplyOf<typeof Rename>): void => this.#applyRename(target, names, reply);
    const { parent, name, newParent, newName } = names;
    const there = this.#openedThere(target, newParent, newName, asker?.signal);
    if (there !== undefined) await ACROSS_SESSIONS.wait(there);
    const moved = [...this.#known(parent, name), ...this.#known(newParent, newName)];
    for (const fid of moved) if (fid !== undefined) target.own.giveUp(fid);
    const unpin = target.changes.pin([parent, newParent, ...moved]);
    const movedHere = this.#local.renaming(target, names);
    const ended = (): void => {
      unpin();
      movedHere();
    };
    await ACROSS_SESSIONS.wait(this.#ask(target, Rename, names, asker, apply, ended));
  }

  #applyRename(
    target: TargetSession,
    { parent, name, newParent, newName, flags }: RequestOf<typeof Rename>,
    { attr, parentAttr, newParentAttr, otherAttr, whiteoutAttr }: ReplyOf<typeof Rename>,
  ): void {
    const { beliefs, names } = this.#context;
    // The client may not have known that it has these names, and where they lead now others may go.
    for (const each of [attr, otherAttr]) if (each !== undefined) target.own.giveUp(each.fid);
    for (const each of [attr, parentAttr, newParentAttr, otherAttr, whiteoutAttr]) {
      if (each !== undefined) beliefs.applyAttr(target, each);
    }
    const isExchange = (flags & RENAME_EXCHANGE) !== 0;
    if (isExchange ? otherAttr === undefined : !isDir(attr.mode) && attr.nlink > 1) {
      // The two names may lead to one inode. Then rename(2) does nothing, and both names stay.
      names.forget(parent, name);
      names.forget(newParent, newName);
    } else if (isExchange) {
      beliefs.applyName(target, parent, name, otherAttr?.fid ?? 0);
      beliefs.applyName(target, newParent, newName, attr.fid);
    } else {
      beliefs.applyName(target, parent, name, whiteoutAttr?.fid ?? 0);
      beliefs.applyName(target, newParent, newName, attr.fid);
      if (otherAttr?.nlink === 0) this.#held.unlinked(target, otherAttr.fid);
    }
  }

  async open(target: TargetSession, open: Opening, asker: By, opened: Opened): Promise<void> {
    const context = this.#context;
    const { fid, flags } = open;
    const attr = context.attrs.get(fid);
    const hasData = attr === undefined || isRegular(attr.mode);
    const want = context.beliefs.wantAttr(target, fid) | (hasData ? dataWant(flags) : 0);
    const apply = (reply: ReplyOf<typeof Open>): void => {
      context.beliefs.applyGrants(target, { want, inodes: [{ ...reply.attr, fid }] }, reply.locks);
      const cut = (flags & O_TRUNC) === 0 ? undefined : context.files.get(fid);
      if (cut !== undefined) context.dropPages(target, cut);
      context.beliefs.applyAttr(target, reply.attr, cut !== undefined);
      this.#keepTicket(target, fid, flags, reply.ticket);
      opened(reply.attr);
    };
    const ended = (flags & O_TRUNC) === 0 ? undefined : target.changes.pin([fid]);
    await ACROSS_SESSIONS.wait(this.#ask(target, Open, { ...open, want }, asker, apply, ended));
  }

  #keepTicket(target: TargetSession, fid: Fid, flags: number, ticket: Uint8Array | undefined): void {
    if (ticket === undefined) return;
    target.tickets.sweep(() => {
      const { handles, files } = this.#context;
      const uncommitted = fidsIn(target);
      return (of) =>
        handles.isOpen(of) ||
        target.locks.holds('data', of) ||
        uncommitted.has(of) ||
        files.get(of)?.isClean === false;
    });
    target.tickets.add({ fid, access: accessOf(flags), ticket });
  }

  // Attributes.

  async getattr(target: TargetSession, fid: Fid, asker: By, caches: boolean): Promise<Attr> {
    const { beliefs } = this.#context;
    const want = caches ? beliefs.wantAttr(target, fid) : 0;
    const { attr } = await ACROSS_SESSIONS.wait(
      this.#ask(target, Getattr, { fid, want }, asker, (reply) => {
        beliefs.applyGrants(target, { want, inodes: [{ ...reply.attr, fid }] }, reply.locks);
        beliefs.applyAttr(target, reply.attr);
      }),
    );
    return attr;
  }

  async setattr(target: TargetSession, fid: Fid, change: AttrChange, own: boolean, asker: By): Promise<Attr> {
    const context = this.#context;
    const { sizeBytes } = change;
    const request = { fid, sizeBytes, ...changesOf(change) };
    const apply = (reply: ReplyOf<typeof Setattr>): void => {
      const file = sizeBytes === undefined ? undefined : context.files.get(fid);
      if (file !== undefined) context.dropPages(target, file, sizeBytes);
      context.beliefs.applyAttr(target, reply.attr, own);
    };
    const ended = target.changes.pin([fid]);
    const { attr } = await ACROSS_SESSIONS.wait(
      this.#ask(target, Setattr, request, asker, apply, ended, ((change.mode ?? 0) & S_ISGID) !== 0),
    );
    return attr;
  }

  async readlink(target: TargetSession, fid: Fid, asker: By): Promise<Uint8Array> {
    const { attrs } = this.#context;
    const reply = await ACROSS_SESSIONS.wait(
      this.#ask(target, Readlink, { fid }, asker, (answer) =>
        attrs.putSymlinkTarget(fid, Buffer.from(answer.target)),
      ),
    );
    return reply.target;
  }

  async getxattr(target: TargetSession, fid: Fid, name: string, asker: By): Promise<Uint8Array> {
    const { value } = await ACROSS_SESSIONS.wait(
      this.#ask(target, Getxattr, { fid, name }, asker, (reply) => {
        if (fid === ROOT_FID) target.rootXattrs?.set(name, Buffer.from(reply.value));
      }),
    );
    return value;
  }

  async setxattr(target: TargetSession, xattr: RequestOf<typeof Setxattr>, asker: By): Promise<void> {
    const { fid, name, value } = xattr;
    const apply = (reply: ReplyOf<typeof Setxattr>): void => {
      this.#context.beliefs.applyAttr(target, reply.attr);
      if (fid === ROOT_FID) target.rootXattrs?.set(name, value);
    };
    const ended = target.changes.pin([fid]);
    await ACROSS_SESSIONS.wait(this.#ask(target, Setxattr, xattr, asker, apply, ended, name === ACL_ACCESS));
  }

  async listxattr(target: TargetSession, fid: Fid, asker: By): Promise<readonly string[]> {
    return (await ACROSS_SESSIONS.wait(this.#ask(target, Listxattr, { fid }, asker, () => undefined))).names;
  }

  async removexattr(target: TargetSession, fid: Fid, name: string, asker: By): Promise<void> {
    const apply = (reply: ReplyOf<typeof Removexattr>): void => {
      this.#context.beliefs.applyAttr(target, reply.attr);
      if (fid === ROOT_FID) target.rootXattrs?.delete(name);
    };
    const ended = target.changes.pin([fid]);
    await ACROSS_SESSIONS.wait(this.#ask(target, Removexattr, { fid, name }, asker, apply, ended));
  }

  async statfs(target: TargetSession, asker: By): Promise<StatfsMessage> {
    return ACROSS_SESSIONS.wait(
      this.#ask(target, Statfs, {}, asker, (reply) => {
        target.lastStatfs = reply;
      }),
    );
  }
}

/** Files in what the target would have to execute again, as far as a handle allowed it. */
function fidsIn({ replays }: TargetSession): ReadonlySet<Fid> {
  const fids = new Set<Fid>();
  for (const operation of [Write, Setattr, Fallocate, Link]) {
    for (const { fid } of replays.requestsOf<{ readonly fid: Fid }>(operation)) fids.add(fid);
  }
  for (const { fromFid, toFid } of replays.requestsOf(CopyRange)) fids.add(fromFid).add(toFid);
  return fids;
}

/** The lock that a file opened with these flags will need first. */
function dataWant(flags: number): number {
  return opensForWrite(flags) ? WANT_DATA_WRITE : WANT_DATA_READ;
}

function owns(target: TargetSession, directory: Fid): boolean {
  return target.locks.match('inode', directory, 'EX', OWN_BITS) !== undefined;
}
