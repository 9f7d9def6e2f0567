/**
 * Connection over a socket of Node: a net.Socket if there is no addon, and every tls.TLSSocket.
 *
 * - Connections that we make are read into the receiver's memory (`onread`, ConnectionEvents.space): the rest of a bulk
 *   arrives in its final place. By default Node allocates new memory for each read, which costs a copy and a garbage
 *   collection each 64 MiB. For accepted connections Node has no such option: the stream makes a new chunk for each
 *   read and never writes to it again.
 * - What Node hands over after pause() waits here: TLS goes on until it has decrypted all that has been read.
 * - Plain: several chunks of one write leave as one writev. TLS: small chunks are joined, so that they make one record;
 *   large ones are cut, so that each is encrypted from where it lies, and the kernel sends one while the next is encrypted.
 * - end() closes in order, and waits a short time for the peer's FIN, as in node_stream.ts.
 */

import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { nativeBinding } from '../../native/binding.js';
import { originOf, peerOf } from './node_peer.js';
import { BEHIND_BYTES, CHUNK_BYTES, descriptorOf, LINGER_MS } from './node_stream.js';
import type { Connection, ConnectionEvents, Origin } from './ports.js';

/** Of a TLS record. */
const RECORD_BYTES = 16 << 10;
/** Node hands ten memory blocks of about a record to the kernel at once; this fits. */
const PIECE_BYTES = 9 * RECORD_BYTES;

export interface NetConnectionOptions {
  /** Whether the code that made the socket calls received() with the bytes it reads into space(). */
  readonly intoSpace?: boolean;
  /** If not what the socket says. */
  readonly from?: { readonly peer: string; readonly origin: Origin };
  /** Looks at the first bytes. @returns why the connection is to be closed instead, if so. */
  readonly checkFirst?: (chunk: Buffer) => Error | undefined;
  /** Says for people why the connection has broken. */
  readonly explain?: (error: Error) => Error;
}

export class NetConnection implements Connection {
  readonly peer: string;
  readonly origin: Origin;
  readonly #socket: Socket;
  readonly #isTls: boolean;
  readonly #intoSpace: boolean;
  readonly #explain: (error: Error) => Error;
  #checkFirst: ((chunk: Buffer) => Error | undefined) | undefined;
  #events: ConnectionEvents | undefined;
  /** Came while it was paused. */
  #held: Buffer[] = [];
  #error: Error | undefined;
  #behind = false;
  #ending = false;
  #paused = false;
  #hasClosed = false;

