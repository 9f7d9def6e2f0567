/** The lock server of a target, and what the target does with its callbacks. */

import { logger } from '../../base/log.js';
import { LockServer } from '../../dlm/lock_server.js';
import { Bast, Cast } from '../../wire/lock.js';
import { lockExpired, noteCalledBack, registerEvictions } from './eviction.js';
import type { ServedTarget } from './served_target.js';

const log = logger('server:locks');

/** Each instance has its own handles: a CANCEL sent to an earlier instance must not name a lock of this one. */
const HANDLES_PER_INSTANCE = 2 ** 36;
const INSTANCES = 2 ** 16;

export function lockServerOf(target: ServedTarget): LockServer {
  const { timers, clock, metrics } = target.runtime;
  const calls = metrics.counter('holdfast_server_callbacks_total', 'Locks called back, repetitions too');
  registerEvictions(target);
  return new LockServer({
    timers,
    clock,
    givenBack: metrics.histogram(
      'holdfast_server_callback_seconds',
      'Time from calling a lock back until the client has given it back',
    ),
    limits: target.time,
    lockTimeoutMs: target.options.lockTimeoutMs,
    maxAllLocks: target.options.locksMax,
    limitOf: (client) => target.exports.get(client)?.rights.limits.locks,
    firstHandle: (target.store.superblock.instance % INSTANCES) * HANDLES_PER_INSTANCE + 1,
    callbacks: {
      bast: (lock) => {
        const client = target.exports.get(lock.client);
        if (client === undefined || target.life.isOver) return;
        calls.inc();
        noteCalledBack(client, lock);
        const { handle, type, fid } = lock;
        // Without a connection the BAST is lost; the server sends it again when the client is back.
        client.requester.notify(Bast, { handle, type, fid: fid === 0 ? undefined : fid });
      },
      cast: (client, handle, errno) => {
        const owner = target.exports.get(client);
        if (owner === undefined || target.life.isOver) return;
        const cast = { handle, errno };
        owner.casts.add(cast);
        owner.requester.notify(Cast, cast);
      },
      expired: (client, lock) => lockExpired(target, client, lock),
      commit: () => {
        // Waiters get the result through onCommit(). A target that fails stops the server, and with it all waits.
        target.store.sync().catch((error: unknown) => log('commit on sharing: %O', error));
      },
    },
  });
}
