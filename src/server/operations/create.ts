/**
 * CREATE: mknod, mkdir, symlink, open(O_CREAT), O_TMPFILE. src/rules/create.ts has the rules for the new inode.
 *
 * The client names the new inode, so a CREATE that arrives twice finds its own inode and gives the same answer.
 */

import { isRegular, O_TRUNC } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import type { MaybePromise } from '../../base/maybe_promise.js';
import type { LockSpec } from '../../dlm/api.js';
import type { HandlerOutcome, Incoming } from '../../rpc/api.js';
import { needInode } from '../../rules/checks.js';
import { applyCreate, checkCreation, findExisting } from '../../rules/create.js';
import { permittedMode } from '../../rules/permission_attrs.js';
import type { Dirent, Inode, ReplyRecord } from '../../storage/api.js';
import { BIT_ATTR, BIT_UPDATE, type GrantMessage } from '../../wire/lock.js';
import type { Create } from '../../wire/meta.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import { handleFlags } from '../export/open_table.js';
import type { ServedCall } from '../target/served_call.js';
import { circumstancesOf } from './circumstances.js';
import { inodeOrGone } from './executed_before.js';
import { describe } from './lookup.js';
import { openInode, ticketOf, truncationLocks } from './open.js';
import { attrBits, grantData, grantInode, grantParent } from './reply_grants.js';
import { type Answered, inodeLock, locked } from './with_locks.js';

type Request = RequestOf<typeof Create>;
type Reply = ReplyOf<typeof Create>;

export function create(call: ServedCall, request: Request, incoming: Incoming<Reply>): Answered<Reply> {
  checkCreation(request);
  const { store } = call.target;
  const { parent, name } = request;
  let entry: Dirent | undefined;
  call.looksInto = [parent];
  return locked(
    call,
    incoming,
    () => {
      entry = findExisting(store, request);
      if (entry !== undefined) return locksToOpen(request, entry);
      // A nameless file changes nothing in the directory; its attributes decide what the file inherits.
      if (name === undefined) return [inodeLock(parent, 'PR', BIT_ATTR)];
      return [inodeLock(parent, 'EX', BIT_UPDATE | BIT_ATTR)];
    },
    () => (entry === undefined ? makeNew(call, request) : openExisting(call, request, entry)),
  );
}

function locksToOpen(request: Request, entry: Dirent): readonly LockSpec[] {
  const reads = [inodeLock(request.parent, 'PR', BIT_UPDATE), inodeLock(entry.fid, 'PR', BIT_ATTR)];
  if (entry.fid === request.fid) return reads;
  const truncates = isRegular(entry.type) && ((request.flags ?? 0) & O_TRUNC) !== 0;
  return truncates ? [inodeLock(request.parent, 'PR', BIT_UPDATE), ...truncationLocks(entry.fid)] : reads;
}

function openExisting(
  call: ServedCall,
  request: Request,
  entry: Dirent,
): MaybePromise<HandlerOutcome<Reply>> {
  const { store } = call.target;
  const { want, fh, flags = 0 } = request;
  const mine = entry.fid === request.fid;
  if (mine) {
    const inode = needInode(store, entry.fid);
    if (fh !== undefined && !call.isReplay) {
      call.target.opens.add(call.client, fh, inode.fid, handleFlags(flags, request.name === undefined));
    }
    return { reply: withLocks(call, request, inode, false) };
  }
  const reply = (attr: Inode, locks: GrantMessage[]): Reply => {
    grantParent(call, want, request.parent, locks);
    const ticket = fh === undefined ? undefined : ticketOf(call, attr.fid, flags);
    return { attr, existed: true, locks, ticket };
  };
  if (fh === undefined) return describe(call, want, needInode(store, entry.fid), reply);
  return openInode(call, { fid: entry.fid, fh, flags, want, time: request.time }, reply);
}

function makeNew(call: ServedCall, request: Request): HandlerOutcome<Reply> {
  const { target } = call;
  const { name, fid, flags = 0 } = request;
  const fh = call.isReplay ? undefined : request.fh;
  target.assertNewFid(call.client, fid);
  // Only a client that confuses its own numbers names two new inodes by one FID.
  if (target.store.inode(fid) !== undefined) throw new FsError('EPROTO', `FID ${fid} is in use`);
  // Opens first: execute() destroys an inode without a name unless it is open.
  if (fh !== undefined) {
    target.opens.add(call.client, fh, fid, handleFlags(flags, name === undefined));
  }
  call.alsoChanged = [inodeLock(fid, 'EX', attrBits(request.mode))];
  try {
    const { result, transno } = call.execute(
      (tx) => applyCreate(tx, permittedObject(call, request), circumstancesOf(call, request)),
      fid,
    );
    return { reply: { ...withLocks(call, request, result.attr, false), position: result.position }, transno };
  } catch (error) {
    if (fh !== undefined) target.opens.remove(call.client, fh);
    throw error;
  }
}

/** permits.ts has put its owner in. */
function permittedObject({ caller, target }: ServedCall, request: Request): Request {
  if (caller === undefined) return request;
  return { ...request, mode: permittedMode(needInode(target.store, request.parent), request.mode, caller) };
}

function withLocks(call: ServedCall, request: Request, inode: Inode, existed: boolean): Reply {
  const { want, parent, name } = request;
  const locks: GrantMessage[] = [];
  grantData(call, want, inode, locks);
  grantInode(call, want, inode, locks);
  grantParent(call, want, parent, locks);
  const parentAttr = name === undefined ? undefined : call.target.store.inode(parent);
  const ticket = request.fh === undefined ? undefined : ticketOf(call, inode.fid, request.flags ?? 0);
  return { attr: inode, parentAttr, existed, locks, ticket };
}

/** For a CREATE that was executed before: opens the handle, and answers with the state as it is now. */
export function recreate(call: ServedCall, request: Request, done: ReplyRecord): Reply {
  const { target } = call;
  const { store } = target;
  const fid = done.fid || request.fid;
  if (request.fh !== undefined) {
    const flags = handleFlags(request.flags ?? 0, request.name === undefined);
    target.opens.addAgain(call.client, request.fh, needInode(store, fid).fid, flags);
  }
  const parentAttr = request.name === undefined ? undefined : store.inode(request.parent);
  return {
    attr: inodeOrGone(store, fid, request.mode),
    parentAttr,
    existed: fid !== request.fid,
    locks: [],
    ticket: request.fh === undefined ? undefined : ticketOf(call, fid as Fid, request.flags ?? 0),
  };
}