  constructor(socket: Socket, { intoSpace, from, checkFirst, explain }: NetConnectionOptions = {}) {
    this.#socket = socket;
    this.#isTls = socket instanceof TLSSocket;
    this.#intoSpace = intoSpace === true;
    this.#checkFirst = checkFirst;
    this.#explain = explain ?? ((error) => error);
    this.peer = from?.peer ?? peerOf(socket);
    this.origin = from?.origin ?? originOf(socket);
    // Else the stream would join the pieces of a large write again, which is a copy.
    if (this.#isTls) Object.assign(socket, { _writev: undefined });
  }

  start(events: ConnectionEvents): void {
    const socket = this.#socket;
    this.#events = events;
    if (!this.#intoSpace) socket.on('data', (chunk: Buffer) => this.received(chunk));
    socket.on('drain', () => {
      if (!this.#behind) return;
      this.#behind = false;
      events.drain();
    });
    socket.on('error', (error) => {
      this.#error ??= this.#explain(error);
      // After an error of TLS Node leaves the socket open.
      socket.destroy();
    });
    socket.on('close', () => {
      this.#hasClosed = true;
      // It has ended in order. The receiver learns of it when it goes on.
      if (this.#paused && !this.#ending && this.#error === undefined) return;
      this.#tellClosed();
    });
    // Nothing was handed out so far.
    if (!this.#paused) this.resume();
  }

  /** Memory for the next bytes. */
  space(): Buffer {
    // The receiver chooses the place by what it has got, so nothing may be on its way to it.
    const asks = this.#checkFirst === undefined && !this.#paused && this.#held.length === 0;
    return (asks ? this.#events?.space?.() : undefined) ?? Buffer.allocUnsafeSlow(CHUNK_BYTES);
  }

  received(chunk: Buffer): void {
    if (this.#ending) return;
    const wrong = this.#checkFirst?.(chunk);
    this.#checkFirst = undefined;
    if (wrong !== undefined) this.destroy(wrong);
    else if (this.#paused || this.#held.length > 0) this.#held.push(chunk);
    else this.#events?.data(chunk);
  }

  get bufferedBytes(): number {
    return this.#socket.writableLength;
  }

  get takenBytes(): number {
    const fd = descriptorOf(this.#socket);
    if (fd < 0) return 0;
    try {
      return nativeBinding().socketTakenBytes(fd);
    } catch {
      // There is no addon, or the socket is not TCP. Only received bytes count then.
      return 0;
    }
  }

  write(chunks: readonly Uint8Array[], sent?: () => void): boolean {
    const socket = this.#socket;
    const written = sent === undefined ? undefined : (error?: Error | null) => void (error ?? sent());
    if (this.#ending || socket.destroyed) return true;
    const pieces = this.#isTls ? piecesOf(chunks) : chunks;
    if (pieces.length === 1) {
      socket.write(pieces[0] as Uint8Array, written);
    } else {
      const last = pieces.length - 1;
      if (!this.#isTls) socket.cork();
      pieces.forEach((piece, index) => {
        socket.write(piece, index === last ? written : undefined);
      });
      if (!this.#isTls) socket.uncork();
    }
    // The stream's own high-water mark is far lower, and it is checked before the kernel has taken any bytes. 'drain'
    // follows our mark too.
    if (socket.writableLength > BEHIND_BYTES) this.#behind = true;
    return !this.#behind;
  }

  pause(): void {
    this.#paused = true;
    this.#socket.pause();
  }

  resume(): void {
    this.#paused = false;
    if (this.#events === undefined) return;
    if (this.#held.length > 0 || this.#hasClosed) setImmediate(() => this.#handOut());
    else this.#socket.resume();
  }

  end(): void {
    if (this.#ending) return;
    this.#ending = true;
    this.#held = [];
    const socket = this.#socket;
    socket.resume();
    socket.end(() => {
      const linger = setTimeout(() => socket.destroy(), LINGER_MS);
      linger.unref();
      socket.once('close', () => clearTimeout(linger));
    });
    if (this.#hasClosed) setImmediate(() => this.#tellClosed());
  }

  destroy(error?: Error): void {
    this.#ending = true;
    this.#held = [];
    this.#error ??= error;
    this.#socket.destroy();
    if (this.#hasClosed) setImmediate(() => this.#tellClosed());
  }

  /** What waits while it is paused. */
  #handOut(): void {
    while (!this.#paused && this.#held.length > 0) this.#events?.data(this.#held.shift() as Buffer);
    if (this.#paused || this.#ending) return;
    if (this.#hasClosed) this.#tellClosed();
    else this.#socket.resume();
  }

  #tellClosed(): void {
    const events = this.#events;
    this.#events = undefined;
    events?.closed(this.#error);
  }
}

/** What TLS encrypts in one go each. Only small chunks are copied. */
function piecesOf(chunks: readonly Uint8Array[]): readonly Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let small: Uint8Array[] = [];
  let smallBytes = 0;
  const join = (): void => {
    if (small.length > 0) pieces.push(small.length === 1 ? (small[0] as Uint8Array) : Buffer.concat(small));
    small = [];
    smallBytes = 0;
  };
  for (const chunk of chunks) {
    if (chunk.length === 0) continue;
    if (chunk.length < RECORD_BYTES) {
      if (smallBytes + chunk.length > RECORD_BYTES) join();
      small.push(chunk);
      smallBytes += chunk.length;
      continue;
    }
    join();
    for (let at = 0; at < chunk.length; at += PIECE_BYTES) pieces.push(chunk.subarray(at, at + PIECE_BYTES));
  }
  join();
  return pieces.length > 0 ? pieces : chunks.slice(0, 1);
}
