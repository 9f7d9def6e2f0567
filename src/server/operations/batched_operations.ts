/**
 * The operations of one BATCH, executed one after the other inside one transaction (batch.ts).
 *
 * Each looks at the state through the transaction, so it sees those before it. The rules are those of src/rules, as for any
 * request; beside them each operation needs the locks that make its client the only one who can have decided it:
 * - the own lock of each directory whose names change;
 * - no lock of another client in the way on each inode that changes. Files that were made in an owned directory are known to no
 *   other client; on one that was there before the client has an own lock.
 * - to remove a file: no other client has a lock on its data, or the client has an own lock on the file. Then others may have its
 *   content in their caches, as when UNLINK removes it.
 * An inode that the same BATCH has made needs neither. A lock that was called back counts: the client sends what it has
 * executed before it gives the lock back. A replay was checked when it was executed first.
 */

import { isRegular, type Timespec } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import type { LockSpec } from '../../dlm/api.js';
import { needInode } from '../../rules/checks.js';
import { applyCreate, checkCreation, findExisting } from '../../rules/create.js';
import type { Circumstances } from '../../rules/inode_edits.js';
import { applyRename, checkFlags, checkRename, findNames, movesNothing } from '../../rules/rename.js';
import { applySetattr, checkSetattr } from '../../rules/setattr.js';
import { applyUnlink, checkUnlink, findVictim } from '../../rules/unlink.js';
import type { Inode, Tx } from '../../storage/api.js';
import type { BatchedOperation, Content } from '../../wire/batch.js';
import { type Create, RENAME_NOREPLACE, type Rename, type Setattr, type Unlink } from '../../wire/meta.js';
import type { RequestOf } from '../../wire/operation.js';
import type { Of } from '../../wire/schema.js';
import { DESTROYED_AT_ONCE, fateOfNameless } from '../target/orphans.js';
import type { ServedCall } from '../target/served_call.js';
import { batchedCircumstances } from './circumstances.js';
import { attrBits, ownFileLock, ownLock } from './reply_grants.js';
import { dataLock, inodeLock } from './with_locks.js';

export type Batched = Of<typeof BatchedOperation>;
type CreateRequest = RequestOf<typeof Create>;

export class BatchedOperations {
  readonly #call: ServedCall;
  readonly #tx: Tx;
  readonly #bulk: Buffer;
  readonly #oldPositions: readonly number[];
  readonly #made = new Set<Fid>();
  readonly #changedInodes = new Map<Fid, number>();
  readonly #changedData = new Set<Fid>();
  #bulkUsed = 0;
  #destroyed = 0;
  /** Where the names lie that CREATEs and RENAMEs have made, in their order. */
  readonly positions: number[] = [];
  /** Inodes without a name that nobody uses, beyond the number that one change may destroy. */
  readonly unused: Fid[] = [];

  /** @param oldPositions of a replay. */
  constructor(call: ServedCall, tx: Tx, bulk: Buffer, oldPositions: readonly number[]) {
    this.#call = call;
    this.#tx = tx;
    this.#bulk = bulk;
    this.#oldPositions = oldPositions;
  }

  /** @throws FsError if the client may not have executed it. */
  execute({ create, setattr, unlink, rename, content }: Batched): void {
    const given = [create, setattr, unlink, rename, content].filter((one) => one !== undefined);
    if (given.length !== 1) throw new FsError('EPROTO', `${given.length} operations in one place`);
    if (create !== undefined) this.#create(create);
    if (setattr !== undefined) this.#setattr(setattr);
    if (unlink !== undefined) this.#unlink(unlink);
    if (rename !== undefined) this.#rename(rename);
    if (content !== undefined) this.#putContent(content);
  }

