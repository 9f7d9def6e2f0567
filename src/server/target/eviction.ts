/**
 * Taking a client's state away: eviction (its locks were needed and it did not answer, it did not drain, an
 * administrator said so) and the goodbye of a clean unmount, which differ in what the client and STATUS are told.
 *
 * That a client was evicted is recorded in the transaction that removes it, so that the next instance can still say it.
 *
 * Order matters: the export leaves the table first, so nothing new of it is executed; then its writes that are already
 * in the store's hands end, because the next holder of its locks must not see them arrive; then its record goes; and when
 * that is durable its locks go, and recovery does not wait for it any more. Killed before, the next server knows it as a client
 * that comes back with its locks: nobody may have been given them. Who says goodbye has given them back itself.
 */

import { FsError } from '../../base/errno.js';
import type { ClientUuid, Fid } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import type { HeldLock } from '../../dlm/api.js';
import { wallMs } from '../../runtime/ports.js';
import { EVICTIONS_KEPT, type EvictedPossessions, type EvictionRecord, type Tx } from '../../storage/api.js';
import { Evicted } from '../../wire/session.js';
import { type Export, type Prolonged, shortUuid } from '../export/export.js';
import { DESTROYED_AT_ONCE, deadAmong, deadOfReleased, destroyAll, destroyInSteps } from './orphans.js';
import type { Leaving, Target } from './target.js';

const log = logger('server');

const REASON_MAX = 500;
/** Between two looks, 10 s: a fifth of what 256 kbit/s carry. */
const MOVED_BYTES_MIN = 64 << 10;
/** Looks: with a lock timeout of 20 s, 10 minutes. */
const PROLONGED_MAX = 60;

export function evict(target: Target, owner: Export, why: string): void {
  if (owner.goneReason !== undefined) return;
  const reason = why.slice(0, REASON_MAX);
  log('evicts client %s: %s', owner.label, reason);
  const had = whatItHad(target, owner);
  target.clientEvicted(`client ${owner.label} is evicted: ${reason} (it had ${possessions(had)})`);
  target.exports.rememberEvicted(owner.uuid, owner.name, reason);
  owner.requester.notify(Evicted, { reason });
  const record = { ...nowOf(target), uuid: owner.uuid, name: owner.name, reason, had };
  const removed = (left: Leaving): void => goneWhenDurable(target, [[owner.uuid, left]]);
  leave(target, owner, `evicted: ${reason}`, removed, record);
  owner.link?.end();
}

/** What the server knows of it. The client says how many bytes it lost. */
function whatItHad(target: Target, owner: Export): EvictedPossessions {
  return {
    opens: owner.opens.size,
    locks: target.locks.count(owner.uuid),
    dirtyBytes: owner.progress?.dirtyBytes ?? 0,
  };
}

function possessions({ opens, locks, dirtyBytes }: EvictedPossessions): string {
  return `${opens} opens, ${locks} locks${dirtyBytes > 0 ? `, ${dirtyBytes} bytes not written` : ''}`;
}

function nowOf(target: Target): Pick<EvictionRecord, 'instance' | 'atMs'> {
  return { instance: target.store.superblock.instance, atMs: wallMs(target.runtime.clock) };
}

/** The client said goodbye; its reply is still to be sent. */
export function goodbye(target: Target, owner: Export): void {
  leave(target, owner, 'the client has disconnected', (left) => gone(target, owner.uuid, left));
}

/** Nothing of it is waited for any more. */
export function silence(owner: Export, reason: string): void {
  owner.endWaits(new FsError('ECANCELED', reason));
  owner.requester.failAll(new FsError('ESHUTDOWN', reason));
  dropHeld(owner);
  for (const { timer } of owner.prolonged.values()) timer.cancel();
  owner.prolonged.clear();
  owner.kept.remove(owner.replayBytes);
  owner.replayBytes = 0;
}

/**
 * @param removed called when nothing of it is left but its locks.
 * @param eviction recorded with the removal.
 */
