/**
 * Finds clients that are gone: one sweep a second over all connections and exports, cheap however many are idle.
 *
 * - The server closes a connection that does not say CONNECT. (If a connected one falls silent, its pinger closes it;
 *   its client, if alive, connects again and resumes.)
 * - The server closes a connection whose key has run out: its client connects again, with its new key if it has one.
 * - The server evicts a client that has no connection for disconnectedMs. If somebody waits for a lock that the client
 *   holds, or for its answer to a glimpse, it evicts the client after half of the lock timeout, because the client
 *   cannot answer. That is long enough to come back after a short network failure, and short enough for others that
 *   wait for a dead process.
 */

import { FsError } from '../../base/errno.js';
import type { Timer } from '../../runtime/ports.js';
import { evict } from '../target/eviction.js';
import type { ServerView } from './server_view.js';
import type { Session } from './session.js';

const SWEEP_MS = 1000;
const CONNECT_WITHIN_MS = 10_000;

export class Liveness {
  readonly #server: ServerView;
  readonly #sessions: ReadonlySet<Session>;
  #timer: Timer | undefined;

  constructor(server: ServerView, sessions: ReadonlySet<Session>) {
    this.#server = server;
    this.#sessions = sessions;
    this.#arm();
  }

  stop(): void {
    this.#timer?.cancel();
  }

  #arm(): void {
    this.#timer = this.#server.time.after(SWEEP_MS, () => this.#sweep(), true);
  }

  #sweep(): void {
    this.#arm();
    const now = this.#server.time.nowMs();
    for (const session of this.#sessions) {
      if (session.role === 'none' && now - session.sinceMs > CONNECT_WITHIN_MS) {
        session.link.destroy(new FsError('ETIMEDOUT', `it did not connect within ${CONNECT_WITHIN_MS} ms`));
      }
    }
    const { target } = this.#server;
    if (target === undefined) return;
    for (const { rights, link } of this.#sessions) {
      const keyId = rights?.keyId;
      if (keyId === undefined || target.access.withKey(keyId) !== undefined) continue;
      link.destroy(new FsError('EACCES', `key ${keyId} is not valid any more`));
    }
    const { disconnectedMs, lockTimeoutMs } = target.options;
    for (const client of [...target.exports]) {
      const since = client.disconnectedAtMs;
      if (since === undefined) continue;
      const isWanted = target.locks.isWanted(client.uuid) || client.requester.inFlight > 0;
      const limitMs = isWanted ? Math.min(disconnectedMs, lockTimeoutMs / 2) : disconnectedMs;
      if (now - since <= limitMs) continue;
      evict(
        target,
        client,
        `it had no connection for ${limitMs} ms${isWanted ? ', and was waited for' : ''}`,
        'silent',
      );
    }
  }
}
