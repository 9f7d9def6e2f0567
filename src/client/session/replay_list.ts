/**
 * The replay list of one target: every request that it executed and answered, and has not yet committed. If the target
 * crashes, the next instance executes them again, in the order of their transnos.
 *
 * - A request enters with its reply and leaves when a reply says that its transno is durable, so the list holds what
 *   was executed during one group commit or two. Nothing is copied: it keeps the bytes that were sent.
 * - The memory of a WRITE is a page's. Pages that are clean are evicted and their memory is used again, so the list
 *   keeps it (KeptMemory). write_back.ts asks for a SYNC and sends no more while more than BULK_MAX_BYTES are kept.
 * - CLOSE is not in it: what is not in the handle table is not opened again, and an inode without a name that nobody
 *   opens is destroyed when the recovery window ends.
 *
 * Invariants: the entries are sorted by transno, above what is committed and up to what was executed; bulkBytes are theirs.
 */

import { assert } from '../../base/assert.js';
import type { Attr, Timespec } from '../../base/attr.js';
import type { Transno } from '../../base/ids.js';
import type { AnsweredRequest, AnswerObserver } from '../../rpc/api.js';
import { Close } from '../../wire/meta.js';
import type { Operation } from '../../wire/operation.js';
import { decode, encode } from '../../wire/schema.js';
import type { KeptMemory } from './kept_memory.js';

/** Bytes of WRITEs kept, beyond which the target is asked to commit before it is sent more. */
export const BULK_MAX_BYTES = 64 << 20;
/** Entries at the front that are gone already before the array is cut. */
const COMPACT_AT = 1024;

const NOTHING = 0 as Transno;

interface Entry extends Omit<AnsweredRequest, 'opcode'> {
  readonly operation: Operation<unknown, unknown>;
  /** By the target's clock, when it was executed. The replay must not change what was told. */
  readonly time: Timespec | undefined;
}

/** The attributes that replies carry. */
interface Attributes {
  readonly attr?: Attr;
  readonly parentAttr?: Attr;
}

export class ReplayList implements AnswerObserver {
  readonly #memory: KeptMemory;
  /** By transno. Those before #first have left. */
  #entries: Entry[] = [];
  #first = 0;
  #bulkBytes = 0;
  #lastCommitted = NOTHING;
  #lastExecuted = NOTHING;
  /** The target takes replays. For one that does not, keeping them would be in vain. */
  enabled = false;

  constructor(memory: KeptMemory) {
    this.#memory = memory;
  }

  get size(): number {
    return this.#entries.length - this.#first;
  }

  /** Bytes of WRITEs. */
  get bulkBytes(): number {
    return this.#bulkBytes;
  }

  /** Durable on the target, as far as this client was told. */
  get lastCommitted(): Transno {
    return this.#lastCommitted;
  }

  /** The highest that this client has an answer for. */
  get lastExecuted(): Transno {
    return this.#lastExecuted;
  }

  /** Those there are now, in order. A replay names the time at which the operation was executed first. */
  *requests(): Iterable<AnsweredRequest> {
    for (const { operation, xid, body, bulk, transno, time } of this.#entries.slice(this.#first)) {
      // Meanwhile a reply may have said so, and the bulk may be gone.
      if (transno <= this.#lastCommitted) continue;
      yield { opcode: operation.opcode, xid, body: timed(operation, body, time), bulk, transno };
    }
  }

  /** The requests of one kind that may not be durable. */
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
    const { attr, parentAttr } = reply as Attributes;
    const entry: Entry = { operation, xid, body, bulk, transno, time: (parentAttr ?? attr)?.ctime };
    if (bulk !== undefined) {
      for (const chunk of bulk) {
        this.#bulkBytes += chunk.length;
        this.#memory.keep(chunk);
      }
    }
    // Replies come in the order of execution, but for those that the target had to answer from what it had stored.
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

  /** None of it can be replayed any more: this client is another one for the target. */
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

  /** WRITEs' memory that is kept, for the check of KeptMemory. */
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

function timed(operation: Operation<unknown, unknown>, body: Buffer, time: Timespec | undefined): Buffer {
  if (time === undefined) return body;
  return encode(operation.request, { ...(decode(operation.request, body) as object), time });
}
