/**
 * Takes server locks around an operation (docs/LOCKING.md). A look at the store says which locks the operation needs, and the
 * store may have changed when they are granted. So after a wait the handler looks again, until it needs no new lock.
 *
 * If nothing conflicts, which is nearly always so, all of this happens without a promise.
 */

import type { Fid } from '../../base/ids.js';
import { isPromise, type MaybePromise } from '../../base/maybe_promise.js';
import type { LockSpec, Mode } from '../../dlm/api.js';
import type { HandlerOutcome, Incoming } from '../../rpc/api.js';
import { BIT_UPDATE } from '../../wire/lock.js';
import { noteChanges, refused } from '../target/commit_on_sharing.js';
import type { ServedCall } from '../target/served_call.js';

export type Answered<R> = MaybePromise<HandlerOutcome<R> | undefined>;

export function inodeLock(fid: Fid, mode: Mode, bits: number): LockSpec {
  return { type: 'inode', fid, mode, bits };
}
export function dataLock(fid: Fid, mode: Mode): LockSpec {
  return { type: 'data', fid, mode, bits: 0 };
}

/**
 * The data lock for an operation that sets a file's size or times. If the client holds PW it needs none: no other client has
 * a data lock then, and the client keeps its own until it has the reply.
 */
export function dataToSet(call: ServedCall, fid: Fid): readonly LockSpec[] {
  const data = dataLock(fid, 'EX');
  if (call.target.locks.dataWriter(fid, undefined)?.client !== call.client.uuid) return [data];
  call.alsoChanged = [data];
  return [];
}

interface LockedOperation<R> {
  readonly plan: () => readonly LockSpec[];
  readonly run: () => MaybePromise<HandlerOutcome<R>>;
  readonly sharesMore: () => boolean;
}

const SHARES_NO_MORE = (): boolean => false;

/**
 * Runs an operation under its locks. If another client has an uncommitted change under one of them, the lock waits for the
 * commit, so that nothing is built on the change.
 * @param plan the locks that the operation needs now; throws FsError if it cannot be done at all.
 * @param run executes the operation under them; it finds the state that the last plan saw.
 * @param sharesMore whether the operation looks at an uncommitted change of another client that it does not lock.
 */
export function locked<R>(
  call: ServedCall,
  incoming: Incoming<R>,
  plan: () => readonly LockSpec[],
  run: () => MaybePromise<HandlerOutcome<R>>,
  sharesMore: () => boolean = SHARES_NO_MORE,
): Answered<R> {
  let specs: readonly LockSpec[];
  try {
    specs = plan();
  } catch (refusal) {
    const owned = ownedByOthers(call);
    if (owned.length > 0) return afterOwners(call, incoming, owned, { plan, run, sharesMore });
    return refused(call, forbidden(call) ?? refusal);
  }
  // At its first execution all that a replay builds on was durable or its client's own. Nothing else runs during replays.
  call.locked = specs;
  if (call.isReplay) return executed(call, incoming, permitted(call, run));
  const release = acquire(call, specs);
  if (isPromise(release) || sharesMore()) {
    return afterWait(call, incoming, specs, release, { plan, run, sharesMore });
  }
  call.releaseAfterReply(release);
  return executed(call, incoming, permitted(call, run));
}

/** Takes the locks of an operation. The log of slow operations hears whom it waits for. */
function acquire(call: ServedCall, specs: readonly LockSpec[]): MaybePromise<() => void> {
  const { target, client } = call;
  const release = target.locks.acquire(client.uuid, specs);
  return isPromise(release) ? target.waitsForLocks(client, specs, release) : release;
}

/** Runs the operation in the turn in which its caller may do it. @throws FsError EACCES, EPERM. */
function permitted<T>(call: ServedCall, run: () => T): T {
  call.permit?.();
  return run();
}

/** A caller who may not do it must not learn why else it cannot be done: whether there is such a name. */
function forbidden(call: ServedCall): unknown {
  try {
    call.permit?.();
    return undefined;
  } catch (refusal) {
    return refusal;
  }
}

/** Answers in the turn in which the outcome is there, if it is a promise; see Incoming.answer. */
export function answered<R>(incoming: Incoming<R>, outcome: MaybePromise<HandlerOutcome<R>>): Answered<R> {
  if (!isPromise(outcome)) return outcome;
  return outcome.then((value) => {
    incoming.answer(value);
    return undefined;
  });
}

function executed<R>(
  call: ServedCall,
  incoming: Incoming<R>,
  outcome: MaybePromise<HandlerOutcome<R>>,
): Answered<R> {
  if (isPromise(outcome)) {
    return outcome.then((value) => {
      noteChanges(call, value);
      incoming.answer(value);
      return undefined;
    });
  }
  noteChanges(call, outcome);
  return outcome;
}

/**
 * Directories that the operation looked into, and of which another client decides alone what is in them: that client may know
 * better than the state here (docs/WRITE_BACK.md).
 */
function ownedByOthers(call: ServedCall): readonly LockSpec[] {
  if (call.isReplay) return [];
  const { locks } = call.target;
  return [...new Set(call.looksInto)]
    .map((fid) => inodeLock(fid, 'PR', BIT_UPDATE))
    .filter((spec) => !locks.heldAlone(call.client.uuid, spec));
}

/** Begins again when the owners have said what they did there, and have given their own locks back. */
async function afterOwners<R>(
  call: ServedCall,
  incoming: Incoming<R>,
  owned: readonly LockSpec[],
  { plan, run, sharesMore }: LockedOperation<R>,
): Promise<undefined> {
  const release = await acquire(call, owned);
  release();
  await roomFor(call);
  call.assertLive();
  const outcome = await locked(call, incoming, plan, run, sharesMore);
  if (outcome !== undefined) incoming.answer(outcome);
  return undefined;
}

/** While an operation waited for locks, others may have taken the room that there was for it: see table.ts. */
async function roomFor({ modifies, target }: ServedCall): Promise<void> {
  if (!modifies) return;
  for (let wait = target.store.room(); wait !== undefined; wait = target.store.room()) await wait;
}

async function afterWait<R>(
  call: ServedCall,
  incoming: Incoming<R>,
  firstSpecs: readonly LockSpec[],
  first: MaybePromise<() => void>,
  { plan, run, sharesMore }: LockedOperation<R>,
): Promise<undefined> {
  let specs = firstSpecs;
  let pending = first;
  for (;;) {
    const release = isPromise(pending) ? await pending : pending;
    try {
      if (sharesMore()) await call.target.store.sync();
      await roomFor(call);
      call.assertLive();
      const now = plan();
      if (covers(specs, now) && !sharesMore()) {
        call.releaseAfterReply(release);
        break;
      }
      release();
      specs = now;
    } catch (error) {
      release();
      throw error;
    }
    pending = acquire(call, specs);
  }
  call.locked = specs;
  const running = permitted(call, run);
  const outcome = isPromise(running) ? await running : running;
  noteChanges(call, outcome);
  incoming.answer(outcome);
  return undefined;
}

function covers(held: readonly LockSpec[], wanted: readonly LockSpec[]): boolean {
  return wanted.every((want) =>
    held.some(
      (have) =>
        have.type === want.type &&
        have.fid === want.fid &&
        (have.mode === want.mode || have.mode === 'EX') &&
        (have.bits & want.bits) === want.bits,
    ),
  );
}
