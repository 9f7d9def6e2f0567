/** OPEN and CLOSE. The server keeps the handles of each client; the last CLOSE of an inode without a name destroys it. */

import { accessOf, isDir, isRegular, O_TRUNC, opensForWrite, type Timespec } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fh, Fid } from '../../base/ids.js';
import { andThen, type MaybePromise } from '../../base/maybe_promise.js';
import type { LockSpec } from '../../dlm/api.js';
import type { HandlerOutcome, Incoming } from '../../rpc/api.js';
import { needInode } from '../../rules/checks.js';
import { dropPrivileges } from '../../rules/setattr.js';
import type { Inode, Within } from '../../storage/api.js';
import { BIT_ATTR, type GrantMessage } from '../../wire/lock.js';
import type { Close, Open } from '../../wire/meta.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import { handleFlags } from '../export/open_table.js';
import {
  DESTROYED_AT_ONCE,
  deadAmong,
  deadOfReleased,
  destroyAll,
  destroyInSteps,
} from '../target/orphans.js';
import type { ServedCall } from '../target/served_call.js';
import { attrBits, grantData, grantInode } from './reply_grants.js';
import { type Answered, dataLock, dataToSet, inodeLock, locked } from './with_locks.js';

export interface OpenInode {
  readonly fid: Fid;
  readonly fh: Fh;
  readonly flags: number;
  readonly want: number;
  readonly time?: Timespec | undefined;
}

/** For a handle of a client that has to prove later what it may do by it. */
export function ticketOf({ client, target }: ServedCall, fid: Fid, flags: number): Buffer | undefined {
  return client.rights.squashRoot ? target.ticketFor(client, fid, accessOf(flags)) : undefined;
}

export function truncationLocks(fid: Fid): readonly LockSpec[] {
  return [inodeLock(fid, 'EX', BIT_ATTR), dataLock(fid, 'EX')];
}

export function open(
  call: ServedCall,
  request: RequestOf<typeof Open>,
  incoming: Incoming<ReplyOf<typeof Open>>,
): Answered<ReplyOf<typeof Open>> {
  const { store } = call.target;
  return locked(
    call,
    incoming,
    () => {
      const { mode } = needInode(store, request.fid);
      const truncates = isRegular(mode) && (request.flags & O_TRUNC) !== 0;
      if (truncates) return [inodeLock(request.fid, 'EX', BIT_ATTR), ...dataToSet(call, request.fid)];
      return [inodeLock(request.fid, 'PR', attrBits(mode))];
    },
    () =>
      openInode(call, request, (attr, locks) => {
        return { attr, locks, ticket: ticketOf(call, request.fid, request.flags) };
      }),
  );
}

/**
 * Opens an inode. If flags ask for a truncation, the caller holds the locks that it needs.
 * The size in the reply is exact only if the client gets a data lock: the server asks no other client for it (fstat asks).
 * @throws FsError EISDIR if the flags ask to write a directory.
 */
export function openInode<R>(
  call: ServedCall,
  request: OpenInode,
  reply: (inode: Inode, locks: GrantMessage[]) => R,
): MaybePromise<HandlerOutcome<R>> {
  const { target } = call;
  const { fid, fh, flags, want } = request;
  const inode = needInode(target.store, fid);
  if (isDir(inode.mode) && (opensForWrite(flags) || (flags & O_TRUNC) !== 0)) throw new FsError('EISDIR');
  // Before the truncation: an open that fails leaves the file as it was.
  if (!call.isReplay) target.opens.checkRoom(call.client, fh);
  const opened = (): HandlerOutcome<R> => {
    // The server may have evicted the client during the truncation: a handle that it got now would stay for ever.
    call.assertLive();
    const locks: GrantMessage[] = [];
    const now = needInode(target.store, fid);
    if (!call.isReplay) target.opens.add(call.client, fh, fid, handleFlags(flags, false));
    grantData(call, want, now, locks);
    grantInode(call, want, now, locks);
    return { reply: reply(now, locks) };
  };
  if (!isRegular(inode.mode) || (flags & O_TRUNC) === 0) return opened();
  const within: Within = (tx, before, isLast) => {
    // Of other sessions the kernel asks for it.
    if (call.caller !== undefined) dropPrivileges(tx, before);
    if (isLast) call.writeRecord(tx, fid);
  };
  const truncated = target.store.data.truncate(fid, 0, {
    time: call.time(request.time),
    within,
    transno: call.replayTransno,
  });
  return andThen(truncated, ({ transno }) => ({ ...opened(), transno }));
}

export function close(
  call: ServedCall,
  request: RequestOf<typeof Close>,
): HandlerOutcome<ReplyOf<typeof Close>> {
  const { target } = call;
  // Clients do not replay CLOSE: they do not open a closed handle again.
  if (call.isReplay) return { reply: {} };
  const unused: Fid[] = [];
  for (const fh of request.fhs) {
    const fid = target.opens.remove(call.client, fh);
    if (fid !== undefined) unused.push(fid);
  }
  const dead = deadAmong(target, unused);
  if (request.released !== undefined) {
    const released = target.holds.release(call.client, request.released);
    dead.push(...deadOfReleased(target, released));
  }
  if (dead.length === 0) return { reply: {} };
  const { transno } = call.execute(
    (tx) => destroyAll(target, tx, dead.splice(0, DESTROYED_AT_ONCE)),
    0,
    'own',
  );
  void destroyInSteps(target, dead);
  return { reply: {}, transno };
}

/** For an OPEN with O_TRUNC that was executed before: opens the handle again, and does not truncate again. */
export function reopened(call: ServedCall, request: RequestOf<typeof Open>): ReplyOf<typeof Open> {
  const { target } = call;
  const attr = needInode(target.store, request.fid);
  target.opens.addAgain(call.client, request.fh, request.fid, handleFlags(request.flags, false));
  return { attr, locks: [], ticket: ticketOf(call, request.fid, request.flags) };
}
