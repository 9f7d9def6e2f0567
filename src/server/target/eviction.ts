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
import { type ClientExport, type Prolonged, shortUuid } from '../export/export.js';
import { DESTROYED_AT_ONCE, deadAmong, deadOfReleased, destroyAll, destroyInSteps } from './orphans.js';
import type { Leaving, ServedTarget } from './served_target.js';

const log = logger('server');

const REASON_MAX = 500;
/** Between two looks, 10 s: a fifth of what 256 kbit/s carry. */
const MOVED_BYTES_MIN = 64 << 10;
/** Looks: with a lock timeout of 20 s, 10 minutes. */
const PROLONGED_MAX = 60;

export function evict(target: ServedTarget, client: ClientExport, why: string): void {
  if (client.life.isOverAlone) return;
  const reason = why.slice(0, REASON_MAX);
  log('evicts client %s: %s', client.label, reason);
  const had = whatItHad(target, client);
  target.events.clientEvicted(`client ${client.label} is evicted: ${reason} (it had ${possessions(had)})`);
  target.exports.rememberEvicted(client.uuid, client.name, reason);
  client.requester.notify(Evicted, { reason });
  const record = { ...nowOf(target), uuid: client.uuid, name: client.name, reason, had };
  const removed = (left: Leaving): void => goneWhenDurable(target, [[client.uuid, left]]);
  leave(target, client, `evicted: ${reason}`, removed, record);
  client.link?.end();
}

/** What the server knows of it. The client says how many bytes it lost. */
function whatItHad(target: ServedTarget, client: ClientExport): EvictedPossessions {
  return {
    opens: client.opens.size,
    locks: target.locks.count(client.uuid),
    dirtyBytes: client.progress?.dirtyBytes ?? 0,
  };
}

function possessions({ opens, locks, dirtyBytes }: EvictedPossessions): string {
  return `${opens} opens, ${locks} locks${dirtyBytes > 0 ? `, ${dirtyBytes} bytes not written` : ''}`;
}

function nowOf(target: ServedTarget): Pick<EvictionRecord, 'instance' | 'atMs'> {
  return { instance: target.store.superblock.instance, atMs: wallMs(target.runtime.clock) };
}

/** The client said goodbye; its reply is still to be sent. */
export function goodbye(target: ServedTarget, client: ClientExport): void {
  leave(target, client, 'the client has disconnected', (left) => gone(target, client.uuid, left));
}

/** Nothing of it is waited for any more. */
export function endRequests(client: ClientExport, reason: string): void {
  client.endWaits(new FsError('ECANCELED', reason));
  client.requester.failAll(new FsError('ESHUTDOWN', reason));
  dropHeld(client);
  for (const { timer } of client.prolonged.values()) timer.cancel();
  client.prolonged.clear();
  client.kept.remove(client.replayBytes);
  client.replayBytes = 0;
}

/**
 * @param removed called when nothing of it is left but its locks.
 * @param eviction recorded with the removal.
 */
function leave(
  target: ServedTarget,
  client: ClientExport,
  goneReason: string,
  removed: (left: Leaving) => void,
  eviction?: EvictionRecord,
): void {
  client.life.end(new FsError('ESHUTDOWN', goneReason));
  target.exports.remove(client);
  endRequests(client, goneReason);
  target.locks.abandonWaits(client.uuid);
  target.grants.drop(client);
  target.undrained.delete(client);
  const left = leaves(target, client.uuid, client.writes.count > 0);
  const remove = (): void => {
    left.isWriting = false;
    removeState(target, client, eviction);
    removed(left);
  };
  if (client.writes.count === 0) remove();
  else void client.writes.zero().then(remove);
}

/** Opens, holds, orphans and the record. */
function removeState(target: ServedTarget, client: ClientExport, eviction: EvictionRecord | undefined): void {
  const unused = target.opens.removeAll(client);
  client.activeLocks.clear();
  if (target.life.isOver) return;
  try {
    const released = [...target.holds.release(client, client.holds), ...target.holds.unasked()];
    const dead = [...deadAmong(target, unused), ...deadOfReleased(target, released)];
    target.store.execute(
      (tx) => {
        destroyAll(target, tx, dead.splice(0, DESTROYED_AT_ONCE));
        tx.removeClient(client.uuid);
        if (eviction !== undefined) tx.putEviction(eviction);
      },
      { reserve: 'own' },
    );
    void destroyInSteps(target, dead);
  } catch (error) {
    // The target has failed and is about to stop; its next instance evicts everybody.
    if (!(error instanceof FsError)) throw error;
    log('record of client %s stays: %s', client.label, error.message);
  }
}

function leaves(target: ServedTarget, uuid: ClientUuid, isWriting: boolean): Leaving {
  const left = { isWriting };
  target.leaving.set(uuid, left);
  target.events.clientLeaves(uuid);
  return left;
}

/** What it had is free for others. */
function gone(target: ServedTarget, uuid: ClientUuid, left: Leaving): void {
  if (target.leaving.get(uuid) !== left) return;
  target.leaving.delete(uuid);
  target.locks.dropClient(uuid);
  target.events.clientGone(uuid);
}

