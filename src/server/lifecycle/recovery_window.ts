/**
 * The recovery window after a restart: the clients of the previous instance come back, have what was not committed
 * executed again, open again what they had open and take their locks again, before anybody may do anything that could
 * conflict with it.
 *
 * It ends when the last known client is done: never a fixed grace. A client that does not come is waited for until the
 * soft limit. One that has come has the hard limit, which moves on with everything it gets done, up to LAST_FACTOR times
 * as far; while it waits for the replays of others it has time in any case. Who is out of time is evicted, alone.
 */

import { assert } from '../../base/assert.js';
import type { ClientUuid, Transno } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import type { Clock, LimitTime, Timer, Timers } from '../../runtime/ports.js';
import type { ClientRecord } from '../../storage/api.js';
import type { RecoveryStatusMessage } from '../../wire/admin.js';
import { ReplayQueue } from './replay_queue.js';

const log = logger('server:recovery');

/** Progress gives a client this part of the hard limit anew. */
const PROGRESS_PART = 1 / 3;
/** Of the hard limit: when everybody who is not done is out of time, progress or not. */
const LAST_FACTOR = 10;

export interface RecoveryWindowOptions {
  /** Of the instance before this one. */
  readonly previousVersion: string;
  /** It was stopped by a controlled shutdown. */
  readonly wasClean: boolean;
  readonly softMs: number;
  readonly hardMs: number;
  /** Of the last change that is durable: replays are above it. */
  readonly lastTransno: Transno;
  /** A known client is out of time. The owner evicts it, and says leaves() and gone(). */
  expired(client: ClientRecord, reason: string): void;
  /** Once: nobody is waited for any more, and nothing is replayed. Not called after abandon(). */
  ended(): void;
  /** Right after that, when the clients have been told. */
  over(): void;
}

interface Waited {
  readonly client: ClientRecord;
  hasCome: boolean;
  deadlineMs: number;
}

export class RecoveryWindow {
  readonly replays: ReplayQueue;
  readonly #options: RecoveryWindowOptions;
  readonly #clock: Clock;
  readonly #time: LimitTime;
  readonly #known: number;
  readonly #waited: Map<ClientUuid, Waited>;
  /** Evicted; whoever recovers must not have what these had before they are gone for good. */
  readonly #leaving = new Set<ClientUuid>();
  /** By the clock, and by the one that limits go by. */
  readonly #beganMs: number;
  readonly #startedMs: number;
  #timer: Timer | undefined;
  #open = true;
  #tookMs = 0;
  #over: (() => void)[] = [];