function leave(
  target: Target,
  owner: Export,
  goneReason: string,
  removed: (left: Leaving) => void,
  eviction?: EvictionRecord,
): void {
  owner.goneReason = goneReason;
  target.exports.remove(owner);
  silence(owner, goneReason);
  target.locks.abandonWaits(owner.uuid);
  target.grants.drop(owner);
  target.returning.delete(owner);
  const left = leaves(target, owner.uuid, owner.writesInFlight > 0);
  const remove = (): void => {
    left.isWriting = false;
    removeState(target, owner, eviction);
    removed(left);
  };
  if (owner.writesInFlight === 0) remove();
  else owner.writesIdle = remove;
}

/** Opens, holds, orphans and the record. */
function removeState(target: Target, owner: Export, eviction: EvictionRecord | undefined): void {
  const unused = target.opens.removeAll(owner);
  owner.activeLocks.clear();
  if (target.stopped) return;
  try {
    const released = [...target.holds.release(owner, owner.holds), ...target.holds.unasked()];
    const dead = [...deadAmong(target, unused), ...deadOfReleased(target, released)];
    target.store.execute(
      (tx) => {
        destroyAll(target, tx, dead.splice(0, DESTROYED_AT_ONCE));
        tx.removeClient(owner.uuid);
        if (eviction !== undefined) tx.putEviction(eviction);
      },
      { reserve: 'own' },
    );
    void destroyInSteps(target, dead);
  } catch (error) {
    // The target has failed and is about to stop; its next instance evicts everybody.
    if (!(error instanceof FsError)) throw error;
    log('record of client %s stays: %s', owner.label, error.message);
  }
}

function leaves(target: Target, uuid: ClientUuid, isWriting: boolean): Leaving {
  const left = { isWriting };
  target.leaving.set(uuid, left);
  target.clientLeaves(uuid);
  return left;
}

/** What it had is free for others. */
function gone(target: Target, uuid: ClientUuid, left: Leaving): void {
  if (target.leaving.get(uuid) !== left) return;
  target.leaving.delete(uuid);
  target.locks.dropClient(uuid);
  target.clientGone(uuid);
}

/** Never, when the target fails or stops before: its next server decides about these clients. */
function goneWhenDurable(target: Target, left: readonly (readonly [ClientUuid, Leaving])[]): void {
  const allGone = (): void => {
    for (const [uuid, one] of left) gone(target, uuid, one);
  };
  if (target.stopped) {
    allGone();
    return;
  }
  target.store.sync().then(
    () => {
      // Stopped meanwhile: it has dropped all locks.
      if (!target.stopped) allGone();
    },
    (error: unknown) => log('clients that leave stay known: %O', error),
  );
}

/** It knows itself that it has nothing any more: it will not come back with what it had. */
export function cameAnew(target: Target, uuid: ClientUuid): void {
  const left = target.leaving.get(uuid);
  if (left !== undefined) gone(target, uuid, left);
}

export function dropHeld(owner: Export): void {
  owner.held = [];
  owner.kept.remove(owner.heldBytes);
  owner.heldBytes = 0;
  if (!owner.heldPause) return;
  owner.heldPause = false;
  owner.link?.resume();
}

type Previous = readonly { readonly uuid: ClientUuid; readonly name: string }[];

/** Clients that a new instance does not take over, or waits for no longer. Their records are all there is of them. */
export function forgetPrevious(target: Target, previous: Previous, reason: string): void {
  const left = sayForgotten(target, previous, reason);
  const { instance, atMs } = nowOf(target);
  target.store.execute((tx) => removePrevious(tx, previous, { reason, instance, atMs }), { reserve: 'own' });
  goneWhenDurable(target, left);
}

/** The same of clients that removePrevious() has removed. */
export function forgotPrevious(target: Target, previous: Previous, reason: string): void {
  goneWhenDurable(target, sayForgotten(target, previous, reason));
}

