/**
 * FrameLink: one connection as frames.
 *
 * - The link hands frames out in order, synchronously, one after the other. While it is paused it hands none out, not
 *   even those that have already arrived.
 * - The links of a server take turns (frame_turns.ts). A link that has to wait for its turn is not read until it has handed out what
 *   is there.
 * - A malformed frame closes this connection only. Until the peer is known it may send only small frames without a
 *   bulk.
 * - The link receives a large frame when there is room for it (receive_room.ts), and is paused until then.
 * - Frames sent in one turn leave in one write, at the end of the turn (a microtask): sixteen replies cost one system
 *   call. The delay has no visible effect: nothing can arrive in between.
 * - Output that the peer does not take is limited: the link closes when more than `outputLimitBytes` wait. One side
 *   (the server) may also stop reading while more than `outputPauseBytes` wait. If both sides did, they could wait for
 *   each other.
 */

import { assert } from '../base/assert.js';
import { FsError } from '../base/errno.js';
import type { Transno } from '../base/ids.js';
import { logger } from '../base/log.js';
import { isPromise } from '../base/maybe_promise.js';
import type { SlabPool } from '../base/slab_pool.js';
import type { Connection, ConnectionEvents, Origin } from '../runtime/ports.js';
import { BODY_MAX, BULK_MAX, HEADER_SIZE, PROTOCOL_MIN, putHeader } from '../wire/header.js';
import type { Frame, Link, LinkEvents } from './api.js';
import { FrameReader } from './frame_reader.js';
import type { FrameTurns, Seat, Turntaker } from './frame_turns.js';
import { type ReceiveRoom, type Receiver, UNCOUNTED_BYTES } from './receive_room.js';

const log = logger('rpc:link');

/** Bodies up to this size are copied behind their header, which costs less than writing another chunk. */
const BODY_COPY_BYTES = 16 << 10;
/** Output of this size is written at once, not at the end of the turn: the kernel can send it meanwhile. */
const FLUSH_BYTES = 256 << 10;
/** To send so many bytes takes as long as to handle some requests. */
const COSTLY_BYTES = 64 << 10;
/** More bytes than the PINGs, replies and lock requests under way add up to. */
const BACKLOG_BYTES = 16 << 10;
export const OUTPUT_LIMIT_BYTES = 256 << 20;

export interface LinkOptions {
  readonly connCount?: number;
  /** The link closes when more bytes than this are unsent. Default OUTPUT_LIMIT_BYTES; Infinity: never. */
  readonly outputLimitBytes?: number;
  /** The link stops reading while more bytes than this are unsent. Default: never. */
  readonly outputPauseBytes?: number;
  /** Memory for large bulks that arrive. */
  readonly slabs?: SlabPool;
  /** Shared by the links of a server. Default: not limited. */
  readonly room?: ReceiveRoom;
  /** Shared by the links of a server. Default: frames are handed out as they come. */
  readonly turns?: FrameTurns;
  /** The peer has to say who it is: until welcome() it may send no bulk, and no body above STRANGER_BODY_BYTES. */
  readonly stranger?: boolean;
}

/** Room for a CONNECT, and for the fields it may gain later. What a stranger makes us hold is this, and a few KiB for the connection. */
export const STRANGER_BODY_BYTES = 4 << 10;
/** Of requests of an administrator. */
const ADMIN_BODY_BYTES = 64 << 10;

/** The party of those who have not said who they are. */
const STRANGERS = 'strangers';

