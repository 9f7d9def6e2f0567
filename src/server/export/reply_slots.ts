/**
 * What is kept of a client's operations that took effect, across restarts: one record in the store for each whose reply
 * may not have arrived (ReplyRecord), written in the transaction of the effect. This decides which slot it goes into.
 *
 * - A slot is used again when the client has said that the reply arrived (ackXid in each request): it will never ask for
 *   that one again. So a client that does one operation at a time rewrites one record.
 * - After a restart a request sent again whose xid is here was executed, and is answered from the state (operations/table.ts).
 * - The bound is against a peer that never acknowledges: past it the oldest records go, and a request older than all that
 *   are left cannot be answered truthfully.
 */

import type { Transno, Xid } from '../../base/ids.js';
import type { ReplyRecord, SlotReply } from '../../storage/api.js';

export const SLOTS_MAX = 65_536;

export class ReplySlots {
  /** Slots in use, in the order in which they were taken: nearly that of the xids. */
  readonly #slots = new Map<Xid, number>();
  readonly #free: number[] = [];
  /** Slots from here on were never used. */
  #unused = 0;
  #ackedBelow = 0;
  #lostUpTo = 0;
  /** Executed by an earlier instance, and not acknowledged. */
  readonly #inherited = new Map<Xid, ReplyRecord>();

  /** As the store has them of an earlier instance. @returns the highest transno among them, 0 if there is none. */
  inherit(replies: readonly SlotReply[]): Transno {
    let last = 0 as Transno;
    const used = new Set<number>();
    for (const { slot, ...reply } of [...replies].sort((a, b) => a.xid - b.xid)) {
      this.#slots.set(reply.xid, slot);
      this.#inherited.set(reply.xid, reply);
      used.add(slot);
      this.#unused = Math.max(this.#unused, slot + 1);
      if (reply.transno > last) last = reply.transno;
    }
    for (let slot = this.#unused - 1; slot >= 0; slot -= 1) if (!used.has(slot)) this.#free.push(slot);
    const [oldest] = this.#slots.keys();
    if (oldest !== undefined && this.#slots.size === SLOTS_MAX) this.#lostUpTo = oldest - 1;
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
    return xid <= this.#lostUpTo;
  }

  /** @returns the slot for the record of this operation. */
  take(xid: Xid): number {
    // Of a replay: the xid may have a slot, with the same record.
    const known = this.#slots.get(xid);
    if (known !== undefined) return known;
    const slot = this.#free.pop() ?? this.#next();
    // Acknowledged already, as that of every replay is: the next operation may have the slot.
    if (xid < this.#ackedBelow) this.#free.push(slot);
    else this.#slots.set(xid, slot);
    return slot;
  }

  /** Every reply to an xid below this has arrived at the client. */
  acknowledge(below: number): void {
    if (below <= this.#ackedBelow) return;
    // xids are consecutive, so walking the numbers costs one step a request; a peer that jumps pays one full pass.
    if (below - this.#ackedBelow <= 2 * this.#slots.size) {
      for (let xid = this.#ackedBelow; xid < below; xid += 1) this.#release(xid as Xid);
    } else {
      for (const xid of this.#slots.keys()) if (xid < below) this.#release(xid);
    }
    this.#ackedBelow = below;
  }

  #next(): number {
    if (this.#unused < SLOTS_MAX) {
      this.#unused += 1;
      return this.#unused - 1;
    }
    const [oldest] = this.#slots;
    if (oldest === undefined) throw new Error('all slots are in use, and none is');
    const [xid, slot] = oldest;
    this.#slots.delete(xid);
    this.#inherited.delete(xid);
    this.#lostUpTo = Math.max(this.#lostUpTo, xid);
    return slot;
  }

  #release(xid: Xid): void {
    const slot = this.#slots.get(xid);
    if (slot === undefined) return;
    this.#slots.delete(xid);
    this.#free.push(slot);
    if (this.#inherited.size > 0) this.#inherited.delete(xid);
  }
}