export function removePrevious(
  tx: Tx,
  previous: Previous,
  eviction: Pick<EvictionRecord, 'reason' | 'instance' | 'atMs'>,
): void {
  for (const { uuid } of previous) tx.removeClient(uuid);
  for (const { uuid, name } of previous.slice(-EVICTIONS_KEPT)) {
    tx.putEviction({ ...eviction, uuid, name, had: undefined });
  }
}

function sayForgotten(
  target: Target,
  previous: Previous,
  reason: string,
): (readonly [ClientUuid, Leaving])[] {
  return previous.map(({ uuid, name }) => {
    log('evicts client %s (%s): %s', name, uuid, reason);
    target.clientEvicted(`client ${name} (${shortUuid(uuid)}) is evicted: ${reason}`);
    target.exports.rememberEvicted(uuid, name, reason);
    return [uuid, leaves(target, uuid, false)] as const;
  });
}

/**
 * A WRITE came, or a READ was answered: a client that was asked for this file's lock is flushing, or ends a read that holds
 * folios, which may take longer than the limit.
 */
export function noteMoved(owner: Export, fid: Fid, bytes: number): void {
  const before = owner.movedBytes.get(fid);
  if (before !== undefined) owner.movedBytes.set(fid, before + bytes);
}

export function noteCalledBack(owner: Export, lock: HeldLock): void {
  if (lock.type !== 'data') return;
  owner.calledBack.set(lock.handle, lock.fid as Fid);
  if (!owner.movedBytes.has(lock.fid as Fid)) owner.movedBytes.set(lock.fid as Fid, 0);
}

export function noteCancelled(owner: Export, handle: HeldLock['handle']): void {
  owner.activeLocks.delete(handle);
  owner.prolonged.get(handle)?.timer.cancel();
  owner.prolonged.delete(handle);
  const fid = owner.calledBack.get(handle);
  if (fid === undefined) return;
  owner.calledBack.delete(handle);
  for (const other of owner.calledBack.values()) if (other === fid) return;
  owner.movedBytes.delete(fid);
}

/**
 * A lock was not given back within lockTimeoutMs. A client that goes on writing to the file is flushing a large cache, or a
 * small one over a slow line; a client that reads the file has to end a read of its kernel, piece by piece. The server looks at
 * the lock again later, at most PROLONGED_MAX times, if at least MOVED_BYTES_MIN moved
 * since the last look. A client that moves less, or does not come to an end, is evicted: others wait for the lock. The
 * active lock has its own limit, the drain timeout.
 */
export function lockExpired(target: Target, uuid: ClientUuid, lock: HeldLock, last?: Prolonged): void {
  const owner = target.exports.get(uuid);
  if (owner === undefined || lock.type === 'active') return;
  const { lockTimeoutMs } = target.options;
  const movedBytes = lock.type === 'data' ? moved(owner, lock.fid as Fid) : 0;
  const times = (last?.times ?? 0) + 1;
  if (movedBytes - (last?.movedBytes ?? 0) >= MOVED_BYTES_MIN && times <= PROLONGED_MAX) {
    const timer = target.time.after(lockTimeoutMs / 2, () => {
      if (owner.prolonged.delete(lock.handle)) lockExpired(target, uuid, lock, prolonged);
    });
    const prolonged = { timer, movedBytes, times };
    owner.prolonged.set(lock.handle, prolonged);
    return;
  }
  const more = last === undefined ? '' : `; it has written and read ${movedBytes} bytes meanwhile`;
  const waitedMs = lockTimeoutMs + (times - 1) * (lockTimeoutMs / 2);
  evict(target, owner, `it did not give back a lock on ${lockName(lock)} within ${waitedMs} ms${more}`);
}

/** With what has arrived of a WRITE that is not complete: on a slow line one takes longer than a look. */
function moved(owner: Export, fid: Fid): number {
  return (owner.movedBytes.get(fid) ?? 0) + (owner.link?.arrivingBytes ?? 0);
}

function lockName(lock: HeldLock): string {
  return lock.type === 'data' ? `the data of inode ${lock.fid}` : `inode ${lock.fid}`;
}
