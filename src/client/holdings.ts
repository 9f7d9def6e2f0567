/** Which locks this client holds and waits for, and what it has open: for `holdfast status --locks` and `--opens` of a mount. */

import { firstHoldings, openMode } from '../base/holdings.js';
import type { Fid, Name } from '../base/ids.js';
import type { HoldingMessage, HoldingsReply } from '../wire/admin.js';
import type { ClientContext } from './cache/context.js';
import type { TargetSession } from './session/target_session.js';

type Holding = Omit<HoldingMessage, 'name'>;

export function holdingsOf(context: ClientContext, what: 'locks' | 'opens', limit: number): HoldingsReply {
  const all = what === 'locks' ? locksOf(context) : opensOf(context);
  const { holdings, total } = firstHoldings(all, limit);
  const names = context.names.namesOf(new Set(holdings.map(({ fid }) => fid as Fid)));
  return { holdings: holdings.map((one) => ({ ...one, name: shown(names.get(one.fid as Fid)) })), total };
}

function* locksOf({ targets, options }: ClientContext): Iterable<Holding> {
  const client = options.name;
  for (const { locks, appLocks } of targets.all()) {
    const waitersOn = new Map<Fid, number>();
    for (const { fid, range } of appLocks.waiting()) {
      waitersOn.set(fid, (waitersOn.get(fid) ?? 0) + 1);
      yield { fid, kind: range.kind, mode: modeOf(range), client, waits: true, waiters: 1 };
    }
    for (const { fid, range } of appLocks.granted()) {
      const waiters = waitersOn.get(fid) ?? 0;
      yield { fid, kind: range.kind, mode: modeOf(range), client, waits: false, waiters };
    }
    for (const { fid, type, mode, cancelling } of locks.held()) {
      const calledBack = cancelling || undefined;
      yield { fid, kind: type, mode, client, waits: false, waiters: 0, calledBack };
    }
  }
}

type Range = ReturnType<TargetSession['appLocks']['waiting']>[number]['range'];

function modeOf({ exclusive }: Range): string {
  return exclusive ? 'exclusive' : 'shared';
}

function* opensOf({ handles, options }: ClientContext): Iterable<Holding> {
  for (const { fid, flags, directory } of handles.all()) {
    const kind = directory ? 'directory' : 'file';
    yield { fid, kind, mode: openMode(flags), client: options.name, waits: false, waiters: 0 };
  }
}

/** A name is bytes, and the list is text. */
function shown(name: Name | undefined): string | undefined {
  return name === undefined ? undefined : Buffer.from(name, 'latin1').toString();
}
