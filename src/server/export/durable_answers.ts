/**
 * What is kept of a client's operations that took effect, across restarts: one record in the store for each whose reply
 * may not have arrived (ReplyRecord), written in the transaction of the effect. This decides which slot it goes into.
 *
 * - A slot is used again when the client has said that the reply arrived (ack_window.ts): it will never ask for that one
 *   again. So a client that does one operation at a time rewrites one record.
 * - After a restart a request sent again whose xid is here was executed, and is answered from the state (operations/table.ts).
 */

import { assert } from '../../base/assert.js';
import type { Transno, Xid } from '../../base/ids.js';
import type { ReplyRecord, SlotReply } from '../../storage/api.js';
import { AckWindow } from './ack_window.js';

export const SLOTS_MAX = 65_536;

export class DurableAnswers {
  /** Slots in use, in the order in which they were taken: nearly that of the xids. */
  readonly #slots = new AckWindow<number>((slot, xid) => {
    this.#free.push(slot);
    if (this.#inherited.size > 0) this.#inherited.delete(xid);
  });
  readonly #free: number[] = [];
  /** Slots from here on were never used. */
  #unused = 0;
  /** Executed by an earlier instance, and not acknowledged. */
  readonly #inherited = new Map<Xid, ReplyRecord>();

  /** As the store has them of an earlier instance. @returns the highest transno among them, 0 if there is none. */
  inherit(replies: readonly SlotReply[]): Transno {
    let last = 0 as Transno;
    const used = new Set<number>();
    const inOrder = [...replies].sort((a, b) => a.xid - b.xid);
    for (const { slot, ...reply } of inOrder) {
      this.#slots.set(reply.xid, slot);
      this.#inherited.set(reply.xid, reply);
      used.add(slot);
      this.#unused = Math.max(this.#unused, slot + 1);
      if (reply.transno > last) last = reply.transno;
    }
    for (let slot = this.#unused - 1; slot >= 0; slot -= 1) if (!used.has(slot)) this.#free.push(slot);
    const [oldest] = inOrder;
    if (oldest !== undefined && this.#slots.size === SLOTS_MAX) this.#slots.lost(oldest.xid - 1);
    return last;
  }

  /** What an earlier instance did for this request. */
  inherited(xid: Xid): ReplyRecord | undefined {
    return this.#inherited.get(xid);
  }

  /** All that the client may still ask for. */
  inheritedReplies(): Iterable<ReplyRecord> {
    return this.#inherited.values();
  }

  /** Nobody knows any more whether this request took effect. */
  mayHaveLost(xid: Xid): boolean {
    return this.#slots.mayHaveLost(xid);
  }

  /** @returns the slot for the record of this operation. */
  slotFor(xid: Xid): number {
    // Of a replay: the xid may have a slot, with the same record.
    const known = this.#slots.get(xid);
    if (known !== undefined) return known;
    const slot = this.#freeSlot();
    // Acknowledged already, as that of every replay is: the next operation may have the slot.
    if (this.#slots.isAcknowledged(xid)) this.#free.push(slot);
    else this.#slots.set(xid, slot);
    return slot;
  }

  /** Every reply to an xid below this has arrived at the client. */
  acknowledge(below: number): void {
    this.#slots.acknowledge(below);
  }

  #freeSlot(): number {
    if (this.#free.length === 0 && this.#unused < SLOTS_MAX) {
      this.#unused += 1;
      return this.#unused - 1;
    }
    if (this.#free.length === 0) this.#slots.dropOldest();
    const slot = this.#free.pop();
    assert(slot !== undefined, 'all slots are in use, and none is');
    return slot;
  }

  /** Each slot up to the highest used one is free or in use, never both. */
  checkInvariants(): void {
    this.#slots.checkInvariants();
    assert(
      this.#free.length + this.#slots.size === this.#unused,
      `${this.#free.length} slots are free and ${this.#slots.size} in use, of ${this.#unused}`,
    );
    assert(new Set(this.#free).size === this.#free.length, 'a slot is free twice');
  }
}
