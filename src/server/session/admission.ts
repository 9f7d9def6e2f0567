/**
 * Decides which requests of a client the server executes now, and which it holds. All new requests wait for the end of
 * the recovery window. The server also executes nothing for a client that has drained, or while it commits everything.
 *
 * Held requests are bounded, for each client and in all: past the bound the server does not read the connection until
 * it may go on. A server that stops never answers its held requests; their senders ask the next server.
 */

import type { Frame, Link } from '../../rpc/api.js';
import { DrainProgress } from '../../wire/admin.js';
import { FLAG_RECOVERY, KIND } from '../../wire/header.js';
import { Cancel, Enqueue } from '../../wire/lock.js';
import {
  Disconnect,
  Ping,
  RecoveryDone,
  Replayed,
  ReplayLocks,
  ReplayOpens,
  ReplayTickets,
} from '../../wire/session.js';
import type { ClientExport } from '../export/export.js';
import { frameBytes, keptCopy } from '../export/kept_frames.js';
import { dropHeld } from '../target/eviction.js';
import type { ServerView } from './server_view.js';

const HELD_FRAMES_MAX = 10_000;
const HELD_BYTES_MAX = 32 << 20;

/** Never held: these requests keep a connection alive, or take part in what everybody waits for. */
const ALWAYS: ReadonlySet<number> = new Set([Ping.opcode, DrainProgress.opcode, Disconnect.opcode]);
/** Operations with FLAG_REPLAY do not come here: see replay.ts. */
const REPLAY: ReadonlySet<number> = new Set([
  Replayed.opcode,
  ReplayOpens.opcode,
  ReplayTickets.opcode,
  ReplayLocks.opcode,
  RecoveryDone.opcode,
  Enqueue.opcode,
]);

/** The session that a frame came through. */
export interface FrameSource {
  readonly link: Link;
  dispatch(client: ClientExport, frame: Frame): void;
}

export class Admission {
  readonly #server: ServerView;
  /** Clients with held frames, by the session through which the frames came. */
  readonly #holding = new Map<FrameSource, ClientExport>();

  constructor(server: ServerView) {
    this.#server = server;
  }

  /** Frames held now, for metrics. */
  get held(): number {
    let frames = 0;
    for (const client of this.#holding.values()) frames += client.held.length;
    return frames;
  }

  /**
   * @returns true if the frame is not to be executed now: it is kept for later, or dropped, because its client has said goodbye or
   *   was evicted and waits for no answer. Frames of one client keep their order.
   */
  holds(session: FrameSource, client: ClientExport, frame: Frame): boolean {
    if (frame.header.kind !== KIND.request || this.#passes(client, frame)) return false;
    if (client.life.isOver) return true;
    const bytes = frameBytes(frame);
    client.held.push(keptCopy(frame));
    client.heldBytes += bytes;
    client.kept.add(bytes);
    this.#holding.set(session, client);
    const isOver = client.held.length >= HELD_FRAMES_MAX || client.heldBytes >= HELD_BYTES_MAX;
    if (!client.heldPause && (isOver || client.kept.isFull)) {
      client.heldPause = true;
      session.link.pause();
    }
    return true;
  }

  /** Call it when the window is over, or a shutdown was taken back. */
  release(): void {
    for (const [session, client] of this.#holding) {
      this.#holding.delete(session);
      const frames = client.held;
      const isCurrent = client.link === session.link;
      dropHeld(client);
      if (!isCurrent) continue;
      for (const frame of frames) session.dispatch(client, frame);
    }
  }

  forget(session: FrameSource): void {
    this.#holding.delete(session);
  }

  #passes(client: ClientExport, frame: Frame): boolean {
    const { opcode, flags } = frame.header;
    if (ALWAYS.has(opcode)) return true;
    const isRecovery = REPLAY.has(opcode) && (flags & FLAG_RECOVERY) !== 0;
    switch (this.#server.state) {
      case 'active':
        return true;
      case 'recovering':
        return client.recovering && isRecovery;
      case 'draining':
        // A client asks for the active lock as always; the request waits behind the shutdown.
        if (opcode === Enqueue.opcode || opcode === Cancel.opcode) return true;
        // The client did not hear of the end of its recovery, and goes through it once more.
        if (isRecovery && this.#server.target?.undrained.has(client) === true) return true;
        return client.activeLocks.size > 0;
      default:
        return false;
    }
  }
}