  /** Call it behind the last operation. @throws FsError if the bulk has bytes of no file. */
  finish(): void {
    const { length } = this.#bulk;
    if (this.#bulkUsed !== length)
      throw new FsError('EPROTO', `${length} bytes came, ${this.#bulkUsed} are named`);
  }

  /** What the operations have changed, as locks on it. */
  changes(): LockSpec[] {
    const inodes = [...this.#changedInodes].map(([fid, bits]) => inodeLock(fid, 'EX', bits));
    return [...inodes, ...[...this.#changedData].map((fid) => dataLock(fid, 'EX'))];
  }

  #create(request: CreateRequest): void {
    const { target } = this.#call;
    const { parent, name, fid, mode } = request;
    if (name === undefined) throw new FsError('EPROTO', 'a file without a name');
    checkCreation(request);
    this.#changesNames(parent);
    if (findExisting(this.#tx, { ...request, exclusive: true }) !== undefined) throw new FsError('EEXIST');
    target.assertNewFid(this.#call.client, fid);
    if (this.#tx.hasInode(fid)) throw new FsError('EPROTO', `FID ${fid} is in use`);
    const { position = 0 } = applyCreate(this.#tx, request, this.#circumstances(request));
    this.positions.push(position);
    this.#made.add(fid);
    this.#changed(fid, attrBits(mode));
  }

  #setattr(request: RequestOf<typeof Setattr>): void {
    const { fid, sizeBytes } = request;
    if (sizeBytes !== undefined) throw new FsError('EPROTO', 'a size');
    const now = timeOf(request);
    if (this.#isOver(fid)) return;
    const inode = needInode(this.#tx, fid);
    this.#changesAlone(inode);
    checkSetattr(inode, request);
    applySetattr(this.#tx, inode, request, now);
  }

  #unlink(request: RequestOf<typeof Unlink>): void {
    this.#changesNames(request.parent);
    const victim = findVictim(this.#tx, request);
    this.#removesAlone(needInode(this.#tx, victim.fid));
    checkUnlink(this.#tx, request, victim);
    applyUnlink(this.#tx, request, victim, this.#circumstances(request));
  }

  #rename(request: RequestOf<typeof Rename>): void {
    const { parent, newParent, flags } = request;
    if ((flags & ~RENAME_NOREPLACE) !== 0) throw new FsError('EPROTO', `flags ${flags}`);
    checkFlags(request);
    this.#changesNames(parent);
    this.#changesNames(newParent);
    const names = findNames(this.#tx, request);
    const { source, other } = names;
    this.#changesAlone(needInode(this.#tx, source.fid));
    checkRename(this.#tx, request, names);
    const circumstances = this.#circumstances(request);
    if (movesNothing(names)) {
      this.positions.push(0);
      return;
    }
    if (other !== undefined) this.#removesAlone(needInode(this.#tx, other.fid));
    const { position = 0 } = applyRename(this.#tx, request, names, circumstances);
    this.positions.push(position);
  }

  #putContent({ fid, mtime, lengthBytes }: Of<typeof Content>): void {
    const start = this.#bulkUsed;
    this.#bulkUsed += lengthBytes;
    if (this.#bulkUsed > this.#bulk.length) throw new FsError('EPROTO', 'more content than came');
    if (!this.#made.has(fid)) throw new FsError('EPROTO', `content of inode ${fid}, which is not new`);
    if (this.#isOver(fid)) return;
    const { data } = this.#call.target.store;
    data.putWhole(this.#tx, fid, this.#bulk.subarray(start, this.#bulkUsed), mtime);
    this.#changedData.add(fid);
  }

  #circumstances(request: { readonly time?: Timespec | undefined }): Circumstances {
    const position = this.#oldPositions[this.positions.length];
    return batchedCircumstances(this.#call, timeOf(request), position, (fid) => this.#fateOf(fid));
  }

  #fateOf(fid: Fid): 'orphan' | 'destroyed' {
    const fate = fateOfNameless(this.#call.target, fid);
    if (fate === 'orphan' || this.#destroyed++ < DESTROYED_AT_ONCE) return fate;
    this.unused.push(fid);
    return 'orphan';
  }

  /** The BATCH has made the inode and destroyed it again; a program that has it open still goes on. */
  #isOver(fid: Fid): boolean {
    return this.#made.has(fid) && !this.#tx.hasInode(fid);
  }

  #changesNames(directory: Fid): void {
    this.#mustHave(directory, 'names', ({ target, client }) => {
      const own = ownLock(directory);
      if (target.locks.holds(client.uuid, own)) return true;
      return client.madeUnowned.has(directory) && target.locks.heldAlone(client.uuid, own);
    });
    this.#changed(directory, ownLock(directory).bits);
  }

  #changesAlone({ fid, mode }: Inode): void {
    this.#needsAlone(fid, inodeLock(fid, 'EX', attrBits(mode)));
    this.#changed(fid, attrBits(mode));
  }

  #removesAlone(inode: Inode): void {
    const { fid, mode } = inode;
    const { target, client } = this.#call;
    this.#changesAlone(inode);
    if (!isRegular(mode) || target.locks.holds(client.uuid, ownFileLock(fid))) return;
    this.#needsAlone(fid, dataLock(fid, 'EX'));
  }

  #needsAlone(fid: Fid, spec: LockSpec): void {
    this.#mustHave(fid, spec.type, ({ target, client }) => target.locks.heldAlone(client.uuid, spec));
  }

  #mustHave(fid: Fid, what: string, has: (call: ServedCall) => boolean): void {
    if (this.#call.isReplay || this.#made.has(fid) || has(this.#call)) return;
    throw new FsError('EPERM', `the client has no lock on the ${what} of inode ${fid}`);
  }

  #changed(fid: Fid, bits: number): void {
    this.#changedInodes.set(fid, (this.#changedInodes.get(fid) ?? 0) | bits);
  }
}

/** @throws FsError EPROTO */
function timeOf({ time }: { readonly time?: Timespec | undefined }): Timespec {
  if (time === undefined) throw new FsError('EPROTO', 'no time');
  return time;
}
