/**
 * Replies that a client may not have got yet, so that a request sent again after a broken connection has one effect and
 * the same answer.
 *
 * Kept are replies that changed something, or granted something (a lock whose grant was lost could never be given back).
 * A reply goes when the client says that it arrived (ackXid, in each of its requests). The bound is against a peer that
 * never does: past it the oldest replies go, and a resend of one of those cannot be answered truthfully any more.
 */

import type { Transno, Xid } from '../../base/ids.js';

export interface StoredReply {
  readonly opcode: number;
  readonly errno: number;
  readonly transno: Transno;
  readonly body: Buffer;
}

const ENTRIES_MAX = 65_536;
const BYTES_MAX = 32 << 20;
/** What an entry costs beside its body. */
const ENTRY_OVERHEAD_BYTES = 128;

export class ReplyData {
  readonly #replies = new Map<Xid, StoredReply>();
  #bytes = 0;
  #ackedBelow = 0;
  #lostUpTo = 0;

  get size(): number {
    return this.#replies.size;
  }

  find(xid: Xid): StoredReply | undefined {
    return this.#replies.get(xid);
  }

  /** A reply to this xid may have been dropped for want of room: nobody knows whether the request took effect. */
  mayHaveLost(xid: Xid): boolean {
    return xid <= this.#lostUpTo;
  }

  store(xid: Xid, reply: StoredReply): void {
    if (xid < this.#ackedBelow) return;
    this.#remove(xid);
    this.#replies.set(xid, reply);
    this.#bytes += reply.body.length + ENTRY_OVERHEAD_BYTES;
    while (this.#replies.size > ENTRIES_MAX || this.#bytes > BYTES_MAX) {
      const oldest = this.#replies.keys().next();
      if (oldest.done === true) return;
      this.#remove(oldest.value);
      this.#lostUpTo = Math.max(this.#lostUpTo, oldest.value);
    }
  }

  /** Every reply to an xid below this has arrived at the client. */
  acknowledge(below: number): void {
    if (below <= this.#ackedBelow) return;
    // xids are consecutive, so walking the numbers costs one step a request; a peer that jumps pays one full pass.
    if (below - this.#ackedBelow <= 2 * this.#replies.size) {
      for (let xid = this.#ackedBelow; xid < below; xid += 1) this.#remove(xid as Xid);
    } else {
      for (const xid of this.#replies.keys()) if (xid < below) this.#remove(xid);
    }
    this.#ackedBelow = below;
  }

  #remove(xid: Xid): void {
    const reply = this.#replies.get(xid);
    if (reply === undefined) return;
    this.#replies.delete(xid);
    this.#bytes -= reply.body.length + ENTRY_OVERHEAD_BYTES;
  }
}
