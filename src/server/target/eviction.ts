/**
 * Takes a client's state away. There are two ways: eviction (others needed its locks and it did not answer, it did not
 * drain, or an administrator evicted it), and the goodbye of a clean unmount. They differ in what the server tells the
 * client and shows in STATUS.
 *
 * The server records an eviction in the transaction that removes the client, so that the next instance can still report
 * it.
 *
 * Order matters. First the export leaves the table, so the server executes nothing new of the client. Then the client's
 * writes that the store already works on end, because the next holder of its locks must not see them arrive. Then the
 * server removes its record. When that is durable, the server drops its locks, and recovery does not wait for the
 * client any more. If the server is killed before that, the next server knows the client as one that comes back with
 * its locks, so nobody else may have got them. A client that says goodbye has given its locks back itself.
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
/** Bytes that must move between two looks, which are 10 s apart: a fifth of what a line of 256 kbit/s carries. */
const MOVED_BYTES_MIN = 64 << 10;
/** Most looks at one lock: with a lock timeout of 20 s, 10 minutes. */
const PROLONGED_MAX = 60;

/** What kind of reason it was, for metrics. protocol: the client broke the rules, or asks for what is not there any more. */
const CAUSES = [
  'lock',
  'silent',
  'drain',
  'recovery',
  'administrator',
  'access',
  'version',
  'protocol',
] as const;
export type EvictionCause = (typeof CAUSES)[number];

function count({ runtime }: ServedTarget, cause: EvictionCause, clients = 1): void {
  const help = 'Clients that this process has evicted';
  runtime.metrics.counter('holdfast_server_evictions_total', help, { cause }).inc(clients);
}

/** Shows them with the value 0: a rate needs a value from before. */
export function registerEvictions(target: ServedTarget): void {
  for (const cause of CAUSES) count(target, cause, 0);
}

export function evict(
  target: ServedTarget,
  client: ClientExport,
  why: string,
  cause: EvictionCause = 'protocol',
): void {
  if (client.life.isOverAlone) return;
  const reason = why.slice(0, REASON_MAX);
  log('evicts client %s: %s', client.label, reason);
  count(target, cause);
  const had = whatItHad(target, client);
  target.events.clientEvicted(`client ${client.label} is evicted: ${reason} (it had ${possessions(had)})`);
  target.exports.rememberEvicted(client.uuid, client.name, reason);
  client.requester.notify(Evicted, { reason });
  const record = { ...nowOf(target), uuid: client.uuid, name: client.name, reason, had };
  const removed = (left: Leaving): void => goneWhenDurable(target, [[client.uuid, left]]);
  leave(target, client, `evicted: ${reason}`, removed, record);
  client.link?.end();
}

/** What the client had, as far as the server knows; dirtyBytes is the client's own last report. */
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

/** The client said goodbye; the server still has to send the reply. */
export function goodbye(target: ServedTarget, client: ClientExport): void {
  leave(target, client, 'the client has disconnected', (left) => gone(target, client.uuid, left));
}

/** Cancels every wait that involves this client. */
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
 * @param removed called when the server has only the client's locks left.
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
  target.metaGrants.drop(client);
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

/** Removes the client's opens, holds, orphans and record. */
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
    // The target has failed and is about to stop; the next instance evicts all clients.
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

/** Frees the client's locks for others. */
function gone(target: ServedTarget, uuid: ClientUuid, left: Leaving): void {
  if (target.leaving.get(uuid) !== left) return;
  target.leaving.delete(uuid);
  target.locks.dropClient(uuid);
  target.events.clientGone(uuid);
}

/** If the target fails or stops while this waits, the clients stay: the next server decides about them. */
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
      // If the target stopped meanwhile, it has dropped all locks.
      if (!target.life.isOver) allGone();
    },
    (error: unknown) => log('the removal of clients is not durable: %O', error),
  );
}

/** The client knows itself that it has nothing any more: it will not come back with its old state. */
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

/**
 * For clients that a new instance does not take over, or does not wait for any longer. The server has only their
 * records.
 */
export function forgetPrevious(
  target: ServedTarget,
  previous: Previous,
  reason: string,
  cause: EvictionCause,
): void {
  count(target, cause, previous.length);
  const left = sayForgotten(target, previous, reason);
  const { instance, atMs } = nowOf(target);
  target.store.execute((tx) => removePrevious(tx, previous, { reason, instance, atMs }), { reserve: 'own' });
  goneWhenDurable(target, left);
}

/** The same for clients that removePrevious() has removed. */
export function forgotPrevious(target: ServedTarget, previous: Previous, reason: string): void {
  count(target, 'version', previous.length);
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
 * Call it when a WRITE came, or a READ was answered. A client that was asked for this file's lock is flushing, or is
 * finishing a read that holds folios, which may take longer than the limit.
 */
export function noteMoved(client: ClientExport, fid: Fid, bytes: number): void {
  const before = client.movedBytes.get(fid);
  if (before !== undefined) client.movedBytes.set(fid, before + bytes);
}

/**
 * Call it when a BATCH came. What a client has executed by itself it sends before it flushes a file and before it gives an
 * own lock back, so it makes progress on each of these locks.
 */
export function noteBatch(client: ClientExport, bytes: number): void {
  for (const [fid, before] of client.movedBytes) client.movedBytes.set(fid, before + bytes);
}

export function noteCalledBack(client: ClientExport, lock: HeldLock): void {
  if (lock.type !== 'data' && lock.mode !== 'EX') return;
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
 * Called when a client did not give back a lock within lockTimeoutMs. A client that goes on writing to the file, or sends
 * BATCHes, is flushing a large cache, or a small one over a slow line. A client that reads the file has to finish a read of its
 * kernel, piece by piece. If at least MOVED_BYTES_MIN moved since the last look, the server looks at the lock again
 * later, at most PROLONGED_MAX times. If a client moves less, or does not finish, the server evicts it: others wait for
 * the lock. The active lock has its own limit, the drain timeout.
 */
export function lockExpired(target: ServedTarget, uuid: ClientUuid, lock: HeldLock, last?: Prolonged): void {
  const client = target.exports.get(uuid);
  if (client === undefined || lock.type === 'active') return;
  const { lockTimeoutMs } = target.options;
  const movedBytes = client.calledBack.has(lock.handle) ? moved(client, lock.fid as Fid) : 0;
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
  evict(
    target,
    client,
    `it did not give back a lock on ${lockName(lock)} within ${waitedMs} ms${more}`,
    'lock',
  );
}

/**
 * Includes the bytes that have arrived of an incomplete WRITE: on a slow line one WRITE takes longer than the time
 * between two looks.
 */
function moved(client: ClientExport, fid: Fid): number {
  return (client.movedBytes.get(fid) ?? 0) + (client.link?.arrivingBytes ?? 0);
}

function lockName(lock: HeldLock): string {
  return lock.type === 'data' ? `the data of inode ${lock.fid}` : `inode ${lock.fid}`;
}
