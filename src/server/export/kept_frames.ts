/**
 * Frames that a server keeps before it has decoded them: requests held for the end of the recovery window or for the next
 * server, and replays that wait for their turn. Counted over all clients.
 *
 * Each client has a limit of its own, past which it is not read. When all together have more than KEPT_BYTES_MAX, whoever
 * adds to it is not read either. That holds up nobody: a client with held requests has said all that others wait for, and
 * one with a replay in the queue is behind nobody (docs/RECOVERY.md, "Memory").
 *
 * Invariant: the bytes are those that the clients hold and queue.
 */

import { assert } from '../../base/assert.js';
import type { Frame } from '../../rpc/api.js';
import { HEADER_SIZE } from '../../wire/header.js';

const KEPT_BYTES_MAX = 256 << 20;
/** Objects around it. */
const FRAME_BYTES = HEADER_SIZE + 256;

export class KeptFrames {
  readonly #limitBytes: number;
  #bytes = 0;

  constructor(limitBytes = KEPT_BYTES_MAX) {
    this.#limitBytes = limitBytes;
  }

  get isFull(): boolean {
    return this.#bytes >= this.#limitBytes;
  }

  add(bytes: number): void {
    this.#bytes += bytes;
  }
  remove(bytes: number): void {
    this.#bytes -= bytes;
  }

  /** @param clients all exports. */
  checkInvariants(clients: Iterable<{ readonly heldBytes: number; readonly replayBytes: number }>): void {
    let bytes = 0;
    for (const { heldBytes, replayBytes } of clients) bytes += heldBytes + replayBytes;
    assert(bytes === this.#bytes, `${bytes} bytes of frames are kept, counted ${this.#bytes}`);
  }
}

/** What a frame that is kept costs, if it is one of keptCopy(). */
export function frameBytes({ body, bulk }: Frame): number {
  return body.length + bulk.length + FRAME_BYTES;
}

/** The same frame; its small body keeps nothing alive of what else has arrived with it. */
export function keptCopy(frame: Frame): Frame {
  const { header, body, bulk } = frame;
  const isWasteful = body.buffer.byteLength > body.length * 2;
  return isWasteful ? { header, body: Buffer.from(body), bulk } : frame;
}
