/**
 * What the server checks of a request whose client it does not believe: the kernel of another client's host has checked the
 * permissions of its programs, but whoever has a key may speak to the server without any kernel.
 *
 * - A squashed session (rights.squashRoot): each request is checked as if its caller worked on a local filesystem, with root as
 *   nobody. What a caller may do by a handle that is open, the session may do: the server cannot tell processes apart.
 * - A read-only session changes nothing: EROFS.
 *
 * Each operation has a rule here, or stands among those that are free. An operation that takes server locks is checked under
 * them, in the turn in which it executes (with_locks.ts): what it was allowed before a wait says nothing. All others are checked in
 * the turn in which their handler runs.
 *
 * Replays are checked as at their first execution. What a handle allowed then, a ticket says now (access/tickets.ts).
 */

import { ACCESS_READ, ACCESS_WRITE, accessOf, isDir, O_TRUNC } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import {
  type Caller,
  checkNewParent,
  checkRemoval,
  isOwner,
  MAY_EXEC,
  MAY_READ,
  MAY_WRITE,
  mayOpen,
  needAccess,
  squashed,
} from '../../rules/permission.js';
import {
  checkAttrChange,
  checkNewType,
  checkSetId,
  checkXattrRead,
  checkXattrWrite,
} from '../../rules/permission_attrs.js';
import type { Inode, Reader, ReplyRecord } from '../../storage/api.js';
import { Batch } from '../../wire/batch.js';
import type { CallerOnWire } from '../../wire/caller.js';
import { CopyRange, Fallocate, Read, Seek, Sync, Write } from '../../wire/data.js';
import { Cancel, Enqueue, TestFlock, Unflock } from '../../wire/lock.js';
import {
  Close,
  Create,
  Getattr,
  Getxattr,
  Link,
  Listxattr,
  Lookup,
  Open,
  RENAME_EXCHANGE,
  RENAME_NOREPLACE,
  Readdir,
  Readlink,
  Removexattr,
  Rename,
  Setattr,
  Setxattr,
  Statfs,
  Unlink,
} from '../../wire/meta.js';
import type { Operation, RequestOf } from '../../wire/operation.js';
import {
  Disconnect,
  GetFids,
  Ping,
  RecoveryDone,
  Replayed,
  ReplayLocks,
  ReplayOpens,
  ReplayTickets,
} from '../../wire/session.js';
import type { ServedCall } from '../target/served_call.js';
import { hasOpen, mayHoldData } from './data_access.js';

/** A request, and what decides about it. */
interface Asking {
  readonly call: ServedCall;
  readonly store: Reader;
  readonly caller: Caller;
}

type Numbered = Pick<Operation<unknown, unknown>, 'opcode'>;

/** @throws FsError EACCES, EPERM. What cannot be done at all, whoever asks, it leaves to the operation. */
type Rule<Q> = (asking: Asking, request: Q) => void;

/** For requests that ask for nothing that a user could be forbidden, or name nothing but what their client has. */
const FREE: Rule<unknown> = () => undefined;

const RULES = new Map<number, Rule<never>>();
function rule<Q>({ opcode }: Operation<Q, unknown>, check: Rule<Q>): void {
  RULES.set(opcode, check);
}

for (const { opcode } of [Ping, Disconnect, GetFids, Replayed, RecoveryDone]) RULES.set(opcode, FREE);
// By FID these need no permission, as with the file handles of NFS.
for (const { opcode } of [Getattr, Readlink, Statfs, Listxattr]) RULES.set(opcode, FREE);
// They give back what the client has.
for (const { opcode } of [Cancel, Unflock, Close, Sync]) RULES.set(opcode, FREE);

rule(Lookup, (asking, { parent }) => {
  search(asking, parent);
});
rule(Readdir, ({ call, store, caller }, { fid }) => {
  const inode = store.inode(fid);
  if (inode === undefined || hasOpen(call.client, fid, ACCESS_READ)) return;
  needAccess(store, inode, caller, MAY_READ);
});
rule(Create, (asking, request) => {
  const { call, store, caller } = asking;
  const { parent, name, fid, fh, flags = 0, exclusive } = request;
  const directory = search(asking, parent);
  if (directory === undefined) return;
  const entry = name === undefined ? undefined : store.dirent(parent, name);
  if (entry === undefined) {
    needAccess(store, directory, caller, MAY_WRITE | MAY_EXEC);
    checkNewType(request);
    return;
  }
  // EEXIST; a replay opens nothing.
  if ((exclusive && entry.fid !== fid) || fh === undefined || call.isReplay) return;
  checkOpen(asking, store.inode(entry.fid), flags);
});
rule(Open, (asking, { fid, flags }) => checkOpen(asking, asking.store.inode(fid), flags));
rule(Unlink, (asking, { parent, name }) => {
  const { store, caller } = asking;
  const directory = search(asking, parent);
  const entry = store.dirent(parent, name);
  if (directory !== undefined && entry !== undefined) checkRemoval(store, directory, entry.fid, caller);
});
rule(Rename, checkRename);
rule(Link, (asking, { fid, parent, name }) => {
  const { store, caller } = asking;
  const directory = search(asking, parent);
  if (directory === undefined || store.dirent(parent, name) !== undefined) return;
  needAccess(store, directory, caller, MAY_WRITE | MAY_EXEC);
  const inode = store.inode(fid);
  // After a crash the client says which of its handles are of files that never had a name. So only its owner gives a file without a
  // name one: what another user has removed, a set-id program say, stays removed.
  if (inode?.nlink === 0 && !isOwner(caller, inode))
    throw new FsError('EPERM', `inode ${fid} has no name, and is another user's`);
});
rule(Setattr, ({ call, store, caller }, request) => {
  const inode = store.inode(request.fid);
  if (inode === undefined) return;
  checkAttrChange(store, inode, request, caller, () => hasOpen(call.client, request.fid, ACCESS_WRITE));
});
rule(Getxattr, ({ store, caller }, { fid, name }) => {
  const inode = store.inode(fid);
  if (inode !== undefined) checkXattrRead(store, inode, name, caller);
});
rule(Setxattr, checkXattr);
rule(Removexattr, checkXattr);

