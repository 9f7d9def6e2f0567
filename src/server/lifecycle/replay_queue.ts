/**
 * Replays of all clients. The queue executes them strictly in the order of their transnos, one after the other.
 *
 * A client sends its replays in order. The queue executes the lowest replay that is here when no client can come with a
 * lower one: either its transno follows that of the last executed one, or every client that the server waits for has
 * sent a higher one (or this very one), or has said that it has no more. Gaps are normal. Changes of the server itself
 * had transnos too. So had operations whose answers nobody got (clients resend those, they are no replays), and
 * operations of clients that are gone.
 *
 * Invariants:
 * - At most one replay runs at a time, data operations to their end; `lastExecuted` only grows.
 * - A client with a replay in the queue never holds others up: so the server may pause it when it has sent a lot.
 */

import type { ClientUuid, Transno } from '../../base/ids.js';
import type { Timers } from '../../runtime/ports.js';

/**
 * The queue executes this many replays without a break, which takes some 20 ms; then other events have their turn. The
 * answers of a turn leave together: each of a hundred clients gets several answers in one packet.
 */
const AT_ONCE = 512;

export interface Replay {
  readonly client: ClientUuid;
  readonly transno: Transno;
  /** Executes the replay. @param done called exactly once, when no part of the replay runs any more. */
  run(done: () => void): void;
}

interface Sender {
  /** The highest transno that the client has sent. */
  received: Transno;
  /** The client has sent all its replays. */
  complete: boolean;
  queue: Replay[];
  /** Called when all replays that the client has sent are executed. */
  drained: (() => void)[];
}

export interface ReplayQueueOptions {
  readonly timers: Pick<Timers, 'soon'>;
  readonly lastExecuted: Transno;
  /** Called when a replay of this client was executed. */
  executed(client: ClientUuid): void;
  /** Called when the queue is empty and no replay runs. */
  idle(): void;
}

export class ReplayQueue {
  readonly #options: ReplayQueueOptions;
  readonly #senders: Map<ClientUuid, Sender>;
  #afterRunning: (() => void)[] = [];
  #lastExecuted: Transno;
  #running: Replay | undefined;
  #executed = 0;
  #queued = 0;
  #abandoned = false;
  #pumping = false;
  #soon = false;

  /** @param known the clients that may have replays. */
  constructor(known: Iterable<ClientUuid>, options: ReplayQueueOptions) {
    this.#options = options;
    this.#lastExecuted = options.lastExecuted;
    this.#senders = new Map();
    for (const uuid of known) {
      this.#senders.set(uuid, { received: 0 as Transno, complete: false, queue: [], drained: [] });
    }
  }

  get lastExecuted(): Transno {
    return this.#lastExecuted;
  }
  /** Number of executed replays, for status. */
  get executed(): number {
    return this.#executed;
  }
  get queued(): number {
    return this.#queued;
  }
  get isIdle(): boolean {
    return this.#queued === 0 && this.#running === undefined;
  }
  /** Whether the client has sent replays that are not executed yet: then it does not hold up recovery. */
  isBehind(uuid: ClientUuid): boolean {
    return (this.#senders.get(uuid)?.queue.length ?? 0) > 0 || this.#running?.client === uuid;
  }
  queuedOf(uuid: ClientUuid): number {
    return this.#senders.get(uuid)?.queue.length ?? 0;
  }

  /**
   * For a client that has lost its connection and sends the running replay again.
   * @param done called when that replay was executed. @returns false if this is not the running replay.
   */
  joins(uuid: ClientUuid, transno: Transno, done: () => void): boolean {
    if (this.#running?.client !== uuid || this.#running.transno !== transno) return false;
    this.#afterRunning.push(done);
    return true;
  }

  /** @returns false if the replay is out of order: one with a higher transno was sent or executed before. */
  add(replay: Replay): boolean {
    const sender = this.#senders.get(replay.client);
    if (sender === undefined || sender.complete) return false;
    if (replay.transno <= this.#lastExecuted || replay.transno <= sender.received) return false;
    if (this.#running !== undefined && replay.transno <= this.#running.transno) return false;
    sender.received = replay.transno;
    sender.queue.push(replay);
    this.#queued += 1;
    // A replay behind another one of its client does not change which is next.
    if (sender.queue.length === 1) this.#pump();
    return true;
  }

  /** The client has sent all its replays. @param drained called when they are executed, now or later. */
  complete(uuid: ClientUuid, drained: () => void = () => undefined): void {
    const sender = this.#senders.get(uuid);
    if (sender === undefined) {
      drained();
      return;
    }
    sender.complete = true;
    if (this.isBehind(uuid)) sender.drained.push(drained);
    else drained();
    this.#pump();
  }

  /** The client's connection is lost: it will send again the replays that were not executed, and more. */
  lost(uuid: ClientUuid): void {
    const sender = this.#senders.get(uuid);
    if (sender === undefined) return;
    // Nobody gets these answers: the connection is gone.
    for (const drained of sender.drained.splice(0)) drained();
    if (sender.queue.length === 0 && sender.complete) return;
    this.#queued -= sender.queue.length;
    sender.queue = [];
    sender.received = 0 as Transno;
    sender.complete = false;
  }

  /** No more replays come from the client; the queue drops those that it has sent. */
  gone(uuid: ClientUuid): void {
    const sender = this.#senders.get(uuid);
    if (sender === undefined) return;
    this.#queued -= sender.queue.length;
    this.#senders.delete(uuid);
    this.#pump();
  }

  /** From now on the queue executes nothing. */
  abandon(): void {
    this.#abandoned = true;
  }

  #pump(): void {
    // This call comes from inside run(), or a turn is planned already: that loop goes on by itself.
    if (this.#pumping || this.#soon) return;
    this.#pumping = true;
    try {
      for (let count = 0; this.#running === undefined; count += 1) {
        const next = this.#abandoned ? undefined : this.#next();
        if (next === undefined) break;
        if (count === AT_ONCE) {
          this.#soon = true;
          this.#options.timers.soon(() => {
            this.#soon = false;
            this.#pump();
          });
          break;
        }
        this.#run(next);
      }
    } finally {
      this.#pumping = false;
    }
    if (this.isIdle && !this.#abandoned) this.#options.idle();
  }

  #run(replay: Replay): void {
    this.#senders.get(replay.client)?.queue.shift();
    this.#queued -= 1;
    this.#running = replay;
    replay.run(() => {
      this.#running = undefined;
      this.#lastExecuted = replay.transno;
      this.#executed += 1;
      this.#options.executed(replay.client);
      for (const done of this.#afterRunning.splice(0)) done();
      const sender = this.#senders.get(replay.client);
      if (sender !== undefined && sender.queue.length === 0) {
        for (const drained of sender.drained.splice(0)) drained();
      }
      this.#pump();
    });
  }

  /** The lowest replay, if it may be executed. */
  #next(): Replay | undefined {
    let lowest: Replay | undefined;
    let received = Number.POSITIVE_INFINITY;
    for (const sender of this.#senders.values()) {
      const [first] = sender.queue;
      if (first !== undefined && (lowest === undefined || first.transno < lowest.transno)) lowest = first;
      if (!sender.complete && sender.received < received) received = sender.received;
    }
    if (lowest === undefined) return undefined;
    return lowest.transno === this.#lastExecuted + 1 || lowest.transno <= received ? lowest : undefined;
  }
}
