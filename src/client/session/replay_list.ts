/**
 * The replay list of one target: every request that the target has executed and answered, and not yet committed. If the
 * target crashes, the next instance executes them again, in the order of their transnos.
 *
 * - A request enters with its reply and leaves when a reply says that its transno is durable, so the list holds what
 *   was executed during one group commit or two. Nothing is copied: the list keeps the bytes that the client sent.
 * - The bytes of a WRITE lie in memory of the page cache, which evicts clean pages and reuses their memory. So the list keeps
 *   that memory (KeptMemory). While it keeps more than BULK_MAX_BYTES, write_back.ts asks for a SYNC and sends no more.
 * - CLOSE is not in the list: the client opens again only what is in its handle table. When the recovery window ends, the
 *   server destroys each inode without a name that no client has opened.
 *
 * Invariants: the entries are sorted by transno, above lastCommitted and up to lastExecuted; bulkBytes counts their bulks.
 */

import { assert } from '../../base/assert.js';
import type { Attr, Timespec } from '../../base/attr.js';
import type { Transno } from '../../base/ids.js';
import type { AnsweredRequest, AnswerObserver } from '../../rpc/api.js';
import { Batch } from '../../wire/batch.js';
import { Close } from '../../wire/meta.js';
import type { Operation } from '../../wire/operation.js';
import { decode, encode } from '../../wire/schema.js';
import type { KeptMemory } from './kept_memory.js';

/** Bytes of kept WRITEs. Above this, the client asks the target to commit before it sends more. */
export const BULK_MAX_BYTES = 64 << 20;
/** The array is cut when at least this many entries at its front have left. */
const COMPACT_AT = 1024;

const NOTHING = 0 as Transno;

interface Entry extends Omit<AnsweredRequest, 'opcode'> {
  readonly operation: Operation<unknown, unknown>;
  readonly firstTime: FirstTime;
}

/** What a replay must not change: programs have seen it. */
interface FirstTime {
  /** When the target executed the request, by the target's clock. */
  readonly time: Timespec | undefined;
  /** Where the name that it made lies in its directory. */
  readonly position: number | undefined;
  /** The same for each name that a BATCH made. */
  readonly positions: readonly number[] | undefined;
}

/** What replies carry of it. */
interface Answer {
  readonly attr?: Attr;
  readonly parentAttr?: Attr;
  readonly position?: number;
  readonly positions?: readonly number[];
}

export class ReplayList implements AnswerObserver {
  readonly #memory: KeptMemory;
  /** Sorted by transno. Entries before #first have left. */
  #entries: Entry[] = [];
  #first = 0;
  #bulkBytes = 0;
  #lastCommitted = NOTHING;
  #lastExecuted = NOTHING;
  /** The target takes replays. The list keeps nothing for a target that does not. */
  enabled = false;

  constructor(memory: KeptMemory) {
    this.#memory = memory;
  }

  get size(): number {
    return this.#entries.length - this.#first;
  }

  /** Operations of programs in the list: a BATCH has many. */
  get operations(): number {
    let more = 0;
    for (const { operations } of this.requestsOf(Batch)) more += Math.max(0, operations.length - 1);
    return this.size + more;
  }

  /** Bytes of the WRITEs in the list. */
  get bulkBytes(): number {
    return this.#bulkBytes;
  }

  /** The highest transno that is durable, as far as the target has told this client. */
  get lastCommitted(): Transno {
    return this.#lastCommitted;
  }

  /** The highest transno that this client has an answer for. */
  get lastExecuted(): Transno {
    return this.#lastExecuted;
  }