rule(Read, ({ call }, { fid }) => {
  // The content of a PW lock may be the client's own alone; who may write need not be allowed to read.
  if (hasOpen(call.client, fid, ACCESS_READ)) return;
  if (call.target.locks.holdsDataAs(call.client.uuid, fid, 'PR')) return;
  throw noHandle(fid);
});
rule(Write, ({ call }, { fid }) => {
  // At the first execution the client has its PW lock.
  if (call.isReplay) needOpen(call, fid, ACCESS_WRITE);
});
rule(Fallocate, ({ call }, { fid }) => needOpen(call, fid, ACCESS_WRITE));
rule(Seek, ({ call }, { fid }) => needOpen(call, fid, 0));
rule(CopyRange, ({ call }, { fromFid, toFid }) => {
  needOpen(call, fromFid, ACCESS_READ);
  needOpen(call, toFid, ACCESS_WRITE);
});
rule(Enqueue, ({ call, store }, { type, mode, fid, flock }) => {
  if (fid === undefined) return;
  if (type === 'flock') {
    // fcntl(2) asks for a descriptor that may write, or read; flock(2) takes any.
    const access = flock?.exclusive === true ? ACCESS_WRITE : ACCESS_READ;
    needOpen(call, fid, flock?.kind === 'flock' ? 0 : access);
    return;
  }
  const inode = store.inode(fid);
  if (type !== 'data' || inode === undefined || (mode !== 'PR' && mode !== 'PW')) return;
  if (!mayHoldData(call, inode, mode))
    throw new FsError('EACCES', `no permission for a ${mode} lock on ${fid}`);
});
rule(TestFlock, ({ call }, { fid }) => needOpen(call, fid, 0));

rule(Batch, () => {
  throw new FsError('EPROTO', 'the users of this session are checked one request at a time');
});
// What they name is checked one by one: operations/recovery.ts.
rule(ReplayOpens, ({ call }) => needRecovery(call));
rule(ReplayLocks, ({ call }) => needRecovery(call));
rule(ReplayTickets, ({ call }) => needRecovery(call));

function checkRename(asking: Asking, request: RequestOf<typeof Rename>): void {
  const { store, caller } = asking;
  const { parent, name, newParent, newName, flags } = request;
  const from = search(asking, parent);
  const to = search(asking, newParent);
  const source = store.dirent(parent, name);
  if (from === undefined || to === undefined || source === undefined) return;
  const other = store.dirent(newParent, newName);
  const exchanges = (flags & RENAME_EXCHANGE) !== 0;
  if (other === undefined ? exchanges : (flags & RENAME_NOREPLACE) !== 0 || other.fid === source.fid) return;
  checkRemoval(store, from, source.fid, caller);
  if (other === undefined) needAccess(store, to, caller, MAY_WRITE | MAY_EXEC);
  else checkRemoval(store, to, other.fid, caller);
  if (parent === newParent) return;
  checkNewParent(store, source.fid, caller);
  if (exchanges && other !== undefined) checkNewParent(store, other.fid, caller);
}

function checkXattr(
  { store, caller }: Asking,
  { fid, name }: { readonly fid: Fid; readonly name: string },
): void {
  const inode = store.inode(fid);
  if (inode !== undefined) checkXattrWrite(store, inode, name, caller);
}

/** @returns undefined: the operation will say what is wrong with it. @throws FsError EACCES */
function search({ store, caller }: Asking, fid: Fid): Inode | undefined {
  const directory = store.inode(fid);
  if (directory === undefined || !isDir(directory.mode)) return undefined;
  needAccess(store, directory, caller, MAY_EXEC);
  return directory;
}

/** @throws FsError EACCES; EISDIR for a directory that would be written. */
function checkOpen({ store, caller }: Asking, inode: Inode | undefined, flags: number): void {
  if (inode === undefined) return;
  const { reads, writes } = wantsOf(flags);
  // Whoever asks. Not every way to a handle looks at it again.
  if (writes && isDir(inode.mode)) throw new FsError('EISDIR');
  if (!mayOpen(store, inode, caller, { reads, writes })) {
    throw new FsError('EACCES', `user ${caller.uid} may not open inode ${inode.fid}`);
  }
}

