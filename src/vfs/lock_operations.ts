/**
 * Application locks: flock(2), fcntl(2) and OFD.
 *
 * The kernel marks only flock locks. A classic POSIX lock and an OFD lock look the same and conflict with each other, so both go
 * to the client as 'posix' (handles.ts tells them apart where it matters, at their end).
 */

import type { Fh } from '../base/ids.js';
import { andThen } from '../base/maybe_promise.js';
import type { AppLock } from '../client/api.js';
import type { FuseHandlers, LockIn, LockOut } from '../fuse/handlers.js';
import type { VfsContext } from './context.js';

export function lockOperations(vfs: VfsContext): Pick<FuseHandlers, 'getlk' | 'setlk'> {
  return {
    getlk(request, _nodeid, lock) {
      return andThen(vfs.client.testLock(request, lock.fh as Fh, appLock(lock)), (conflict) =>
        lockOut(lock, conflict),
      );
    },

    setlk(request, _nodeid, lock) {
      const fh = lock.fh as Fh;
      if (lock.type === 'unlock') return vfs.client.unlock(request, fh, appLock(lock));
      // Noted before the answer: if an interrupt takes a granted lock away, the note costs a needless flush at most.
      if (!lock.flock) vfs.lockOwners.took(fh, lock.owner);
      return vfs.client.setLock(request, fh, appLock(lock), lock.wait);
    },
  };
}

function appLock(lock: LockIn): AppLock {
  return {
    kind: lock.flock ? 'flock' : 'posix',
    owner: lock.owner,
    pid: lock.pid,
    exclusive: lock.type === 'write',
    start: lock.start,
    end: lock.end,
  };
}

function lockOut(asked: LockIn, conflict: AppLock | undefined): LockOut {
  if (conflict === undefined) return { type: 'unlock', start: asked.start, end: asked.end, pid: 0 };
  const { start, end, pid, exclusive } = conflict;
  return { type: exclusive ? 'write' : 'read', start, end, pid };
}
