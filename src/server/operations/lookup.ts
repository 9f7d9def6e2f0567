/** LOOKUP, GETATTR, READLINK, READDIR, STATFS: the operations that read names and attributes. */

import { isRegular, isSymlink } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import { andThen, type MaybePromise } from '../../base/maybe_promise.js';
import type { HandlerOutcome, Incoming } from '../../rpc/api.js';
import { needDirectory, needInode } from '../../rules/checks.js';
import type { Dirent, Inode } from '../../storage/api.js';
import { BIT_ATTR, BIT_UPDATE, type GrantMessage } from '../../wire/lock.js';
import {
  type Getattr,
  type Lookup,
  type Readdir,
  type Readlink,
  type Statfs,
  WANT_CONTENT,
  WANT_DATA_READ,
  WANT_PARENT,
} from '../../wire/meta.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import { isUncommitted } from '../target/commit_on_sharing.js';
import type { ServedCall } from '../target/served_call.js';
import { mayHoldData } from './data_access.js';
import { exactInode, hasOtherWriter } from './glimpse.js';
import { attrBits, attrLock, grantData, grantInode, grantOwnFile, grantParent } from './reply_grants.js';
import { type Answered, dataLock, inodeLock, locked } from './with_locks.js';

/** A reply with the exact inode and the locks that the client wants. Grants them in the turn in which the reply leaves. */
export function describe<R>(
  call: ServedCall,
  want: number,
  inode: Inode,
  reply: (inode: Inode, locks: GrantMessage[]) => R,
): MaybePromise<HandlerOutcome<R>> {
  const locks: GrantMessage[] = [];
  if (grantData(call, want, inode, locks) || !hasOtherWriter(call, inode)) {
    grantInode(call, want, inode, locks);
    return { reply: reply(inode, locks) };
  }
  return andThen(exactInode(call, inode), (exact) => {
    // The server may have evicted the client during the glimpse: a lock that it got now would stay for ever.
    call.assertLive();
    grantInode(call, want, exact, locks);
    return { reply: reply(exact, locks) };
  });
}

/**
 * True if another client has written size and times that a crash could undo, so that the caller waits for a commit. While the
 * other client goes on writing, it is asked for them, and nobody takes its answer for lasting: then nobody waits.
 */
function hasUncommittedData(call: ServedCall, fid: Fid, mode: number): boolean {
  if (!isRegular(mode) || !isUncommitted(call, dataLock(fid, 'PR'))) return false;
  return call.target.locks.dataWriter(fid, call.client.uuid) === undefined;
}

/** For a caller whose permission counts, the answer depends on the directory's attributes too. */
function directoryBits({ caller }: ServedCall, want: number): number {
  const withAttr = (want & WANT_PARENT) !== 0 || caller !== undefined;
  return withAttr ? BIT_UPDATE | BIT_ATTR : BIT_UPDATE;
}

export function lookup(
  call: ServedCall,
  request: RequestOf<typeof Lookup>,
  incoming: Incoming<ReplyOf<typeof Lookup>>,
): Answered<ReplyOf<typeof Lookup>> {
  const { store } = call.target;
  const { parent, name, want } = request;
  const parentBits = directoryBits(call, want);
  let entry: Dirent | undefined;
  return locked(
    call,
    incoming,
    () => {
      needDirectory(store, parent);
      entry = store.dirent(parent, name);
      const specs = [inodeLock(parent, 'PR', parentBits)];
      if (entry !== undefined) specs.push(inodeLock(entry.fid, 'PR', attrBits(entry.type)));
      return specs;
    },
    () => {
      if (entry === undefined) {
        const locks: GrantMessage[] = [];
        grantParent(call, want, parent, locks);
        return { reply: { locks } };
      }
      return describe(call, want, needInode(store, entry.fid), (attr, locks) => {
        grantParent(call, want, parent, locks);
        grantOwnFile(call, want, parent, attr, locks);
        return { attr, locks, content: contentOf(call, want, attr) };
      });
    },
    () => entry !== undefined && hasUncommittedData(call, entry.fid, entry.type),
  );
}

export function getattr(
  call: ServedCall,
  request: RequestOf<typeof Getattr>,
  incoming: Incoming<ReplyOf<typeof Getattr>>,
): Answered<ReplyOf<typeof Getattr>> {
  const { store } = call.target;
  return locked(
    call,
    incoming,
    () => [inodeLock(request.fid, 'PR', attrBits(needInode(store, request.fid).mode))],
    () =>
      describe(call, request.want, needInode(store, request.fid), (attr, locks) => {
        return { attr, locks };
      }),
    () => hasUncommittedData(call, request.fid, store.inode(request.fid)?.mode ?? 0),
  );
}

