/**
 * Connection over a socket of the addon (native/stream_socket.cc). It spares the machinery of streams, which a net.Socket runs
 * for each read and each write (test/bench/transport.ts measures both).
 *
 * - The socket receives into the receiver's memory (ConnectionEvents.space).
 * - Chunks of one write leave as one sendmsg, within write() if the kernel has room.
 * - node:net makes the connection and knows its addresses. adoptSocket() takes it over by a duplicate of its descriptor,
 *   with all that was read, and drops the net.Socket: that closes one descriptor of two, so the peer sees nothing.
 * - When the peer has ended its side, or end() was called, the connection takes no further write(): what waits leaves,
 *   then FIN. After end() it waits a short time for the peer's FIN. If we closed a socket that has unread input, the
 *   kernel would send RST and might drop the last message (an EVICTED notice).
 * - After an error or destroy() nothing is sent or received, and closed() follows.
 * - With TLS the handshake comes first (secure()). Then the peer knows an end in order from a cut: end() says so through TLS, destroy()
 *   does not.
 */

import type { Socket } from 'node:net';
import { getSystemErrorName } from 'node:util';
import {
  type NativeBinding,
  nativeBinding,
  type StreamSocket,
  type TlsContext,
  type TlsOutcome,
} from '../../native/binding.js';
import { FsError } from '../base/errno.js';
import { logger } from '../base/log.js';
import type { Connection, ConnectionEvents, Origin } from './ports.js';

const log = logger('runtime:stream');

/** If more bytes than this are unsent, write() reports that the peer is behind. Larger than one bulk of 1 MiB. */
export const BEHIND_BYTES = 2 << 20;
/** How long a closed connection waits for the peer's FIN. */
export const LINGER_MS = 1000;
/** For a receiver that has no memory of its own. */
export const CHUNK_BYTES = 64 << 10;
/** A read into less memory than this is not worth a system call. */
const CHUNK_LEFT_BYTES = 16 << 10;

/** What else happens to a connection that has proved who it is. */
export interface StreamWatch {
  /** Looks at the first bytes. @returns why the connection is to be closed instead, if so. */
  readonly checkFirst?: ((chunk: Buffer) => Error | undefined) | undefined;
  /** Says for people why the connection has broken. */
  readonly explain?: ((error: Error) => Error) | undefined;
}

interface Unsent {
  /** When #leftBytes is this, the last byte has left. */
  readonly leftBytes: number;
  readonly sent: () => void;
}

/** A TLS handshake. Of secured() and failed() one is called, from the event loop; none after destroy(). */
export interface Securing {
  readonly context: TlsContext;
  /** For a server: the key with this identity. */
  keyOf(identity: string): Uint8Array | undefined;
  /** Nothing is received before start(). */
  secured(outcome: TlsOutcome): void;
  failed(error: Error): void;
}

export class StreamConnection implements Connection {
  readonly peer: string;
  #origin: Origin;
  readonly #socket: StreamSocket;
  /** Where the socket receives. */
  readonly #memory: [Buffer];
  /** Was read before the socket was ours, and is not handed out yet. */
  #first: Buffer | undefined;
  #events: ConnectionEvents | undefined;
  #paused = false;
  /** No write() and no data() any more. */
  #ending = false;
  #peerEnded = false;
  #closed = false;
  #behind = false;
  #bufferedBytes = 0;
  /** Bytes that have left of those that had to wait. */
  #leftBytes = 0;
  readonly #unsent: Unsent[] = [];
  /** Their bytes have left within write(). */
  #sent: (() => void)[] = [];
  #linger: NodeJS.Timeout | undefined;
  /** The handshake that is under way. */
  #securing: Securing | undefined;
  #watch: StreamWatch = {};

