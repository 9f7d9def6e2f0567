/**
 * Which requests of a client are executed now, and which are held: all that is new waits for the end of the recovery
 * window, and nothing is executed for a client that has drained, or when everything is being committed.
 *
 * What is held is bounded, for each client and in all: past the bound the connection is not read until it may go on.
 * Held requests of a server that stops are never answered; their senders ask the next one.
 */

import type { Frame, Link } from '../../rpc/api.js';
import { DrainProgress } from '../../wire/admin.js';
import { FLAG_RECOVERY, KIND } from '../../wire/header.js';
import { Cancel, Enqueue } from '../../wire/lock.js';
import { Disconnect, Ping, RecoveryDone, Replayed, ReplayLocks, ReplayOpens } from '../../wire/session.js';
import type { Export } from '../export/export.js';
import { frameBytes, keptCopy } from '../export/kept_frames.js';
import { dropHeld } from '../target/eviction.js';
import type { Host } from './host.js';

const HELD_FRAMES_MAX = 10_000;
const HELD_BYTES_MAX = 32 << 20;

/** Never held: they keep a connection, or take part in what everybody waits for. */
const ALWAYS: ReadonlySet<number> = new Set([Ping.opcode, DrainProgress.opcode, Disconnect.opcode]);
/** Operations with FLAG_REPLAY do not come here: see replay.ts. */
const REPLAY: ReadonlySet<number> = new Set([
  Replayed.opcode,
  ReplayOpens.opcode,
  ReplayLocks.opcode,
  RecoveryDone.opcode,
  Enqueue.opcode,
]);

/** The session that a frame came through. */
export interface FrameSource {
  readonly link: Link;
  dispatch(owner: Export, frame: Frame): void;
}

export class Admission {
  readonly #host: Host;
  /** Whose frames are held, by the session they came through. */
  readonly #holding = new Map<FrameSource, Export>();

  constructor(host: Host) {
    this.#host = host;
  }

  /** Frames held now, for metrics. */
  get held(): number {
    let frames = 0;
    for (const owner of this.#holding.values()) frames += owner.held.length;
    return frames;
  }

  /** @returns true when the frame was kept for later. Frames of one client keep their order. */
  holds(session: FrameSource, owner: Export, frame: Frame): boolean {
    if (frame.header.kind !== KIND.request || this.#passes(owner, frame)) return false;
    const bytes = frameBytes(frame);
    owner.held.push(keptCopy(frame));
    owner.heldBytes += bytes;
    owner.kept.add(bytes);
    this.#holding.set(session, owner);
    const isOver = owner.held.length >= HELD_FRAMES_MAX || owner.heldBytes >= HELD_BYTES_MAX;
    if (!owner.heldPause && (isOver || owner.kept.isFull)) {
      owner.heldPause = true;
      session.link.pause();
    }
    return true;
  }

  /** The window is over, or a shutdown was taken back. */
  release(): void {
    for (const [session, owner] of this.#holding) {
      this.#holding.delete(session);
      const frames = owner.held;
      const isCurrent = owner.link === session.link;
      dropHeld(owner);
      if (!isCurrent) continue;
      for (const frame of frames) session.dispatch(owner, frame);
    }
  }

  forget(session: FrameSource): void {
    this.#holding.delete(session);
  }

  #passes(owner: Export, frame: Frame): boolean {
    const { opcode, flags } = frame.header;
    if (ALWAYS.has(opcode)) return true;
    const isRecovery = REPLAY.has(opcode) && (flags & FLAG_RECOVERY) !== 0;
    switch (this.#host.state) {
      case 'active':
        return true;
      case 'recovering':
        return owner.recovering && isRecovery;
      case 'draining':
        // The active lock is enqueued for like always, and waits behind the shutdown.
        if (opcode === Enqueue.opcode || opcode === Cancel.opcode) return true;
        // It did not hear of the end of its recovery, and goes through it once more.
        if (isRecovery && this.#host.target?.returning.has(owner) === true) return true;
        return owner.activeLocks.size > 0;
      default:
        return false;
    }
  }
}