function wantsOf(flags: number): { readonly reads: boolean; readonly writes: boolean } {
  const access = accessOf(flags);
  const writes = (access & ACCESS_WRITE) !== 0 || (flags & O_TRUNC) !== 0;
  return { reads: (access & ACCESS_READ) !== 0, writes };
}

function noHandle(fid: Fid): FsError {
  return new FsError('EPERM', `the client has no handle on inode ${fid} that allows it`);
}

/** @throws FsError EPERM: only a client that breaks the rules gets it. */
function needOpen({ client }: ServedCall, fid: Fid, access: number): void {
  if (!hasOpen(client, fid, access)) throw noHandle(fid);
}

/** @throws FsError EPROTO */
function needRecovery({ client }: ServedCall): void {
  if (!client.reclaims) throw new FsError('EPROTO', 'it names what it had, and does not recover');
}

// Read-only sessions.

const CHANGES: ReadonlySet<number> = new Set(
  [Setattr, Unlink, Rename, Link, Setxattr, Removexattr, Write, Fallocate, CopyRange, Batch].map(
    ({ opcode }) => opcode,
  ),
);

/**
 * At once, before the operation calls anybody back: a session that changes nothing must not be in anybody's way.
 * @throws FsError EROFS
 */
function checkReadOnly({ target }: ServedCall, { opcode }: Numbered, request: unknown): void {
  if (CHANGES.has(opcode)) throw readOnly();
  if (opcode === Open.opcode) {
    if (wantsOf((request as RequestOf<typeof Open>).flags).writes) throw readOnly();
  } else if (opcode === Enqueue.opcode) {
    const { type, mode, flock } = request as RequestOf<typeof Enqueue>;
    if (type === 'flock' ? flock?.exclusive === true : mode !== 'PR') throw readOnly();
  } else if (opcode === Create.opcode) {
    const { parent, name, exclusive, fh, flags = 0 } = request as RequestOf<typeof Create>;
    const entry = name === undefined ? undefined : target.store.dirent(parent, name);
    const isThere = entry !== undefined && (exclusive || fh === undefined || !wantsOf(flags).writes);
    if (!isThere) throw readOnly();
  }
}

function readOnly(): FsError {
  return new FsError('EROFS', 'this session may change nothing');
}

// Both.

/**
 * Prepares a call of a restricted session: notes who asks, and what is to be checked when it executes.
 * @returns the request as it is to be executed.
 * @throws FsError EROFS, EPERM, EPROTO for what can be refused at once.
 */
export function restricted<Q>(call: ServedCall, operation: Operation<Q, unknown>, request: Q): Q {
  const { readOnly: isReadOnly, squashRoot } = call.client.rights;
  if (isReadOnly) checkReadOnly(call, operation, request);
  if (operation.opcode === Batch.opcode) throw new FsError('EPROTO', 'this session may send no BATCH');
  if (!squashRoot) return request;
  const check = RULES.get(operation.opcode) as Rule<Q> | undefined;
  if (check === undefined) throw new FsError('EPROTO', `${operation.name} has no rule`);
  const caller = squashed((request as { readonly caller?: CallerOnWire }).caller);
  const owned = ownedBy(caller, operation.opcode, request);
  call.caller = caller;
  call.permit = () => check({ call, store: call.target.store, caller }, owned);
  return owned;
}

/** What is made belongs to who makes it, whatever the request says. @throws FsError EPERM */
function ownedBy<Q>(caller: Caller, opcode: number, request: Q): Q {
  if (opcode === Create.opcode) {
    const { mode } = request as unknown as RequestOf<typeof Create>;
    checkSetId(caller, mode, mode);
  } else if (opcode !== Rename.opcode) {
    return request;
  }
  return { ...request, uid: caller.uid, gid: caller.gid };
}

/**
 * A request that an earlier instance has executed is answered from its record, and opens its handle. The client may not have sent
 * the request that was executed.
 * @throws FsError EPROTO, EACCES.
 */
export function checkAnswer(
  call: ServedCall,
  operation: Numbered,
  request: unknown,
  done: ReplyRecord,
): void {
  if (done.opcode !== operation.opcode) throw new FsError('EPROTO', 'another operation had this xid');
  const { caller } = call;
  if (caller === undefined) return;
  const { store } = call.target;
  let fid: Fid | 0 = 0;
  if (operation.opcode === Open.opcode) fid = (request as RequestOf<typeof Open>).fid;
  else if (operation.opcode === Create.opcode) fid = done.fid || (request as RequestOf<typeof Create>).fid;
  const inode = fid === 0 ? undefined : store.inode(fid);
  // Its owner may have made it without the permission to open it again. (And may take that permission.)
  if (inode === undefined || isOwner(caller, inode)) return;
  checkOpen({ call, store, caller }, inode, (request as { readonly flags?: number }).flags ?? 0);
}

/** Opcodes with a rule, for a test. */
export function checkedOpcodes(): ReadonlySet<number> {
  return new Set(RULES.keys());
}
