/**
 * Server locks around an operation (docs/LOCKING.md): which ones is found by a look at what is there, and what is there
 * may have changed when they are granted. So after a wait the look is repeated, until it asks for nothing new.
 *
 * Where nothing conflicts, which is nearly always, all of this happens without a promise.
 */

import type { Fid } from '../base/ids.js';
import { isPromise, type MaybePromise } from '../base/maybe_promise.js';
import type { LockSpec, Mode } from '../dlm/api.js';
import type { Incoming, Outcome } from '../rpc/api.js';
import type { Call } from './call.js';

export type Answered<R> = MaybePromise<Outcome<R> | undefined>;

export function inodeLock(fid: Fid, mode: Mode, bits: number): LockSpec {
  return { type: 'inode', fid, mode, bits };
}
export function dataLock(fid: Fid, mode: Mode): LockSpec {
  return { type: 'data', fid, mode, bits: 0 };
}

/**
 * The data of a file for an operation that sets its size or times. A client that holds PW needs no more: nobody else has
 * a data lock then, and it keeps its own until it has the reply.
 */
export function dataToSet(call: Call, fid: Fid): readonly LockSpec[] {
  return call.target.locks.dataWriter(fid, undefined)?.client === call.export.uuid
    ? []
    : [dataLock(fid, 'EX')];
}

/**
 * @param plan the locks needed as things are now; throws FsError when the operation cannot be done at all.
 * @param run executes the operation under them; what it finds is what the last plan saw.
 */
export function locked<R>(
  call: Call,
  incoming: Incoming<R>,
  plan: () => readonly LockSpec[],
  run: () => MaybePromise<Outcome<R>>,
): Answered<R> {
  const specs = plan();
  const release = call.target.locks.acquire(call.export.uuid, specs);
  if (isPromise(release)) return afterWait(call, incoming, specs, release, plan, run);
  call.releaseAfterReply(release);
  return answered(incoming, run());
}

/** Answers in the turn in which a promised outcome is there; see Incoming.answer. */
export function answered<R>(incoming: Incoming<R>, outcome: MaybePromise<Outcome<R>>): Answered<R> {
  if (!isPromise(outcome)) return outcome;
  return outcome.then((value) => {
    incoming.answer(value);
    return undefined;
  });
}

async function afterWait<R>(
  call: Call,
  incoming: Incoming<R>,
  firstSpecs: readonly LockSpec[],
  firstRelease: Promise<() => void>,
  plan: () => readonly LockSpec[],
  run: () => MaybePromise<Outcome<R>>,
): Promise<undefined> {
  let specs = firstSpecs;
  let pending: MaybePromise<() => void> = firstRelease;
  for (;;) {
    const release = isPromise(pending) ? await pending : pending;
    let now: readonly LockSpec[];
    try {
      call.assertLive();
      now = plan();
    } catch (error) {
      release();
      throw error;
    }
    if (covers(specs, now)) {
      call.releaseAfterReply(release);
      const outcome = run();
      incoming.answer(isPromise(outcome) ? await outcome : outcome);
      return undefined;
    }
    release();
    specs = now;
    pending = call.target.locks.acquire(call.export.uuid, specs);
  }
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
