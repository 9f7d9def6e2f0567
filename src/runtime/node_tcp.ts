/**
 * Transport over node:net. Owns the sockets and the translation of their errors to FsError.
 *
 * - Connections that we make are read into the receiver's memory (`onread`, ConnectionEvents.space): the rest of a bulk
 *   arrives in one read where it belongs. Node's own way is a fresh 64 KiB for each read, which costs a copy and a
 *   garbage collection each 64 MiB. For accepted connections Node has no such option; their chunks are the stream's,
 *   made for one read each and never written again.
 * - Several chunks of one write leave as one writev.
 * - end() closes in order: what is buffered goes out, then FIN, then we wait a little for the peer's FIN. Closing a
 *   socket that has unread input sends RST instead, and the kernel may drop the last message (an EVICTED notice).
 */

import { createConnection, createServer, type Socket } from 'node:net';
import { type Errno, FsError } from '../base/errno.js';
import { logger } from '../base/log.js';
import type { Address, Connection, ConnectionEvents, Listener, Transport } from './ports.js';

const log = logger('runtime:tcp');

/** Above this much unsent data write() says that the peer is behind. Larger than one bulk of 1 MiB. */
const BEHIND_BYTES = 2 << 20;
/** How long a closed connection waits for the peer's FIN. */
const LINGER_MS = 1000;
/** Finds peers whose machine is gone when nothing else does. */
const KEEPALIVE_MS = 15_000;
const BACKLOG = 1024;
const CHUNK_BYTES = 64 << 10;

function codeOf(error: Error): string {
  return (error as NodeJS.ErrnoException).code ?? '';
}

function show(address: Address): string {
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  return `${host}:${address.port}`;
}

class TcpConnection implements Connection {
  readonly peer: string;
  readonly #socket: Socket;
  #error: Error | undefined;
  #behind = false;
  #ending = false;
  readonly #intoSpace: boolean;
  #events: ConnectionEvents | undefined;

