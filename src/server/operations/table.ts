/**
 * Which function handles which operation, and which function answers it if an earlier instance has executed it and the
 * answer was lost (docs/recovery/replay.md, "Exactly once").
 */

import { isPromise } from '../../base/maybe_promise.js';
import type { Handler, Incoming } from '../../rpc/api.js';
import type { Service } from '../../rpc/service.js';
import type { ReplyRecord } from '../../storage/api.js';
import { DrainProgress } from '../../wire/admin.js';
import { Batch } from '../../wire/batch.js';
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
  Readdir,
  Readlink,
  Removexattr,
  Rename,
  Setattr,
  Setxattr,
  Statfs,
  Unlink,
} from '../../wire/meta.js';
import type { Operation } from '../../wire/operation.js';
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
import type { ServerView } from '../session/server_view.js';
import type { ServedCall } from '../target/served_call.js';
import { batch, batchedBefore } from './batch.js';
import { create, recreate } from './create.js';
import { copied, copyRange, fallocate, read, seek, sync, write, written } from './data.js';
import { cancel, enqueue, testFlock, unflock } from './locks.js';
import { getattr, lookup, readdir, readlink, statfs } from './lookup.js';
import { close, open, reopened } from './open.js';
import { checkAnswer, restricted } from './permits.js';
import {
  disconnect,
  getFids,
  ping,
  recoveryDone,
  replayed,
  replayLocks,
  replayOpens,
  replayTickets,
} from './recovery.js';
import { rename, renamed } from './rename.js';
import { changedBefore, setattr } from './setattr.js';
import { link, linked, unlink, unlinked } from './unlink.js';
import { getxattr, listxattr, removexattr, setxattr } from './xattr.js';

/** Waits while the meta device is nearly full: a commit may make room. Answers in the turn in which it executes. */
async function whenRoom<R>(
  first: Promise<unknown>,
  call: ServedCall,
  handle: () => ReturnType<Handler<ServedCall, unknown, R>>,
  incoming: Incoming<R>,
): Promise<undefined> {
  for (let wait: Promise<unknown> | undefined = first; wait !== undefined; wait = call.target.store.room()) {
    await wait;
  }
  const outcome = handle();
  if (isPromise(outcome)) {
    const late = await outcome;
    if (late !== undefined) incoming.answer(late);
  } else if (outcome !== undefined) {
    incoming.answer(outcome);
  }
  return undefined;
}

/**
 * Makes the reply to the executed operation `done` from the state as it is now. It grants no cache locks, but for BATCH: its
 * client has changes under them.
 */
type Reconstruct<Q, R> = (call: ServedCall, request: Q, done: ReplyRecord) => R;

/** Operations that execute under server locks, and are checked then: with_locks.ts. */
const LOCKED: ReadonlySet<number> = new Set(
  [
    Lookup,
    Getattr,
    Setattr,
    Create,
    Open,
    Unlink,
    Rename,
    Link,
    Readdir,
    Getxattr,
    Setxattr,
    Listxattr,
    Removexattr,
    Fallocate,
    CopyRange,
  ].map(({ opcode }) => opcode),
);

/** @returns the opcodes of operations that change something. */
export function registerHandlers(service: Service<ServedCall>, server: ServerView): ReadonlySet<number> {
  const modifying = new Set<number>();
  const on = <Q, R>(
    operation: Operation<Q, R>,
    handler: Handler<ServedCall, Q, R>,
    reconstruct?: Reconstruct<Q, R>,
  ): void => {
    if (operation.modifies) modifying.add(operation.opcode);
    service.on(operation, (call, received, incoming) => {
      call.started();
      const { isRestricted } = call.client;
      const request = isRestricted ? restricted(call, operation, received) : received;
      const done = call.executedBefore;
      if (done !== undefined && reconstruct !== undefined) {
        if (isRestricted) checkAnswer(call, operation, request, done);
        return { reply: reconstruct(call, request, done), transno: done.transno };
      }
      // The room for a BATCH is promised: see export/meta_grants.ts.
      const waits = operation.modifies && operation.opcode !== Batch.opcode;
      const wait = waits ? call.target.store.room() : undefined;
      const handle = (): ReturnType<typeof handler> => {
        // Of others locked() checks it.
        if (call.permit !== undefined && !LOCKED.has(operation.opcode)) call.permit();
        return handler(call, request, incoming);
      };
      if (wait === undefined) return handle();
      const less = Promise.all([call.target.holds.letGo(), wait]);
      return whenRoom(less, call, handle, incoming);
    });
  };
  on(Ping, ping);
  on(Disconnect, disconnect);
  on(GetFids, getFids);
  on(Replayed, (call, _request, incoming) => replayed(call, server.recovery, incoming));
  on(ReplayOpens, (call, request) => replayOpens(call, server.recovery, request));
  on(ReplayTickets, (call, request) => replayTickets(call, server.recovery, request));
  on(ReplayLocks, (call, request) => replayLocks(call, server.recovery, request));
  on(RecoveryDone, (call, _request, incoming) => recoveryDone(call, server.recovery, incoming));

  on(Enqueue, enqueue);
  on(Cancel, cancel);
  on(TestFlock, testFlock);
  on(Unflock, unflock);

  on(Lookup, lookup);
  on(Getattr, getattr);
  on(Setattr, setattr, changedBefore);
  on(Readlink, readlink);
  on(Create, create, recreate);
  on(Open, open, reopened);
  on(Close, close, () => ({}));
  on(Unlink, unlink, unlinked);
  on(Rename, rename, renamed);
  on(Link, link, linked);
  on(Readdir, readdir);
  on(Getxattr, getxattr);
  on(Setxattr, setxattr, changedBefore);
  on(Listxattr, listxattr);
  on(Removexattr, removexattr, changedBefore);
  on(Statfs, statfs);
  on(Batch, batch, batchedBefore);

  on(Read, read);
  on(Write, write, written);
  on(Sync, sync);
  on(Fallocate, fallocate, changedBefore);
  on(Seek, seek);
  on(CopyRange, copyRange, copied);

  // A notice has no xid of its own, so it does not count as a call.
  service.on(DrainProgress, (call, progress) => {
    call.client.progress = progress;
    return undefined;
  });
  return modifying;
}