export class FrameLink implements Link, ConnectionEvents, Receiver, Turntaker {
  readonly peer: string;
  readonly origin: Origin;
  connCount: number;
  party = STRANGERS;
  partyBytes: number | undefined;
  #protocol = PROTOCOL_MIN;
  #negotiated = false;
  readonly #connection: Connection;
  readonly #events: LinkEvents;
  readonly #outputLimitBytes: number;
  readonly #outputPauseBytes: number;
  readonly #reader: FrameReader;
  readonly #room: ReceiveRoom | undefined;
  readonly #seat: Seat | undefined;
  /** The connection is not read because frames that have arrived wait for their turn. */
  #isBehind = false;
  /** See Turntaker. */
  bulkBytes = 0;
  /** Bytes taken from the room for the frame that is arriving, or that was handed over last. */
  #roomBytes = 0;
  /** The frame that was handed over still waits for its budget, and keeps its room meanwhile. */
  #keepsRoom = false;
  readonly #closing = new AbortController();
  #output: Uint8Array[] = [];
  #outputBytes = 0;
  /** Functions to call when the bytes in the output have left. */
  #outputSent: (() => void)[] = [];
  #flushQueued = false;
  #receivedBytes = 0;
  #writtenBytes = 0;
  /** The peer's taken bytes when we last looked during a backlog. */
  #takenBytes = 0;
  #pauses = 0;
  #pausedByOutput = false;
  #delivering = false;
  #closed = false;

  /** @param open makes the object that receives the frames. */
  constructor(connection: Connection, options: LinkOptions, open: (link: FrameLink) => LinkEvents) {
    this.#connection = connection;
    this.#room = options.room;
    this.#seat = options.turns?.seat(this, STRANGERS);
    this.#reader = new FrameReader({ slabs: options.slabs, reserve: (bytes) => this.#reserve(bytes) });
    if (options.stranger === true) {
      this.#reader.bodyLimitBytes = STRANGER_BODY_BYTES;
      this.#reader.bulkLimitBytes = 0;
      this.#reader.isSmall = true;
    }
    this.peer = connection.peer;
    this.origin = connection.origin;
    this.connCount = options.connCount ?? 0;
    this.#outputLimitBytes = options.outputLimitBytes ?? OUTPUT_LIMIT_BYTES;
    this.#outputPauseBytes = options.outputPauseBytes ?? Number.POSITIVE_INFINITY;
    this.#events = open(this);
  }

  get protocol(): number {
    return this.#protocol;
  }

  /** From now on, frames of any other version count as malformed. */
  set protocol(version: number) {
    this.#protocol = version;
    this.#negotiated = true;
  }

  get bufferedBytes(): number {
    return this.#outputBytes + this.#connection.bufferedBytes;
  }

