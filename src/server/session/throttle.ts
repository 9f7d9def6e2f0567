/**
 * Requests a second, for each entry of the access table that has such a limit: a bucket of tokens, shared by all sessions of the
 * entry. Each frame that a client sends takes a token.
 *
 * - A session whose frame took the last token is not read until there is one again. So nothing is dropped and the order is kept.
 *   Sessions that wait are served in turns.
 * - While others wait for a client, or the server drains or recovers, its frames do not wait. Its sessions would be evicted for being
 *   slow otherwise: the CANCEL that a callback asks for, and the flush before it, come through the same connection. While the server
 *   is active these frames take their tokens all the same, and the entry pays its debt later, DEBT_MS at most.
 * - Nobody takes a session that waits for dead. The server hears no PING of it, and expects none (the link is paused). The client
 *   hears a notice without meaning in each ping interval: an answer may be long in coming.
 */

import type { Xid } from '../../base/ids.js';
import type { NoticeKind } from '../../base/notices.js';
import type { Link } from '../../rpc/api.js';
import type { Clock, Timer, Timers } from '../../runtime/ports.js';
import { KIND } from '../../wire/header.js';
import { Empty } from '../../wire/operation.js';
import { encode } from '../../wire/schema.js';
import { Ping } from '../../wire/session.js';
import type { Rights } from '../access/rights.js';
import type { ClientExport } from '../export/export.js';

/** A bucket holds what a second brings, and this at least. */
export const BURST_MIN = 16;
const DEBT_MS = 5000;
/** How soon it is seen that somebody waits for a client that waits for tokens. */
const LOOK_MS = 20;
const SAID_MS = 60_000;

/** A session that takes tokens. */
export interface TokenUser {
  readonly link: Pick<Link, 'pause' | 'resume' | 'send' | 'isClosed'>;
  readonly client: ClientExport | undefined;
  readonly rights: Rights | undefined;
  /** Others wait for what it sends. */
  isUrgent(): boolean;
}

interface Waiting {
  readonly sinceMs: number;
  saidMs: number;
}

class Bucket {
  readonly principal: string;
  /** Tokens a second. */
  rate: number;
  tokens: number;
  atMs: number;
  /** In the order in which they began to wait. */
  readonly waiting = new Map<TokenUser, Waiting>();
  waitedMs = 0;
  timer: Timer | undefined;
  saidMs = Number.NEGATIVE_INFINITY;

  constructor(principal: string, rate: number, nowMs: number) {
    this.principal = principal;
    this.rate = rate;
    this.tokens = this.burst;
    this.atMs = nowMs;
  }

  get burst(): number {
    return Math.max(BURST_MIN, this.rate);
  }

  fill(nowMs: number): void {
    this.tokens = Math.min(this.burst, this.tokens + ((nowMs - this.atMs) * this.rate) / 1000);
    this.atMs = nowMs;
  }

  take(nowMs: number): void {
    this.fill(nowMs);
    this.tokens = Math.max(this.tokens - 1, (-this.rate * DEBT_MS) / 1000);
  }
}

export interface ThrottleOptions {
  readonly clock: Pick<Clock, 'nowMs'>;
  readonly timers: Pick<Timers, 'after'>;
  readonly pingIntervalMs: number;
  /** For people. */
  readonly say: (text: string, kind: NoticeKind) => void;
}

export class Throttle {
  readonly #options: ThrottleOptions;
  readonly #buckets = new Map<string, Bucket>();
  /** How often a session had to wait. */
  waits = 0;

  constructor(options: ThrottleOptions) {
    this.#options = options;
  }

