/**
 * Replays of all clients, executed strictly in the order of their transnos, one after the other.
 *
 * A client sends its replays in order. The lowest one that is here is executed when nobody can come with a lower one:
 * its transno follows that of the last one executed, or every client that is waited for has sent a higher one (or this
 * very one), or has said that it has no more. Gaps are normal: changes of the server itself had transnos too, and so had
 * operations whose answers nobody got (those are no replays, they are resent) and those of clients that are gone.
 *
 * Invariants:
 * - At most one replay is executed at a time, data operations to their end; `lastExecuted` only grows.
 * - A client with a replay in the queue never holds others up: so it may be paused when it has sent a lot.
 */

import type { ClientUuid, Transno } from '../../base/ids.js';
import type { Timers } from '../../runtime/ports.js';

/**
 * Executed without a break; then other events have their turn, some 20 ms later. The answers of a turn leave together: of
 * a hundred clients each gets several in one packet.
 */
const AT_ONCE = 512;

export interface Replay {
  readonly client: ClientUuid;
  readonly transno: Transno;
  /** Executes it. @param done to be called exactly once, when nothing of it is under way any more. */
  run(done: () => void): void;
}

interface Sender {
  /** The highest transno it has sent. */
  received: Transno;
  /** It has sent all it had. */
  complete: boolean;
  queue: Replay[];
  /** Told when all that it has sent is executed. */
  drained: (() => void)[];
}

export interface ReplayQueueOptions {
  readonly timers: Pick<Timers, 'soon'>;
  readonly lastExecuted: Transno;
  /** A replay of this client was executed. */
  executed(client: ClientUuid): void;
  /** Nothing is queued and nothing is executed. */
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
  /** How many were executed, for status. */
  get executed(): number {
    return this.#executed;
  }
  get queued(): number {
    return this.#queued;
  }
  get isIdle(): boolean {
    return this.#queued === 0 && this.#running === undefined;
  }
  /** The client has sent replays that are not executed: whatever it waits for is not its fault. */
  isBehind(uuid: ClientUuid): boolean {
    return (this.#senders.get(uuid)?.queue.length ?? 0) > 0 || this.#running?.client === uuid;
  }
  queuedOf(uuid: ClientUuid): number {
    return this.#senders.get(uuid)?.queue.length ?? 0;
  }

  /**
   * The client has lost its connection and sends again what is being executed.
   * @param done called when it has been. @returns false when it is not that.
   */
  joins(uuid: ClientUuid, transno: Transno, done: () => void): boolean {
    if (this.#running?.client !== uuid || this.#running.transno !== transno) return false;
    this.#afterRunning.push(done);
    return true;
  }

  /** @returns false when it is not in order: it comes after one with a higher transno was sent or executed. */
  add(replay: Replay): boolean {
    const sender = this.#senders.get(replay.client);
    if (sender === undefined || sender.complete) return false;
    if (replay.transno <= this.#lastExecuted || replay.transno <= sender.received) return false;
    if (this.#running !== undefined && replay.transno <= this.#running.transno) return false;
    sender.received = replay.transno;
    sender.queue.push(replay);
    this.#queued += 1;
    // Behind another one of its own it changes nothing about which is next.
    if (sender.queue.length === 1) this.#pump();
    return true;
  }

  /** The client has sent all it has. @param drained called when that is executed, now or later. */
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

  /** Its connection is lost: it will send again what was not executed, and more. */
  lost(uuid: ClientUuid): void {
    const sender = this.#senders.get(uuid);
    if (sender === undefined) return;
    // To nobody: their connection is gone.
    for (const drained of sender.drained.splice(0)) drained();
    if (sender.queue.length === 0 && sender.complete) return;
    this.#queued -= sender.queue.length;
    sender.queue = [];
    sender.received = 0 as Transno;
    sender.complete = false;
  }

  /** Nothing more comes from it; what it has sent is dropped. */
  gone(uuid: ClientUuid): void {
    const sender = this.#senders.get(uuid);
    if (sender === undefined) return;
    this.#queued -= sender.queue.length;
    this.#senders.delete(uuid);
    this.#pump();
  }

  /** Nothing more is executed. */
  abandon(): void {
    this.#abandoned = true;
  }

  #pump(): void {
    // From inside run(), or while the next turn is planned: the loop that runs goes on by itself.
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

  /** The lowest one, if it may be executed. */
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
