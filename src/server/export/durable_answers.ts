/**
 * What the target keeps across restarts of a client's operations that took effect: one record (ReplyRecord) for each
 * operation whose reply may not have arrived, written in the transaction of the effect. This class decides into which
 * slot a record goes.
 *
 * - The class uses a slot again when the client has said that the reply arrived (ack_window.ts): the client will never
 *   ask for that reply again. So a client that does one operation at a time rewrites one record.
 * - If a client sends a request again after a restart and its xid is here, an earlier instance executed it: the server
 *   answers it from the state (operations/table.ts).
 */

import { assert } from '../../base/assert.js';
import type { Transno, Xid } from '../../base/ids.js';
import type { ReplyRecord, SlotReply } from '../../storage/api.js';
import { AckWindow } from './ack_window.js';

export const SLOTS_MAX = 65_536;

export class DurableAnswers {
  /** Slots in use, in the order in which they were taken: nearly the order of the xids. */
  readonly #slots = new AckWindow<number>((slot, xid) => {
    this.#free.push(slot);
    if (this.#inherited.size > 0) this.#inherited.delete(xid);
  });
  readonly #free: number[] = [];
  /** Slots from this one on were never used. */
  #unused = 0;
  /** Operations that an earlier instance executed and the client has not acknowledged. */
  readonly #inherited = new Map<Xid, ReplyRecord>();

  /**
   * Takes over the records of an earlier instance from the store. @returns the highest transno among them, 0 if there
   * are none.
   */
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

  /** The record of this request, if an earlier instance executed it. */
  inherited(xid: Xid): ReplyRecord | undefined {
    return this.#inherited.get(xid);
  }

  /** All records that the client may still ask for. */
  inheritedReplies(): Iterable<ReplyRecord> {
    return this.#inherited.values();
  }

  /** Whether the record of this request may have been dropped: then nobody knows whether it took effect. */
  mayHaveLost(xid: Xid): boolean {
    return this.#slots.mayHaveLost(xid);
  }

  /** @returns the slot for the record of this operation. */
  slotFor(xid: Xid): number {
    // The xid of a replay may have a slot, with the same record.
    const known = this.#slots.get(xid);
    if (known !== undefined) return known;
    const slot = this.#freeSlot();
    // The client has acknowledged it already, as it has for every replay: the next operation may have the slot.
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
    assert(slot !== undefined, 'no slot is free, though the oldest was dropped');
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
