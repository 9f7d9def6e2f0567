/**
 * Taking a client's state away: eviction (its locks were needed and it did not answer, it did not drain, an
 * administrator said so) and the goodbye of a clean unmount, which differ in what the client and STATUS are told.
 *
 * Order matters: the export leaves the table first, so nothing new of it is executed; then its writes that are already
 * in the store's hands end; only then its locks go, because the next holder must not see those writes arrive.
 */

import { FsError } from '../base/errno.js';
import type { ClientUuid, Fid } from '../base/ids.js';
import { logger } from '../base/log.js';
import type { HeldLock } from '../dlm/api.js';
import { Evicted } from '../wire/session.js';
import type { Export } from './export.js';
import { deadAmong, destroyAll } from './orphans.js';
import type { Target } from './target.js';

const log = logger('server');

const REASON_MAX = 500;

export function evict(target: Target, owner: Export, why: string): void {
  if (owner.goneReason !== undefined) return;
  const reason = why.slice(0, REASON_MAX);
  log('evicts client %s: %s', owner.label, reason);
  target.clientEvicted(`client ${owner.label} is evicted: ${reason}`);
  target.exports.rememberEvicted(owner.uuid, owner.name, reason);
  owner.requester.notify(Evicted, { reason });
  leave(target, owner, `evicted: ${reason}`);
  owner.link?.end();
}

/** The client said goodbye; its reply is still to be sent. */
export function goodbye(target: Target, owner: Export): void {
  leave(target, owner, 'the client has disconnected');
}

/** Nothing of it is waited for any more. */
export function silence(owner: Export, reason: string): void {
  owner.endWaits(new FsError('ECANCELED', reason));
  owner.requester.failAll(new FsError('ESHUTDOWN', reason));
  dropHeld(owner);
  for (const timer of owner.prolonged.values()) timer.cancel();
  owner.prolonged.clear();
}

function leave(target: Target, owner: Export, goneReason: string): void {
  owner.goneReason = goneReason;
  target.exports.remove(owner);
  silence(owner, goneReason);
  target.grants.drop(owner);
  target.clientGone(owner.uuid);
  target.returning.delete(owner);
  if (owner.writesInFlight === 0) {
    removeState(target, owner);
    return;
  }
  target.leaving.add(owner.uuid);
  owner.writesIdle = () => {
    target.leaving.delete(owner.uuid);
    removeState(target, owner);
  };
}

/** Locks, opens, orphans and the record. */
function removeState(target: Target, owner: Export): void {
  const unused = target.opens.removeAll(owner);
  owner.activeLocks.clear();
  target.locks.dropClient(owner.uuid);
  if (target.stopped) return;
  try {
    const dead = deadAmong(target, unused);
    target.store.execute(
      (tx) => {
        destroyAll(tx, dead);
        tx.removeClient(owner.uuid);
      },
      { reserve: true },
    );
  } catch (error) {
    // The target has failed and is about to stop; its next instance evicts everybody.
    if (!(error instanceof FsError)) throw error;
    log('record of client %s stays: %s', owner.label, error.message);
  }
}

export function dropHeld(owner: Export): void {
  owner.held = [];
  owner.heldBytes = 0;
  if (!owner.heldPause) return;
  owner.heldPause = false;
  owner.link?.resume();
}

/** Clients that a new instance cannot take over. Their records and opens are all there is of them. */
export function forgetPrevious(
  target: Target,
  previous: readonly { readonly uuid: ClientUuid; readonly name: string }[],
  reason: string,
): void {
  for (const { uuid, name } of previous) {
    log('evicts client %s (%s): %s', name, uuid, reason);
    target.clientEvicted(`client ${name} (${uuid.slice(0, 8)}) is evicted: ${reason}`);
    target.exports.rememberEvicted(uuid, name, reason);
  }
  target.store.execute(
    (tx) => {
      for (const { uuid } of previous) tx.removeClient(uuid);
    },
    { reserve: true },
  );
}

/** A WRITE came: a client that was asked for this file's lock is flushing, which may take longer than the limit. */
export function noteWrite(target: Target, owner: Export, fid: Fid): void {
  if (owner.lastWriteMs.has(fid)) owner.lastWriteMs.set(fid, target.time.nowMs());
}

export function noteCalledBack(owner: Export, lock: HeldLock): void {
  if (lock.type !== 'data') return;
  owner.calledBack.set(lock.handle, lock.fid as Fid);
  if (!owner.lastWriteMs.has(lock.fid as Fid)) owner.lastWriteMs.set(lock.fid as Fid, 0);
}

export function noteCancelled(owner: Export, handle: HeldLock['handle']): void {
  owner.activeLocks.delete(handle);
  owner.prolonged.get(handle)?.cancel();
  owner.prolonged.delete(handle);
  const fid = owner.calledBack.get(handle);
  if (fid === undefined) return;
  owner.calledBack.delete(handle);
  for (const other of owner.calledBack.values()) if (other === fid) return;
  owner.lastWriteMs.delete(fid);
}

/**
 * A lock was not given back within lockTimeoutMs. Who has written to the file lately is flushing a large cache and is
 * looked at again later; who has not is evicted. The active lock has its own limit, the drain timeout.
 */
export function lockExpired(target: Target, uuid: ClientUuid, lock: HeldLock): void {
  const owner = target.exports.get(uuid);
  if (owner === undefined || lock.type === 'active') return;
  const { lockTimeoutMs } = target.options;
  const lastWriteMs = lock.type === 'data' ? owner.lastWriteMs.get(lock.fid as Fid) : undefined;
  const now = target.time.nowMs();
  if (lastWriteMs !== undefined && lastWriteMs > 0 && now - lastWriteMs < lockTimeoutMs / 2) {
    const timer = target.time.after(lockTimeoutMs / 2, () => {
      if (owner.prolonged.delete(lock.handle)) lockExpired(target, uuid, lock);
    });
    owner.prolonged.set(lock.handle, timer);
    return;
  }
  evict(target, owner, `it did not give back a lock on ${lockName(lock)} within ${lockTimeoutMs} ms`);
}

function lockName(lock: HeldLock): string {
  return lock.type === 'data' ? `the data of inode ${lock.fid}` : `inode ${lock.fid}`;
}
