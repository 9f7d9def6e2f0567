/** What HOLDINGS tells: who holds and waits for locks, and who has what open. */

import { firstHoldings, openMode } from '../base/holdings.js';
import type { HoldingMessage, HoldingsReply } from '../wire/admin.js';
import type { ServedTarget } from './target/served_target.js';

export function holdingsOf(target: ServedTarget, what: 'locks' | 'opens', limit: number): HoldingsReply {
  return firstHoldings(what === 'locks' ? locksOf(target) : opensOf(target), limit);
}

function* locksOf({ locks, exports, runtime }: ServedTarget): Iterable<HoldingMessage> {
  const nowMs = runtime.clock.nowMs();
  for (const { kind, fid, mode, client, sinceMs, waits, waiters, calledBack } of locks.view()) {
    const name = client === undefined ? undefined : (exports.get(client)?.name ?? client);
    const forMs = Math.max(0, Math.round(nowMs - sinceMs));
    yield { fid, kind, mode, client: name, forMs, waits, waiters, calledBack: calledBack || undefined };
  }
}

function* opensOf({ exports, store }: ServedTarget): Iterable<HoldingMessage> {
  for (const client of exports) {
    for (const { fid, flags } of client.opens.values()) {
      const isDirectory = ((store.inode(fid)?.mode ?? 0) & S_IFMT) === S_IFDIR;
      const kind = isDirectory ? 'directory' : 'file';
      yield { fid, kind, mode: openMode(flags), client: client.name, waits: false, waiters: 0 };
    }
  }
}

const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
