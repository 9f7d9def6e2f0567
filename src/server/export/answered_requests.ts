/**
 * Replies that a client may not have got yet: with them, a request that the client sends again after a broken
 * connection has one effect and the same answer. The server keeps the replies of requests that changed something or
 * granted something (a lock whose grant was lost could never be given back), until the client says that they arrived
 * (ack_window.ts).
 *
 * Invariant: the counted bytes are those of the replies, and within the bound.
 */

import { assert } from '../../base/assert.js';
import type { Transno, Xid } from '../../base/ids.js';
import { AckWindow } from './ack_window.js';

export interface StoredReply {
  readonly opcode: number;
  readonly errno: number;
  readonly transno: Transno;
  readonly body: Buffer;
}

const ENTRIES_MAX = 65_536;
const BYTES_MAX = 32 << 20;
/** Bytes of an entry besides its body. */
const ENTRY_OVERHEAD_BYTES = 128;

export class AnsweredRequests {
  readonly #replies = new AckWindow<StoredReply>((reply) => {
    this.#bytes -= reply.body.length + ENTRY_OVERHEAD_BYTES;
  });
  #bytes = 0;

  get size(): number {
    return this.#replies.size;
  }

  find(xid: Xid): StoredReply | undefined {
    return this.#replies.get(xid);
  }

  /**
   * Whether a reply to this xid may have been dropped for lack of room: then nobody knows whether the request took
   * effect.
   */
  mayHaveLost(xid: Xid): boolean {
    return this.#replies.mayHaveLost(xid);
  }

  store(xid: Xid, reply: StoredReply): void {
    if (this.#replies.isAcknowledged(xid)) return;
    this.#replies.set(xid, reply);
    this.#bytes += reply.body.length + ENTRY_OVERHEAD_BYTES;
    while (this.#replies.size > ENTRIES_MAX || this.#bytes > BYTES_MAX) this.#replies.dropOldest();
  }

  /** Every reply to an xid below this has arrived at the client. */
  acknowledge(below: number): void {
    this.#replies.acknowledge(below);
  }

  checkInvariants(): void {
    this.#replies.checkInvariants();
    let bytes = 0;
    for (const { body } of this.#replies.entries()) bytes += body.length + ENTRY_OVERHEAD_BYTES;
    assert(bytes === this.#bytes, `${bytes} bytes of replies are kept, counted ${this.#bytes}`);
    assert(this.size <= ENTRIES_MAX && bytes <= BYTES_MAX, `${this.size} replies of ${bytes} bytes are kept`);
  }
}