  get lifeSigns(): number {
    const signs = this.#receivedBytes + this.#takenOfBacklog();
    if (!this.#pausedByOutput) return signs;
    return signs + this.#writtenBytes - this.#connection.bufferedBytes;
  }

  /** Bytes received of the frame that has begun to arrive. */
  get arrivingBytes(): number {
    return this.#reader.arrivingBytes;
  }

  /**
   * Bytes that the peer's machine has taken, as a sign that the peer lives and the line is only slow. A kernel takes a
   * PING for a stopped process too. So these bytes count only while a large backlog is under way: if the process does
   * not read, the kernel stops taking it.
   */
  #takenOfBacklog(): number {
    const { takenBytes = 0 } = this.#connection;
    if (takenBytes > 0 && this.#writtenBytes - takenBytes >= BACKLOG_BYTES) this.#takenBytes = takenBytes;
    return this.#takenBytes;
  }

  get paused(): boolean {
    return this.#pauses - (this.#pausedByOutput ? 1 : 0) > 0;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  send(
    frame: Parameters<Link['send']>[0],
    body: Uint8Array,
    bulk?: readonly Uint8Array[],
    sent?: () => void,
  ): void {
    if (this.#closed) return;
    let bulkLength = 0;
    if (bulk !== undefined) for (const chunk of bulk) bulkLength += chunk.length;
    const together = body.length <= BODY_COPY_BYTES;
    const head = Buffer.allocUnsafe(together ? HEADER_SIZE + body.length : HEADER_SIZE);
    putHeader(head, {
      version: this.#protocol,
      kind: frame.kind,
      opcode: frame.opcode,
      flags: frame.flags ?? 0,
      errno: frame.errno ?? 0,
      xid: frame.xid,
      ackXidOrCommitted: frame.ackXidOrCommitted,
      transno: frame.transno ?? (0 as Transno),
      connCount: this.connCount,
      bodyLength: body.length,
      bulkLength,
    });
    this.#output.push(head);
    if (together) head.set(body, HEADER_SIZE);
    else this.#output.push(body);
    if (bulk !== undefined) for (const chunk of bulk) if (chunk.length > 0) this.#output.push(chunk);
    this.#outputBytes += HEADER_SIZE + body.length + bulkLength;
    if (sent !== undefined) this.#outputSent.push(sent);
    if (this.#outputBytes >= FLUSH_BYTES) {
      this.#flush();
    } else if (!this.#flushQueued) {
      this.#flushQueued = true;
      queueMicrotask(() => this.#flush());
    }
  }

  /**
   * The peer is known.
   * @param party with whom it shares its turns, and memory for what it sends. @param partyBytes the limit of that memory, if not the usual one.
   */
  join(party: string, partyBytes?: number): void {
    if (this.#closed) return;
    this.party = party;
    this.partyBytes = partyBytes;
    this.#seat?.join(party);
  }

  /** The peer is known as an administrator: there is no bulk. */
  welcomeAdmin(): void {
    this.#reader.bodyLimitBytes = ADMIN_BODY_BYTES;
    this.#reader.isSmall = false;
  }

  /** The peer is known: it may send what the protocol allows. */
  welcome(): void {
    this.#reader.bodyLimitBytes = BODY_MAX;
    this.#reader.bulkLimitBytes = BULK_MAX;
    this.#reader.isSmall = false;
  }

  pause(keepsRoom = false): void {
    if (keepsRoom) this.#keepsRoom = true;
    this.#pauses += 1;
    if (this.#pauses === 1 && !this.#closed && !this.#isBehind) this.#connection.pause();
  }

  resume(): void {
    assert(this.#pauses > 0, 'a link was resumed more often than paused');
    this.#pauses -= 1;
    if (this.#pauses > 0 || this.#closed) return;
    if (this.#keepsRoom) {
      this.#keepsRoom = false;
      this.#giveRoom();
    }
    // Frames that have already arrived go first. Not from within the caller, which may be in the middle of something.
    queueMicrotask(() => {
      this.#deliver();
      if (this.#pauses === 0 && !this.#closed && !this.#isBehind) this.#connection.resume();
    });
  }

  end(): void {
    if (this.#closed) return;
    this.#flush();
    this.#shut();
    this.#connection.end();
  }

  destroy(error?: Error): void {
    if (this.#closed) {
      // After end() the transport still waits for the peer; this ends that wait.
      this.#connection.destroy(error);
      return;
    }
    this.#shut();
    this.#output = [];
    this.#outputBytes = 0;
    this.#outputSent = [];
    this.#connection.destroy(error);
  }

  // Receiver.

  tooSlow(): void {
    log('%s does not send the rest of a frame, and others wait; closing this connection', this.peer);
    this.destroy(new FsError('ETIMEDOUT', 'the rest of a frame did not arrive in time'));
  }

  // ConnectionEvents.

  space(): Buffer {
    return this.#reader.space();
  }

  data(chunk: Buffer): void {
    if (this.#closed) return;
    this.#receivedBytes += chunk.length;
    this.#reader.push(chunk);
    this.#deliver();
  }

  drain(): void {
    if (!this.#pausedByOutput) return;
    this.#pausedByOutput = false;
    this.resume();
  }

  closed(error?: Error): void {
    // The peer has ended the connection in order: what it said before counts.
    if (error === undefined && this.#isBehind) this.#handOutAll();
    this.#shut();
    this.#output = [];
    this.#outputBytes = 0;
    this.#outputSent = [];
    this.#events.closed(error);
  }

  /** Hands out what has arrived, now or when it is this link's turn. */
  #deliver(): void {
    const seat = this.#seat;
    if (seat === undefined) {
      this.#handOutAll();
      return;
    }
    // A frame's handler may resume the link; the loop that is running already goes on with the next frame.
    if (this.#delivering || this.#closed) return;
    seat.ready();
    this.#noteBehind(seat);
  }

  #noteBehind({ waits }: Seat): void {
    if (waits === this.#isBehind || this.#closed) return;
    this.#isBehind = waits;
    if (this.#pauses > 0) return;
    if (waits) this.#connection.pause();
    else this.#connection.resume();
  }

  // Turntaker.

  handOut(): boolean {
    if (this.#delivering || this.#pauses > 0 || this.#closed) return false;
    this.#delivering = true;
    try {
      const frame = this.#nextFrame();
      if (frame === undefined) return false;
      this.#room?.complete(this);
      this.bulkBytes += frame.bulk.length;
      this.#events.frame(frame);
      if (!this.#keepsRoom) this.#giveRoom();
    } finally {
      this.#delivering = false;
    }
    return this.#pauses === 0 && !this.#closed && this.#reader.busy;
  }

  turned(): void {
    if (this.#seat !== undefined) this.#noteBehind(this.#seat);
  }

  #handOutAll(): void {
    while (this.handOut());
  }

  #reserve(frameBytes: number): boolean {
    const room = this.#room;
    if (room === undefined || frameBytes <= UNCOUNTED_BYTES) return true;
    const taken = room.take(this, frameBytes, this.#closing.signal);
    if (!isPromise(taken)) {
      this.#roomBytes = frameBytes;
      return true;
    }
    log('%s is not read until there is room for its frame', this.peer);
    this.pause();
    taken.then(
      () => {
        if (this.#closed) room.give(this);
        else this.#roomBytes = frameBytes;
        this.resume();
      },
      // The link was closed while it waited.
      () => undefined,
    );
    return false;
  }

  #giveRoom(): void {
    const bytes = this.#roomBytes;
    if (bytes === 0) return;
    this.#roomBytes = 0;
    this.#room?.give(this);
  }

  #shut(): void {
    if (!this.#closed) this.#seat?.leave();
    this.#closed = true;
    this.#closing.abort();
    this.#giveRoom();
  }

  #nextFrame(): Frame | undefined {
    try {
      const frame = this.#reader.next();
      if (frame !== undefined && this.#negotiated && frame.header.version !== this.#protocol) {
        throw new FsError('EPROTO', `frame of protocol ${frame.header.version}, not ${this.#protocol}`);
      }
      return frame;
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      log('%s: %s; closing this connection', this.peer, error.message);
      this.destroy(error);
      return undefined;
    }
  }

  #flush(): void {
    this.#flushQueued = false;
    if (this.#output.length === 0) return;
    if (this.#seat === undefined || this.#outputBytes < COSTLY_BYTES) this.#write();
    else this.#seat.sends(this.#outputBytes, () => this.#write());
  }

  #write(): void {
    // One small buffer costs the stream half of what a vector costs.
    const together = this.#output.length > 1 && this.#outputBytes <= BODY_COPY_BYTES;
    const chunks = together ? [Buffer.concat(this.#output, this.#outputBytes)] : this.#output;
    this.#writtenBytes += this.#outputBytes;
    const sent = this.#outputSent;
    this.#output = [];
    this.#outputBytes = 0;
    if (sent.length > 0) this.#outputSent = [];
    const tell = (): void => {
      for (const done of sent) done();
    };
    const told = sent.length === 0 ? undefined : tell;
    if (this.#connection.write(chunks, told)) return;
    const behind = this.#connection.bufferedBytes;
    if (behind > this.#outputLimitBytes) {
      log('%s does not read: %d bytes wait for it; closing this connection', this.peer, behind);
      this.destroy(new FsError('ETIMEDOUT', `the peer does not read: ${behind} bytes wait for it`));
    } else if (behind > this.#outputPauseBytes && !this.#pausedByOutput) {
      this.#pausedByOutput = true;
      this.pause();
    }
  }
}