export function readlink(
  call: ServedCall,
  request: RequestOf<typeof Readlink>,
): HandlerOutcome<ReplyOf<typeof Readlink>> {
  const { store } = call.target;
  const inode = needInode(store, request.fid);
  const target = isSymlink(inode.mode) ? store.symlinkTarget(request.fid) : undefined;
  if (target === undefined) throw new FsError('EINVAL', 'not a symbolic link');
  return { reply: { target } };
}

/**
 * The content of a small file, if the client has a lock under which it may keep it, and no other client writes the file. A damaged
 * content is left to the READ that asks for it.
 */
function contentOf(call: ServedCall, want: number, inode: Inode): Uint8Array | undefined {
  const { target, client } = call;
  if ((want & WANT_CONTENT) === 0 || !isRegular(inode.mode) || inode.sizeBytes === 0) return undefined;
  if (!target.locks.holdsData(client.uuid, inode.fid, 'PR')) return undefined;
  // The lock may be one of PW, for a caller who may write and not read.
  if (client.isRestricted && !mayHoldData(call, inode, 'PR')) return undefined;
  return target.store.data.smallContent(inode.fid);
}

/** A reply of this size stays well below BODY_MAX, whatever comes with its entries. */
const READDIR_BYTES = 768 << 10;
const READDIR_ENTRIES_MAX = 10_000;
/** More than an entry, its attributes and two grants take, without the name. */
const ENTRY_BYTES = 240;

export function readdir(
  call: ServedCall,
  request: RequestOf<typeof Readdir>,
  incoming: Incoming<ReplyOf<typeof Readdir>>,
): Answered<ReplyOf<typeof Readdir>> {
  const { store } = call.target;
  const { fid, want } = request;
  return locked(
    call,
    incoming,
    () => {
      needDirectory(store, fid);
      return [inodeLock(fid, 'PR', directoryBits(call, want))];
    },
    () => ({ reply: listDirectory(call, request) }),
  );
}

function listDirectory(call: ServedCall, request: RequestOf<typeof Readdir>): ReplyOf<typeof Readdir> {
  const { store } = call.target;
  const { fid, want, plus } = request;
  const directory = needDirectory(store, fid);
  const limit = Math.min(Math.max(1, request.limit), READDIR_ENTRIES_MAX);
  const found = store.dirents(fid, request.cookie, limit);
  const locks: GrantMessage[] = [];
  grantParent(call, want, fid, locks);
  const entries: { -readonly [K in keyof Entry]: Entry[K] }[] = [];
  let bytes = 0;
  for (const entry of found) {
    // Above 0x7f a byte of a name takes two on the wire.
    bytes += ENTRY_BYTES + 2 * entry.name.length;
    if (bytes > READDIR_BYTES) break;
    const { name, type, cookie } = entry;
    const attr = plus ? entryAttr(call, request, entry, locks) : undefined;
    const content = attr === undefined ? undefined : contentOf(call, want, attr);
    if (content !== undefined) bytes += content.length;
    entries.push({ name, fid: entry.fid, type, cookie, attr, content });
  }
  return {
    entries,
    end: entries.length === found.length && found.length < limit,
    locks,
    // A directory that was removed while open has no parent any more; '..' must still name an inode.
    parent: directory.parent === 0 ? fid : directory.parent,
  };
}

type Entry = ReplyOf<typeof Readdir>['entries'][number];

/**
 * Absent if another client is writing the file, owns the directory, or has changed it and the change is not committed: a
 * glimpse, a callback or a wait for each entry would cost more than it is worth.
 */
function entryAttr(
  call: ServedCall,
  { fid: parent, want }: RequestOf<typeof Readdir>,
  entry: Dirent,
  locks: GrantMessage[],
): Inode | undefined {
  const inode = call.target.store.inode(entry.fid);
  if (inode === undefined) return undefined;
  const exact = grantData(call, want & WANT_DATA_READ, inode, locks);
  if (!exact && (hasOtherWriter(call, inode) || hasUncommittedData(call, inode.fid, inode.mode)))
    return undefined;
  // Takes no server lock on the entry: this turn sees the entry as it is, and grants none that an operation is changing.
  if (grantInode(call, want, inode, locks)) {
    grantOwnFile(call, want, parent, inode, locks);
    return inode;
  }
  const attributes = attrLock(inode);
  const isOthers = !call.target.locks.heldAlone(call.client.uuid, attributes);
  return isOthers || isUncommitted(call, attributes) ? undefined : inode;
}

export function statfs(call: ServedCall): HandlerOutcome<ReplyOf<typeof Statfs>> {
  return { reply: call.target.store.statfs() };
}