  constructor(
    runtime: { readonly clock: Clock; readonly timers: Timers },
    time: LimitTime,
    known: readonly ClientRecord[],
    options: RecoveryWindowOptions,
  ) {
    assert(known.length > 0, 'a recovery window without clients');
    this.#options = options;
    this.#clock = runtime.clock;
    this.#time = time;
    this.#known = known.length;
    this.#beganMs = runtime.clock.nowMs();
    this.#startedMs = time.nowMs();
    const deadlineMs = this.#startedMs + options.softMs;
    this.#waited = new Map(known.map((client) => [client.uuid, { client, hasCome: false, deadlineMs }]));
    this.replays = new ReplayQueue(this.#waited.keys(), {
      timers: runtime.timers,
      lastExecuted: options.lastTransno,
      executed: (uuid) => this.progress(uuid),
      idle: () => this.#look(),
    });
    this.#arm();
  }

  get isOpen(): boolean {
    return this.#open;
  }
  get previousVersion(): string {
    return this.#options.previousVersion;
  }
  get wasClean(): boolean {
    return this.#options.wasClean;
  }
  /** Clients may still have operations to replay: a mark that says there are none would be false. */
  get mayReplay(): boolean {
    return this.#open && !this.#options.wasClean;
  }

  /** The client's record while it is waited for. */
  known(uuid: ClientUuid): ClientRecord | undefined {
    return this.#waited.get(uuid)?.client;
  }

  /** Whether its recovery is not complete: the window stays open for it. */
  isWaitedFor(uuid: ClientUuid): boolean {
    return this.#waited.has(uuid);
  }

  /** Those that have not connected yet. */
  missing(): ClientRecord[] {
    return [...this.#waited.values()].filter(({ hasCome }) => !hasCome).map(({ client }) => client);
  }

  /** It has connected and is replaying. */
  came(uuid: ClientUuid): void {
    const waited = this.#waited.get(uuid);
    if (waited === undefined) return;
    if (!waited.hasCome) waited.deadlineMs = this.#startedMs + this.#options.hardMs;
    waited.hasCome = true;
    this.#arm();
  }

  /** It has got something done: a replay, a batch of opens or of locks. */
  progress(uuid: ClientUuid): void {
    const waited = this.#waited.get(uuid);
    if (waited === undefined) return;
    const { hardMs } = this.#options;
    waited.deadlineMs = Math.max(waited.deadlineMs, this.#time.nowMs() + hardMs * PROGRESS_PART);
  }

  /** It has replayed everything. */
  done(uuid: ClientUuid): void {
    this.replays.complete(uuid);
    if (this.#waited.delete(uuid)) this.#look();
  }

  /** It is evicted, or says goodbye: nothing of it is executed any more. The window stays open until gone(). */
  leaves(uuid: ClientUuid): void {
    if (this.#waited.delete(uuid)) this.#leaving.add(uuid);
    this.replays.gone(uuid);
  }

  /** Nothing is left of it. */
  gone(uuid: ClientUuid): void {
    this.leaves(uuid);
    this.#leaving.delete(uuid);
    this.#look();
  }

  /** Calls it when the window has ended; never when it is abandoned. */
  whenOver(tell: () => void): void {
    if (this.#open) this.#over.push(tell);
    else tell();
  }

  /** The server stops: the clients stay known, and recover with the next instance. */
  abandon(): void {
    this.#open = false;
    this.#over = [];
    this.replays.abandon();
    this.#timer?.cancel();
  }

  status(): RecoveryStatusMessage {
    const now = this.#time.nowMs();
    const deadlines = [...this.#waited.values()].map(({ deadlineMs }) => deadlineMs);
    return {
      open: this.#open,
      clients: this.#known,
      waitedFor: this.#waited.size,
      away: this.missing().length,
      replayed: this.replays.executed,
      queued: this.replays.queued,
      leftMs: this.#open ? Math.max(0, Math.round(Math.min(...deadlines, this.#lastMs) - now)) : 0,
      tookMs: Math.round(this.#open ? this.#clock.nowMs() - this.#beganMs : this.#tookMs),
    };
  }

  get #lastMs(): number {
    return this.#startedMs + this.#options.hardMs * LAST_FACTOR;
  }

  #arm(): void {
    const deadlines = [...this.#waited.values()].map(({ deadlineMs }) => deadlineMs);
    const nextMs = Math.min(...deadlines, this.#lastMs);
    this.#timer?.cancel();
    this.#timer = this.#time.after(Math.max(1, nextMs - this.#time.nowMs()), () => this.#expire());
  }

  #expire(): void {
    const now = this.#time.nowMs();
    const isLast = now >= this.#lastMs;
    for (const [uuid, waited] of [...this.#waited]) {
      if (!isLast && waited.deadlineMs > now) continue;
      if (!isLast && this.replays.isBehind(uuid)) {
        this.progress(uuid);
        continue;
      }
      const what = waited.hasCome ? 'did not finish its recovery' : 'did not come back';
      const afterMs = Math.round(now - this.#startedMs);
      this.#options.expired(waited.client, `it ${what} within ${afterMs} ms after the server started`);
    }
    if (this.#open) this.#arm();
  }

  #look(): void {
    if (!this.#open || this.#waited.size + this.#leaving.size > 0 || !this.replays.isIdle) return;
    log('ends: all clients are done');
    const over = this.#over;
    this.#tookMs = this.#clock.nowMs() - this.#beganMs;
    this.abandon();
    this.#options.ended();
    for (const tell of over) tell();
    this.#options.over();
  }
}