  /**
   * @param fd stays the caller's.
   * @param first what was read from it before.
   * @throws Error of the addon if it is no connected stream.
   */
  constructor(binding: NativeBinding, fd: number, peer: string, origin: Origin, first?: Buffer) {
    this.#first = first;
    this.peer = peer;
    this.#origin = origin;
    this.#memory = [Buffer.alloc(0)];
    this.#socket = new binding.StreamSocket(
      fd,
      this.#memory,
      (bytes) => this.#received(bytes),
      (waitingBytes) => this.#left(waitingBytes),
      (error) => this.#ended(error),
    );
  }

  /** Speaks TLS: to be called right behind the constructor. @param first what was read before. */
  secure(securing: Securing, first: Buffer): void {
    this.#securing = securing;
    this.#socket.startTls(
      securing.context,
      first,
      (identity) => securing.keyOf(identity),
      (outcome) => {
        this.#securing = undefined;
        securing.secured(outcome);
      },
    );
  }

  /** After secured(). */
  prove(origin: Origin, watch: StreamWatch): void {
    this.#origin = origin;
    this.#watch = watch;
  }

  get origin(): Origin {
    return this.#origin;
  }

  /** Begins to receive. */
  start(events: ConnectionEvents): void {
    this.#events = events;
    if (this.#closed) return;
    if (this.#first === undefined) this.#memory[0] = this.#nextMemory(0);
    if (!this.#paused) this.resume();
  }

  get bufferedBytes(): number {
    return this.#bufferedBytes;
  }

  get takenBytes(): number {
    return this.#socket.takenBytes();
  }

  write(chunks: readonly Uint8Array[], sent?: () => void): boolean {
    if (this.#ending) return true;
    const waiting = this.#socket.write(chunks);
    if (waiting < 0) {
      const code = getSystemErrorName(waiting);
      this.destroy(Object.assign(new Error(`write ${code}`), { code, errno: waiting, syscall: 'write' }));
      return true;
    }
    this.#bufferedBytes = waiting;
    if (waiting > BEHIND_BYTES) this.#behind = true;
    if (sent !== undefined) {
      if (waiting > 0) this.#unsent.push({ leftBytes: this.#leftBytes + waiting, sent });
      else if (this.#sent.push(sent) === 1) process.nextTick(() => this.#tellSent());
    }
    return !this.#behind;
  }

  pause(): void {
    this.#paused = true;
    this.#socket.pause();
  }

  resume(): void {
    this.#paused = false;
    if (this.#events === undefined) return;
    if (this.#first === undefined) this.#socket.resume();
    else setImmediate(() => this.#handOutFirst());
  }

  end(): void {
    if (this.#ending) return;
    this.#ending = true;
    if (this.#socket.end() === 0) this.#finished();
  }

  destroy(error?: Error): void {
    if (this.#closed) return;
    this.#ending = true;
    this.#closed = true;
    this.#securing = undefined;
    this.#socket.close();
    clearTimeout(this.#linger);
    this.#bufferedBytes = 0;
    this.#unsent.length = 0;
    setImmediate(() => this.#events?.closed(error));
  }

  #handOutFirst(): void {
    const first = this.#first;
    if (first === undefined || this.#paused || this.#ending) return;
    this.#first = undefined;
    this.#events?.data(first);
    if (this.#ending) return;
    // Only now: the receiver chooses the place by what it has got.
    this.#memory[0] = this.#nextMemory(0);
    if (!this.#paused) this.#socket.resume();
  }

  #received(bytes: number): void {
    const chunk = this.#memory[0].subarray(0, bytes);
    const { checkFirst } = this.#watch;
    if (checkFirst !== undefined) {
      this.#watch = { explain: this.#watch.explain };
      const wrong = checkFirst(chunk);
      if (wrong !== undefined) {
        this.destroy(wrong);
        return;
      }
    }
    this.#events?.data(chunk);
    if (!this.#ending) this.#memory[0] = this.#nextMemory(bytes);
  }

  /** @param usedBytes bytes of the memory there is that were given to data(). */
  #nextMemory(usedBytes: number): Buffer {
    const given = this.#events?.space?.();
    if (given !== undefined) return given;
    const left = this.#memory[0].subarray(usedBytes);
    return left.length < CHUNK_LEFT_BYTES ? Buffer.allocUnsafeSlow(CHUNK_BYTES) : left;
  }

  #left(waitingBytes: number): void {
    this.#leftBytes += this.#bufferedBytes - waitingBytes;
    this.#bufferedBytes = waitingBytes;
    while (this.#unsent[0] !== undefined && this.#unsent[0].leftBytes <= this.#leftBytes) {
      this.#unsent.shift()?.sent();
    }
    // What was called above may have written more, or closed the connection.
    if (this.#bufferedBytes > 0 || this.#closed) return;
    if (this.#ending) {
      this.#finished();
    } else if (this.#behind) {
      this.#behind = false;
      this.#events?.drain();
    }
  }

  #tellSent(): void {
    const sent = this.#sent;
    this.#sent = [];
    for (const tell of sent) tell();
  }

  #ended(error?: Error): void {
    if (error !== undefined) {
      const securing = this.#securing;
      this.destroy(this.#watch.explain?.(error) ?? error);
      securing?.failed(error);
      return;
    }
    this.#peerEnded = true;
    this.#ending = true;
    if (this.#socket.end() === 0) this.#finished();
  }

  /** FIN is sent. */
  #finished(): void {
    if (this.#peerEnded) {
      this.destroy();
      return;
    }
    this.#linger = setTimeout(() => this.destroy(), LINGER_MS);
    this.#linger.unref();
  }
}

/** @returns the addon if it is there and has stream sockets. */
export function streamBinding(): NativeBinding | undefined {
  try {
    const binding = nativeBinding();
    return typeof binding.StreamSocket === 'function' ? binding : undefined;
  } catch (error) {
    if (!(error instanceof FsError)) throw error;
    log('connections use node:net: %s', error.message);
    return undefined;
  }
}

/**
 * Takes a connection over from a net.Socket that is connected and has nothing in its buffers.
 * @param first all that it has read.
 * @param securing it speaks TLS.
 * @returns undefined if that is not possible; then the socket is as it was.
 */
export function adoptSocket(
  binding: NativeBinding,
  socket: Socket,
  peer: string,
  origin: Origin,
  first?: Buffer,
  securing?: Securing,
): StreamConnection | undefined {
  const fd = descriptorOf(socket);
  if (fd < 0 || socket.bytesRead !== (first?.length ?? 0) || socket.writableLength > 0) return undefined;
  let connection: StreamConnection;
  try {
    connection = new StreamConnection(binding, fd, peer, origin, securing === undefined ? first : undefined);
    if (securing !== undefined) connection.secure(securing, first ?? Buffer.alloc(0));
  } catch (error) {
    log('%s keeps its net.Socket: %s', peer, error instanceof Error ? error.message : error);
    return undefined;
  }
  socket.destroy();
  return connection;
}

/** Node has no public name for the descriptor of a socket. @returns -1 if it is closed. */
export function descriptorOf(socket: Socket): number {
  const { fd = -1 } = (socket as unknown as { readonly _handle?: { readonly fd?: number } })._handle ?? {};
  return fd;
}