  /** The requests in the list now, in order, each with what its first execution decided. */
  *requests(): Iterable<AnsweredRequest> {
    for (const { operation, xid, body, bulk, transno, firstTime } of this.#entries.slice(this.#first)) {
      // A reply may have said meanwhile that this one is durable. Then its bulk may be gone.
      if (transno <= this.#lastCommitted) continue;
      yield { opcode: operation.opcode, xid, body: asAtFirst(operation, body, firstTime), bulk, transno };
    }
  }

  /** The requests of one operation that may not be durable. */
  *requestsOf<Q>(operation: Operation<Q, unknown>): Iterable<Q> {
    for (const entry of this.#entries.slice(this.#first)) {
      if (entry.operation.opcode === operation.opcode) yield decode(operation.request, entry.body);
    }
  }

  executed(
    operation: Operation<unknown, unknown>,
    request: Pick<AnsweredRequest, 'xid' | 'body' | 'bulk'>,
    transno: Transno,
    reply: unknown,
  ): void {
    if (transno > this.#lastExecuted) this.#lastExecuted = transno;
    if (!this.enabled || transno <= this.#lastCommitted || operation.opcode === Close.opcode) return;
    const { xid, body, bulk } = request;
    const { attr, parentAttr, position, positions } = reply as Answer;
    const firstTime: FirstTime = { time: (parentAttr ?? attr)?.ctime, position, positions };
    const entry: Entry = { operation, xid, body, bulk, transno, firstTime };
    if (bulk !== undefined) {
      for (const chunk of bulk) {
        this.#bulkBytes += chunk.length;
        this.#memory.keep(chunk);
      }
    }
    // Replies come in the order of execution, except those that the target answers from its stored outcomes.
    const entries = this.#entries;
    let at = entries.length;
    while (at > this.#first && (entries[at - 1] as Entry).transno > transno) at -= 1;
    if (at === entries.length) entries.push(entry);
    else entries.splice(at, 0, entry);
  }

  committed(lastCommitted: Transno): void {
    if (lastCommitted <= this.#lastCommitted) return;
    this.#lastCommitted = lastCommitted;
    const entries = this.#entries;
    let first = this.#first;
    for (let entry = entries[first]; entry !== undefined && entry.transno <= lastCommitted; ) {
      this.#release(entry);
      first += 1;
      entry = entries[first];
    }
    this.#first = first;
    if (first === entries.length) {
      this.#entries = [];
      this.#first = 0;
    } else if (first >= COMPACT_AT && first * 2 > entries.length) {
      this.#entries = entries.slice(first);
      this.#first = 0;
    }
  }

  /** The process from which this one has taken the client over had answers up to here. All of them are durable. */
  goesOnFrom(lastExecuted: Transno): void {
    this.#lastExecuted = lastExecuted;
    this.#lastCommitted = lastExecuted;
  }

  /** The client can replay none of them any more: for the target it is a new client. */
  clear(): void {
    for (const entry of this.#entries.slice(this.#first)) this.#release(entry);
    this.#entries = [];
    this.#first = 0;
    this.#lastCommitted = NOTHING;
    this.#lastExecuted = NOTHING;
  }

  #release({ bulk }: Entry): void {
    if (bulk === undefined) return;
    for (const chunk of bulk) {
      this.#bulkBytes -= chunk.length;
      this.#memory.release(chunk);
    }
  }

  /** The memory of WRITEs that the list keeps, for the check of KeptMemory. */
  *keptChunks(): Iterable<Uint8Array> {
    for (const { bulk } of this.#entries.slice(this.#first)) yield* bulk ?? [];
  }

  checkInvariants(): void {
    let before: number = this.#lastCommitted;
    let bytes = 0;
    for (const { transno, bulk } of this.#entries.slice(this.#first)) {
      assert(transno > before, `transno ${transno} is kept behind ${before}`);
      before = transno;
      for (const chunk of bulk ?? []) bytes += chunk.length;
    }
    assert(
      this.size === 0 || before <= this.#lastExecuted,
      `${before} is kept, ${this.#lastExecuted} executed`,
    );
    assert(bytes === this.#bulkBytes, `${bytes} bytes of WRITEs are kept, counted ${this.#bulkBytes}`);
  }
}

function asAtFirst(operation: Operation<unknown, unknown>, body: Buffer, firstTime: FirstTime): Buffer {
  if (firstTime.time === undefined && firstTime.positions === undefined) return body;
  return encode(operation.request, { ...(decode(operation.request, body) as object), ...firstTime });
}