  /** Sessions that wait now. */
  get waiting(): number {
    let sessions = 0;
    for (const { waiting } of this.#buckets.values()) sessions += waiting.size;
    return sessions;
  }

  /** How long the sessions of this entry have waited, in all. */
  waitedMs(principal: string): number {
    const bucket = this.#buckets.get(principal);
    if (bucket === undefined) return 0;
    const now = this.#options.clock.nowMs();
    let ms = bucket.waitedMs;
    for (const { sinceMs } of bucket.waiting.values()) ms += now - sinceMs;
    return ms;
  }

  /** A frame of this session has come. It is not held up; the one behind it may be. */
  took(session: TokenUser): void {
    const { rights } = session;
    const rate = rights?.limits.requestsPerSecond;
    if (rights === undefined || rate === undefined) return;
    const now = this.#options.clock.nowMs();
    const bucket = this.#bucket(rights.principal, Math.max(1, rate), now);
    bucket.take(now);
    if (bucket.tokens >= 1 || bucket.waiting.has(session) || session.isUrgent()) return;
    this.#wait(bucket, session, now);
  }

  /** The session has ended. */
  forget(session: TokenUser): void {
    const bucket = this.#buckets.get(session.rights?.principal ?? '');
    if (bucket?.waiting.has(session) === true) this.#goOn(bucket, session);
  }

  /** The server stops. */
  end(): void {
    for (const bucket of this.#buckets.values()) {
      bucket.timer?.cancel();
      for (const session of [...bucket.waiting.keys()]) this.#goOn(bucket, session);
    }
  }

  /** One for as long as the server lives: there are as many as the access table has entries, and it tells how long they waited. */
  #bucket(principal: string, rate: number, nowMs: number): Bucket {
    let bucket = this.#buckets.get(principal);
    if (bucket === undefined) {
      bucket = new Bucket(principal, rate, nowMs);
      this.#buckets.set(principal, bucket);
    }
    // The entry was removed and added again.
    bucket.rate = rate;
    return bucket;
  }

  #wait(bucket: Bucket, session: TokenUser, nowMs: number): void {
    this.waits += 1;
    bucket.waiting.set(session, { sinceMs: nowMs, saidMs: nowMs });
    session.link.pause();
    if (session.client !== undefined) session.client.throttledSinceMs = nowMs;
    this.#arm(bucket);
    if (nowMs - bucket.saidMs < SAID_MS) return;
    bucket.saidMs = nowMs;
    const who = session.client === undefined ? 'an administrator' : `client ${session.client.label}`;
    this.#options.say(
      `${who} is throttled: ${bucket.principal} may send ${bucket.rate} requests a second (holdfast access list)`,
      'throttled',
    );
  }

  #goOn(bucket: Bucket, session: TokenUser): void {
    const { sinceMs } = bucket.waiting.get(session) ?? { sinceMs: 0 };
    bucket.waiting.delete(session);
    const now = this.#options.clock.nowMs();
    bucket.waitedMs += now - sinceMs;
    const { client } = session;
    if (client !== undefined) {
      client.throttledSinceMs = undefined;
      client.throttledMs += now - sinceMs;
      client.throttledAtMs = now;
    }
    session.link.resume();
  }

  #arm(bucket: Bucket): void {
    if (bucket.timer !== undefined) return;
    const tokenMs = ((1 - bucket.tokens) * 1000) / bucket.rate;
    const ms = Math.min(LOOK_MS, Math.max(1, tokenMs));
    bucket.timer = this.#options.timers.after(ms, () => this.#look(bucket));
  }

  #look(bucket: Bucket): void {
    bucket.timer = undefined;
    const now = this.#options.clock.nowMs();
    bucket.fill(now);
    // Those that go on take their tokens in a later microtask.
    let left = Math.floor(bucket.tokens);
    for (const [session, waiting] of [...bucket.waiting]) {
      if (left > 0) {
        left -= 1;
        this.#goOn(bucket, session);
      } else if (session.isUrgent()) {
        this.#goOn(bucket, session);
      } else if (now - waiting.saidMs >= this.#options.pingIntervalMs) {
        waiting.saidMs = now;
        const ping = { kind: KIND.notice, opcode: Ping.opcode, xid: 0 as Xid, ackXidOrCommitted: 0 };
        session.link.send(ping, encode(Empty, {}));
      }
    }
    if (bucket.waiting.size > 0) this.#arm(bucket);
  }
}