  /** @param intoSpace the socket's owner calls received() with what it reads. */
  constructor(socket: Socket, intoSpace: boolean) {
    this.#socket = socket;
    this.#intoSpace = intoSpace;
    this.peer = show({ host: socket.remoteAddress ?? 'unknown', port: socket.remotePort ?? 0 });
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEPALIVE_MS);
  }

  start(events: ConnectionEvents): void {
    const socket = this.#socket;
    this.#events = events;
    if (!this.#intoSpace) {
      socket.on('data', (chunk: Buffer) => {
        if (!this.#ending) events.data(chunk);
      });
    }
    socket.on('drain', () => {
      if (!this.#behind) return;
      this.#behind = false;
      events.drain();
    });
    socket.on('error', (error) => {
      this.#error ??= error;
    });
    socket.on('close', () => events.closed(this.#error));
  }

  received(chunk: Buffer): void {
    if (!this.#ending) this.#events?.data(chunk);
  }

  get bufferedBytes(): number {
    return this.#socket.writableLength;
  }

  write(chunks: readonly Uint8Array[], sent?: () => void): boolean {
    const socket = this.#socket;
    const written = sent === undefined ? undefined : (error?: Error | null) => void (error ?? sent());
    if (this.#ending || socket.destroyed) return true;
    if (chunks.length === 1) {
      socket.write(chunks[0] as Uint8Array, written);
    } else {
      const last = chunks.length - 1;
      socket.cork();
      chunks.forEach((chunk, index) => {
        socket.write(chunk, index === last ? written : undefined);
      });
      socket.uncork();
    }
    // The stream's own mark is far lower and is judged before the kernel took anything; 'drain' follows it too.
    if (socket.writableLength > BEHIND_BYTES) this.#behind = true;
    return !this.#behind;
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  end(): void {
    if (this.#ending) return;
    this.#ending = true;
    const socket = this.#socket;
    socket.resume();
    socket.end(() => {
      const linger = setTimeout(() => socket.destroy(), LINGER_MS);
      linger.unref();
      socket.once('close', () => clearTimeout(linger));
    });
  }

  destroy(error?: Error): void {
    this.#ending = true;
    this.#error ??= error;
    this.#socket.destroy();
  }
}

function listenError(error: Error, address: Address): FsError {
  const cause = { cause: error };
  const at = `port ${address.port} on ${address.host}`;
  switch (codeOf(error)) {
    case 'EADDRINUSE':
      return new FsError(
        'EBUSY',
        `${at} is in use by another program; choose another with --listen HOST:PORT`,
        cause,
      );
    case 'EACCES':
      return new FsError('EACCES', `${at} may not be opened by this user; choose one above 1023`, cause);
    case 'EADDRNOTAVAIL':
      return new FsError('EINVAL', `${address.host} is not an address of this machine`, cause);
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return new FsError('EINVAL', `no such host: ${address.host}`, cause);
    case 'ERR_SOCKET_BAD_PORT':
      return new FsError('EINVAL', `not a port number: ${address.port}`, cause);
    default:
      return new FsError('EIO', `cannot listen at ${show(address)}: ${error.message}`, cause);
  }
}

const CONNECT_ERRNO: Readonly<Record<string, readonly [Errno, string]>> = {
  ECONNREFUSED: ['ECONNREFUSED', 'nothing listens at'],
  ECONNRESET: ['ECONNREFUSED', 'closed at once by'],
  EHOSTUNREACH: ['ECONNREFUSED', 'no way to'],
  ENETUNREACH: ['ECONNREFUSED', 'no way to'],
  ETIMEDOUT: ['ETIMEDOUT', 'no answer from'],
  ENOTFOUND: ['ENXIO', 'no such host:'],
  EAI_AGAIN: ['ENXIO', 'host name cannot be looked up now:'],
  ERR_SOCKET_BAD_PORT: ['EINVAL', 'not a port number:'],
};

function connectError(error: Error, address: Address): FsError {
  if (error instanceof FsError) return error;
  const [errno, text] = CONNECT_ERRNO[codeOf(error)] ?? ['EIO', `${error.message}:`];
  return new FsError(errno, `${text} ${show(address)}`, { cause: error });
}

function listen(address: Address, accept: (connection: Connection) => ConnectionEvents): Promise<Listener> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => {
      const connection = new TcpConnection(socket, false);
      connection.start(accept(connection));
    });
    const failed = (error: Error): void => reject(listenError(error, address));
    server.once('error', failed);
    const started = (): void => {
      server.off('error', failed);
      // Out of descriptors, or the peer was gone before we looked. Listening goes on.
      server.on('error', (error) => log('accept at %s: %s', show(address), error.message));
      const bound = server.address();
      const port = bound !== null && typeof bound === 'object' ? bound.port : address.port;
      resolve({
        address: { host: address.host, port },
        close: () =>
          new Promise((done) => {
            // Its callback waits for the open connections; the port is free as soon as the handle is closed.
            server.close();
            setImmediate(done);
          }),
      });
    };
    try {
      server.listen({ host: address.host, port: address.port, backlog: BACKLOG }, started);
    } catch (error) {
      failed(error as Error);
    }
  });
}

function connect(
  address: Address,
  open: (connection: Connection) => ConnectionEvents,
  options: { readonly timeoutMs: number; readonly signal?: AbortSignal },
): Promise<Connection> {
  const { signal, timeoutMs } = options;
  return new Promise((resolve, reject) => {
    const cancelled = (): FsError => new FsError('ECANCELED', `connecting to ${show(address)} was cancelled`);
    if (signal?.aborted) {
      reject(cancelled());
      return;
    }
    let socket: Socket;
    // Set when connected; what comes before, or from nobody who has space, has nowhere to go.
    let connection: TcpConnection | undefined;
    let events: ConnectionEvents | undefined;
    const onread = {
      buffer: (): Buffer => events?.space?.() ?? Buffer.allocUnsafeSlow(CHUNK_BYTES),
      callback: (bytes: number, memory: Uint8Array): boolean => {
        connection?.received((memory as Buffer).subarray(0, bytes));
        return true;
      },
    };
    try {
      socket = createConnection({ host: address.host, port: address.port, onread });
    } catch (error) {
      reject(connectError(error as Error, address));
      return;
    }
    const settle = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', aborted);
      socket.off('connect', connected);
      socket.off('error', failed);
    };
    const failed = (error: Error): void => {
      settle();
      // What a half-made socket says after this is of no interest, but unheard it would end the process.
      socket.on('error', (late) => log('after a failed connect: %s', late.message));
      socket.destroy();
      reject(connectError(error, address));
    };
    const connected = (): void => {
      settle();
      connection = new TcpConnection(socket, true);
      events = open(connection);
      connection.start(events);
      resolve(connection);
    };
    const aborted = (): void => failed(cancelled());
    const timer = setTimeout(
      () => failed(new FsError('ETIMEDOUT', `no answer from ${show(address)} within ${timeoutMs} ms`)),
      timeoutMs,
    );
    signal?.addEventListener('abort', aborted, { once: true });
    socket.once('connect', connected);
    socket.once('error', failed);
  });
}

export const nodeTransport: Transport = { listen, connect };