/** Never, when the target fails or stops before: its next server decides about these clients. */
function goneWhenDurable(target: ServedTarget, left: readonly (readonly [ClientUuid, Leaving])[]): void {
  const allGone = (): void => {
    for (const [uuid, one] of left) gone(target, uuid, one);
  };
  if (target.life.isOver) {
    allGone();
    return;
  }
  target.store.sync().then(
    () => {
      // Stopped meanwhile: it has dropped all locks.
      if (!target.life.isOver) allGone();
    },
    (error: unknown) => log('clients that leave stay known: %O', error),
  );
}

/** It knows itself that it has nothing any more: it will not come back with what it had. */
export function cameAnew(target: ServedTarget, uuid: ClientUuid): void {
  const left = target.leaving.get(uuid);
  if (left !== undefined) gone(target, uuid, left);
}

export function dropHeld(client: ClientExport): void {
  client.held = [];
  client.kept.remove(client.heldBytes);
  client.heldBytes = 0;
  if (!client.heldPause) return;
  client.heldPause = false;
  client.link?.resume();
}

type Previous = readonly { readonly uuid: ClientUuid; readonly name: string }[];

/** Clients that a new instance does not take over, or waits for no longer. Their records are all there is of them. */
export function forgetPrevious(target: ServedTarget, previous: Previous, reason: string): void {
  const left = sayForgotten(target, previous, reason);
  const { instance, atMs } = nowOf(target);
  target.store.execute((tx) => removePrevious(tx, previous, { reason, instance, atMs }), { reserve: 'own' });
  goneWhenDurable(target, left);
}

/** The same of clients that removePrevious() has removed. */
export function forgotPrevious(target: ServedTarget, previous: Previous, reason: string): void {
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
  target: ServedTarget,
  previous: Previous,
  reason: string,
): (readonly [ClientUuid, Leaving])[] {
  return previous.map(({ uuid, name }) => {
    log('evicts client %s (%s): %s', name, uuid, reason);
    target.events.clientEvicted(`client ${name} (${shortUuid(uuid)}) is evicted: ${reason}`);
    target.exports.rememberEvicted(uuid, name, reason);
    return [uuid, leaves(target, uuid, false)] as const;
  });
}

/**
 * A WRITE came, or a READ was answered: a client that was asked for this file's lock is flushing, or ends a read that holds
 * folios, which may take longer than the limit.
 */
export function noteMoved(client: ClientExport, fid: Fid, bytes: number): void {
  const before = client.movedBytes.get(fid);
  if (before !== undefined) client.movedBytes.set(fid, before + bytes);
}

export function noteCalledBack(client: ClientExport, lock: HeldLock): void {
  if (lock.type !== 'data') return;
  client.calledBack.set(lock.handle, lock.fid as Fid);
  if (!client.movedBytes.has(lock.fid as Fid)) client.movedBytes.set(lock.fid as Fid, 0);
}

export function noteCancelled(client: ClientExport, handle: HeldLock['handle']): void {
  client.activeLocks.delete(handle);
  client.prolonged.get(handle)?.timer.cancel();
  client.prolonged.delete(handle);
  const fid = client.calledBack.get(handle);
  if (fid === undefined) return;
  client.calledBack.delete(handle);
  for (const other of client.calledBack.values()) if (other === fid) return;
  client.movedBytes.delete(fid);
}

/**
 * A lock was not given back within lockTimeoutMs. A client that goes on writing to the file is flushing a large cache, or a
 * small one over a slow line; a client that reads the file has to end a read of its kernel, piece by piece. The server looks at
 * the lock again later, at most PROLONGED_MAX times, if at least MOVED_BYTES_MIN moved
 * since the last look. A client that moves less, or does not come to an end, is evicted: others wait for the lock. The
 * active lock has its own limit, the drain timeout.
 */
export function lockExpired(target: ServedTarget, uuid: ClientUuid, lock: HeldLock, last?: Prolonged): void {
  const client = target.exports.get(uuid);
  if (client === undefined || lock.type === 'active') return;
  const { lockTimeoutMs } = target.options;
  const movedBytes = lock.type === 'data' ? moved(client, lock.fid as Fid) : 0;
  const times = (last?.times ?? 0) + 1;
  if (movedBytes - (last?.movedBytes ?? 0) >= MOVED_BYTES_MIN && times <= PROLONGED_MAX) {
    const timer = target.time.after(lockTimeoutMs / 2, () => {
      if (client.prolonged.delete(lock.handle)) lockExpired(target, uuid, lock, prolonged);
    });
    const prolonged = { timer, movedBytes, times };
    client.prolonged.set(lock.handle, prolonged);
    return;
  }
  const more = last === undefined ? '' : `; it has written and read ${movedBytes} bytes meanwhile`;
  const waitedMs = lockTimeoutMs + (times - 1) * (lockTimeoutMs / 2);
  evict(target, client, `it did not give back a lock on ${lockName(lock)} within ${waitedMs} ms${more}`);
}

/** With what has arrived of a WRITE that is not complete: on a slow line one takes longer than a look. */
function moved(client: ClientExport, fid: Fid): number {
  return (client.movedBytes.get(fid) ?? 0) + (client.link?.arrivingBytes ?? 0);
}

function lockName(lock: HeldLock): string {
  return lock.type === 'data' ? `the data of inode ${lock.fid}` : `inode ${lock.fid}`;
}
