/**
 * Leaving a target: the client writes everything to the server, gives every lock back and says goodbye.
 *
 * The client waits as long as it takes for dirty data, and for operations that were answered and are not known to be
 * committed: a server that is being upgraded comes back. With patienceMs it gives up after this time without progress: no
 * WRITE landed, and no recovery was under way (the server limits that). A client that has nothing to lose waits 10 s at most to
 * say goodbye, so that a server that comes back need not wait for this client.
 *
 * The client counts looks, not time: a process that was itself stopped has waited for nobody.
 */

import { logger } from '../../base/log.js';
import type { Timer } from '../../runtime/ports.js';
import { Sync } from '../../wire/data.js';
import type { ClientContext } from '../cache/context.js';
import type { WriteBack } from '../io/write_back.js';
import type { Loss, TargetSession } from '../session/target_session.js';
import type { Drain } from './drain.js';
import type { Import } from './import.js';

const log = logger('client:departure');

const GOODBYE_WAIT_MS = 10_000;
const LOOK_MS = 1000;
const LOOKS_PER_PATIENCE = 60;

/** States in which the client hears the server, and the server limits how long they take. */
const RECOVERING = new Set<Import['state']>([
  'REPLAY',
  'REPLAY_OPENS',
  'REPLAY_LOCKS',
  'WAIT_RECOVERED',
  'ACTIVE_LOCK',
]);

export interface Departing {
  readonly context: ClientContext;
  readonly writeBack: WriteBack;
  readonly target: TargetSession;
  readonly connection: Import;
  readonly drain: Drain;
  /** undefined: no limit. */
  readonly patienceMs: number | undefined;
}

/** Never rejects. @returns undefined when everything is on the server. */
export async function depart(departing: Departing): Promise<Loss | undefined> {
  const { context, target, connection } = departing;
  log('%d bytes dirty, %d operations not committed', context.dirtyBytes(target), unsafeOperations(target));
  target.losses = [];
  const { losses } = target;
  const patience = watch(departing);
  const whyNot = await Promise.race([giveBack(departing, patience.signal), patience.over]);
  patience.stop();
  if (whyNot !== undefined) {
    const left = { bytes: context.dirtyBytes(target), operations: unsafeOperations(target) };
    if (left.bytes > 0 || left.operations > 0) losses.push({ ...left, why: whyNot });
  }
  target.losses = undefined;
  await connection.stop();
  const last = losses.at(-1);
  if (last === undefined) return undefined;
  return {
    bytes: losses.reduce((sum, { bytes }) => sum + bytes, 0),
    operations: losses.reduce((sum, { operations }) => sum + operations, 0),
    why: last.why,
  };
}

/** Text for people, to stand in the middle of a sentence. */
export function describeLoss({ bytes, operations, why }: Loss): string {
  const lost = [
    ...(bytes > 0 ? [`${bytes} bytes were not written to the server`] : []),
    ...(operations > 0 ? [`${operations} operations may not be on its devices`] : []),
  ];
  return `${lost.join(', and ')}: ${why}`;
}

/** Operations that programs were told of and that may not be on the target's devices. */
function unsafeOperations({ replays, changes }: TargetSession): number {
  return replays.operations + changes.size;
}

interface Patience {
  /** Aborts when the patience is over. */
  readonly signal: AbortSignal;
  /** Resolves at the same time, with the reason. */
  readonly over: Promise<string>;
  stop(): void;
}

function watch({ context, target, connection, patienceMs }: Departing): Patience {
  const { timers } = context.runtime;
  const limitMs = patienceMs ?? Number.POSITIVE_INFINITY;
  const lookMs = Math.min(LOOK_MS, limitMs / LOOKS_PER_PATIENCE);
  const quietLooks = limitMs / lookMs;
  const cleanLooks = Math.min(limitMs, GOODBYE_WAIT_MS) / lookMs;
  const abort = new AbortController();
  let timer: Timer;
  let seen = '';
  let quiet = 0;
  let clean = 0;
  const over = new Promise<string>((resolve) => {
    const look = (): void => {
      const { state } = connection;
      const bytes = context.dirtyBytes(target);
      const operations = unsafeOperations(target);
      const inFlight = target.outgoing.inFlight('operation') + target.outgoing.inFlight('data');
      const now = `${bytes} ${operations} ${inFlight} ${state}`;
      const goesOn = RECOVERING.has(state) || (state === 'FULL' && now !== seen);
      seen = now;
      quiet = goesOn ? 0 : quiet + 1;
      clean = bytes === 0 && operations === 0 ? clean + 1 : 0;
      if (quiet < quietLooks && clean < cleanLooks) {
        timer = timers.after(lookMs, look);
        return;
      }
      log('given up in state %s', state);
      abort.abort();
      const forMs = Math.min(quiet, quietLooks) * lookMs;
      resolve(`${connection.address} did not answer for ${Math.round(forMs / 1000)} s`);
    };
    timer = timers.after(lookMs, look);
  });
  return { signal: abort.signal, over, stop: () => timer.cancel() };
}

/** @param signal aborts when the departure is given up. @returns why it failed; undefined when it is done. */
async function giveBack(departing: Departing, signal: AbortSignal): Promise<string | undefined> {
  const { context, target, drain, writeBack } = departing;
  try {
    for (const handle of context.handles.ofTarget(target.index)) {
      context.handles.remove(handle.fh);
      if (handle.known === 'yes') target.outgoing.close(handle.fh);
    }
    // A drain gives everything back on its own.
    await drain.ended();
    await target.gate.enter({ signal });
    target.gate.leave();
    await target.changes.flushed();
    const locks = await target.locks.cancelAll();
    for (const file of context.filesOf(target)) if (!file.isClean) await writeBack.flush(target, file);
    target.outgoing.sendEnds();
    // Once this client has left, no client could replay what was answered and not committed.
    if (target.replays.size > 0) await target.call('operation', Sync, {});
    if (!target.gate.isClosed) {
      target.outgoing.cancel(locks);
      await target.outgoing.idle('operation', 'data', 'changes', 'closing');
    }
    return undefined;
  } catch (error) {
    log('%s', error);
    return error instanceof Error ? error.message : String(error);
  }
}
