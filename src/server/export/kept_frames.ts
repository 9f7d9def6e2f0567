/**
 * Frames that a server keeps before it has decoded them: requests held for the end of the recovery window or for the
 * next server, and replays that wait for their turn. Counted over all clients.
 *
 * Each client has a limit of its own, and all of one key have; past it the server does not read from the client. If all clients together have
 * more than KEPT_BYTES_MAX, the server also stops reading from each client that adds to it. That blocks nobody: a
 * client with held requests has sent everything that others wait for, and a client with a replay in the queue makes
 * nobody wait (docs/recovery/replay.md, "Memory").
 *
 * Invariant: the counted bytes are those of the frames held and queued for the clients.
 */

import { assert } from '../../base/assert.js';
import type { Frame } from '../../rpc/api.js';
import { HEADER_SIZE } from '../../wire/header.js';

const KEPT_BYTES_MAX = 256 << 20;
/** Bytes of a frame's header and of the objects around the frame. */
const FRAME_BYTES = HEADER_SIZE + 256;

export class KeptFrames {
  readonly #limitBytes: number;
  readonly #shares = new Map<string, KeptShare>();
  #bytes = 0;

  constructor(limitBytes = KEPT_BYTES_MAX) {
    this.#limitBytes = limitBytes;
  }

  get isFull(): boolean {
    return this.#bytes >= this.#limitBytes;
  }

  /** The part of one key. @param limitBytes absent: half of all. */
  of(principal: string, limitBytes?: number): KeptShare {
    let share = this.#shares.get(principal);
    if (share === undefined) {
      share = new KeptShare(this);
      this.#shares.set(principal, share);
    }
    share.limitBytes = Math.min(limitBytes ?? Number.POSITIVE_INFINITY, this.#limitBytes / 2);
    return share;
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

/** What the clients of one key have of it. */
export class KeptShare {
  readonly #all: KeptFrames;
  limitBytes = 0;
  #bytes = 0;

  constructor(all: KeptFrames) {
    this.#all = all;
  }

  get isFull(): boolean {
    return this.#bytes >= this.limitBytes || this.#all.isFull;
  }

  add(bytes: number): void {
    this.#bytes += bytes;
    this.#all.add(bytes);
  }

  remove(bytes: number): void {
    this.#bytes -= bytes;
    this.#all.remove(bytes);
  }
}

/** Bytes that a kept frame costs, if keptCopy() made it. */
export function frameBytes({ body, bulk }: Frame): number {
  return body.length + bulk.length + FRAME_BYTES;
}

/** Returns the same frame with a body that does not keep other received bytes alive. */
export function keptCopy(frame: Frame): Frame {
  const { header, body, bulk } = frame;
  const isWasteful = body.buffer.byteLength > body.length * 2;
  if (!isWasteful) return frame;
  // Not Buffer.from(): Node's pool would keep up to 64 KiB alive for a small frame.
  const copy = Buffer.allocUnsafeSlow(body.length);
  copy.set(body);
  return { header, body: copy, bulk };
}
