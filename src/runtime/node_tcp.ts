/**
 * Transport over TCP: names, ports, connecting and listening by node:net. Owns the translation of its errors to FsError.
 *
 * - Once a connection is there, a socket of the addon takes it over (node_stream.ts). Without the addon it stays with its
 *   net.Socket (NetConnection), to which the rest of this applies:
 * - Connections that we make are read into the receiver's memory (`onread`, ConnectionEvents.space): the rest of a bulk
 *   arrives in one read in its final place. By default Node allocates a new 64 KiB for each read, which costs a copy,
 *   and a garbage collection each 64 MiB. For accepted connections Node has no such option: the stream makes a new
 *   chunk for each read and never writes to it again.
 * - Several chunks of one write leave as one writev.
 * - end() closes in order, and waits a short time for the peer's FIN, as in node_stream.ts.
 * - Connections that we make use a privileged source port if the process may bind one.
 */

import { randomInt } from 'node:crypto';
import { close, open } from 'node:fs';
import { BlockList, createConnection, createServer, isIPv6, type Socket } from 'node:net';
import { type NativeBinding, nativeBinding } from '../../native/binding.js';
import { type Errno, FsError } from '../base/errno.js';
import { logger } from '../base/log.js';
import { notice } from '../base/notices.js';
import { onAbort } from '../base/wait.js';
import {
  adoptSocket,
  BEHIND_BYTES,
  CHUNK_BYTES,
  descriptorOf,
  LINGER_MS,
  type StreamConnection,
  streamBinding,
} from './node_stream.js';
import {
  type Address,
  type Connection,
  type ConnectionEvents,
  type ConnectOptions,
  type Listener,
  type Origin,
  PRIVILEGED_PORTS_END,
  type Transport,
} from './ports.js';

const log = logger('runtime:tcp');

/** How often a listener checks whether it has a descriptor for a new connection. */
const DESCRIPTORS_LOOK_MS = 1000;
/** Detects peers whose machine is gone if nothing else does. */
const KEEPALIVE_MS = 15_000;
const BACKLOG = 1024;
/** The privileged source ports that we try are those that NFS clients use. A machine's services mostly have lower ports. */
const SOURCE_PORTS = { start: 665, end: PRIVILEGED_PORTS_END };
/**
 * A port is unavailable only if a connection to the same server, or a listener, has it. More tries than this are rarely
 * needed.
 */
const SOURCE_PORT_TRIES = 64;

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

function codeOf(error: Error): string {
  return (error as NodeJS.ErrnoException).code ?? '';
}

function originOf(socket: Socket): Origin {
  const { remoteAddress = '', remotePort = PRIVILEGED_PORTS_END, localAddress } = socket;
  const family = isIPv6(remoteAddress) ? 'ipv6' : 'ipv4';
  // BlockList recognizes an IPv4 peer of an IPv6 listener (::ffff:127.0.0.1).
  const sameHost =
    remoteAddress !== '' && (remoteAddress === localAddress || loopback.check(remoteAddress, family));
  return { proof: { kind: 'none' }, address: plain(remoteAddress), port: remotePort, sameHost };
}

/** Of an IPv4 peer of an IPv6 listener the IPv4 address. */
function plain(address: string): string {
  return address.replace(/^::ffff:(?=\d+\.)/i, '');
}

function show(address: Address): string {
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  return `${host}:${address.port}`;
}

/** Over a net.Socket. */
class NetConnection implements Connection {
  readonly peer: string;
  readonly origin: Origin;
  readonly #socket: Socket;
  #error: Error | undefined;
  #behind = false;
  #ending = false;
  #paused = false;
  readonly #intoSpace: boolean;
  #events: ConnectionEvents | undefined;

  /** @param intoSpace whether the code that made the socket calls received() with the bytes it reads. */
  constructor(socket: Socket, intoSpace: boolean) {
    this.#socket = socket;
    this.#intoSpace = intoSpace;
    this.peer = peerOf(socket);
    this.origin = originOf(socket);
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
    // Nothing was read so far.
    if (!this.#paused) socket.resume();
  }

  /** Memory for the next bytes. */
  space(): Buffer {
    return this.#events?.space?.() ?? Buffer.allocUnsafeSlow(CHUNK_BYTES);
  }

  received(chunk: Buffer): void {
    if (!this.#ending) this.#events?.data(chunk);
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
    if (this.#events !== undefined) this.#socket.resume();
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

function peerOf(socket: Socket): string {
  return show({ host: socket.remoteAddress ?? 'unknown', port: socket.remotePort ?? 0 });
}

/** The options of every connection. They belong to the connection, and stay if another descriptor takes it over. */
function setOptions(socket: Socket): void {
  socket.setNoDelay(true);
  socket.setKeepAlive(true, KEEPALIVE_MS);
}

/**
 * @param binding takes the connection over if that is possible.
 * @param intoSpace see NetConnection.
 */
function connectionOf(
  socket: Socket,
  binding: NativeBinding | undefined,
  intoSpace: boolean,
): StreamConnection | NetConnection {
  setOptions(socket);
  const adopted =
    binding === undefined ? undefined : adoptSocket(binding, socket, peerOf(socket), originOf(socket));
  return adopted ?? new NetConnection(socket, intoSpace);
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
  EHOSTUNREACH: ['ECONNREFUSED', 'no route to'],
  ENETUNREACH: ['ECONNREFUSED', 'no route to'],
  ETIMEDOUT: ['ETIMEDOUT', 'no answer from'],
  ENOTFOUND: ['ENXIO', 'no such host:'],
  EAI_AGAIN: ['EAGAIN', 'host name cannot be looked up now:'],
  ERR_SOCKET_BAD_PORT: ['EINVAL', 'not a port number:'],
};

function noteDescriptors(error: Error, what: string): void {
  const code = codeOf(error);
  if (code === 'EMFILE' || code === 'ENFILE') {
    notice('out-of-descriptors', `out of file descriptors (${code}): ${what}`);
  }
}

/**
 * If libuv has no descriptor for a connection, it closes the connection without an error: to the peer that looks like a
 * server that is about to end. So the listener checks for itself.
 * @returns a function that stops the checks.
 */
function watchDescriptors(address: Address): () => void {
  const timer = setInterval(() => {
    open('/dev/null', (error, fd) => {
      if (error === null) close(fd);
      else noteDescriptors(error, `connections to ${show(address)} are closed at once`);
    });
  }, DESCRIPTORS_LOOK_MS);
  timer.unref();
  return () => clearInterval(timer);
}

function connectError(error: Error, address: Address): FsError {
  if (error instanceof FsError) return error;
  noteDescriptors(error, `no connection to ${show(address)}`);
  const [errno, text] = CONNECT_ERRNO[codeOf(error)] ?? ['EIO', `${error.message}:`];
  return new FsError(errno, `${text} ${show(address)}`, { cause: error });
}

interface TcpListener extends Listener {
  /** The IP address that it has, where `address` may have a name. */
  readonly boundHost: string;
}

/** As Transport.listen. @param binding carries the connections; undefined: node:net does. */
export function listenTcp(
  address: Address,
  accept: (connection: Connection) => ConnectionEvents,
  binding: NativeBinding | undefined,
): Promise<TcpListener> {
  return new Promise((resolve, reject) => {
    const server = createServer({ pauseOnConnect: true }, (socket) => {
      const connection = connectionOf(socket, binding, false);
      connection.start(accept(connection));
    });
    const failed = (error: Error): void => reject(listenError(error, address));
    server.once('error', failed);
    const started = (): void => {
      server.off('error', failed);
      // The peer was gone before we accepted its connection. Listening goes on.
      server.on('error', (error) => log('accept at %s: %s', show(address), error.message));
      const bound = server.address();
      const { port, address: boundHost } =
        bound !== null && typeof bound === 'object' ? bound : { port: address.port, address: address.host };
      const unwatch = watchDescriptors({ host: address.host, port });
      resolve({
        address: { host: address.host, port },
        boundHost,
        close: () =>
          new Promise((done) => {
            unwatch();
            // The callback of close() would wait for the open connections; the port is free as soon as the handle is
            // closed.
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

/** Source ports to try in turn, starting at a random one. The last try lets the kernel choose (undefined). */
function* sourcePorts(): Generator<number | undefined> {
  const count = SOURCE_PORTS.end - SOURCE_PORTS.start;
  const first = randomInt(count);
  for (let tried = 0; tried < Math.min(count, SOURCE_PORT_TRIES); tried++) {
    yield SOURCE_PORTS.start + ((first + tried) % count);
  }
  yield undefined;
}

/** Whether this attempt failed because of its source port, and not because of the server. */
function isPortTrouble(error: Error): 'taken' | 'forbidden' | undefined {
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (syscall === 'bind' && code === 'EACCES') return 'forbidden';
  // connect(2) fails so if another socket has (or had a moment ago) the same pair of addresses and ports.
  return code === 'EADDRINUSE' || code === 'EADDRNOTAVAIL' ? 'taken' : undefined;
}

async function connect(
  address: Address,
  open: (connection: Connection) => ConnectionEvents,
  options: ConnectOptions,
  binding: NativeBinding | undefined,
): Promise<Connection> {
  const deadlineMs = performance.now() + options.timeoutMs;
  let forbidden = false;
  for (const localPort of sourcePorts()) {
    if (forbidden && localPort !== undefined) continue;
    try {
      return await connectFrom(localPort, address, open, options, deadlineMs, binding);
    } catch (error) {
      const trouble = localPort === undefined ? undefined : isPortTrouble(error as Error);
      if (trouble === undefined) throw connectError(error as Error, address);
      forbidden = trouble === 'forbidden';
    }
  }
  throw new FsError('EIO', `cannot connect to ${show(address)}: no source port is free`);
}

/** @throws the socket's own error, or FsError if the attempt was cancelled or took too long. */
function connectFrom(
  localPort: number | undefined,
  address: Address,
  open: (connection: Connection) => ConnectionEvents,
  { timeoutMs, signal }: ConnectOptions,
  deadlineMs: number,
  binding: NativeBinding | undefined,
): Promise<Connection> {
  return new Promise((resolve, reject) => {
    const cancelled = (): FsError => new FsError('ECANCELED', `connecting to ${show(address)} was cancelled`);
    if (signal?.aborted) {
      reject(cancelled());
      return;
    }
    // Set when the socket is connected and stays a net.Socket.
    let kept: NetConnection | undefined;
    const onread = {
      buffer: (): Buffer => kept?.space() ?? Buffer.allocUnsafeSlow(CHUNK_BYTES),
      callback: (bytes: number, memory: Uint8Array): boolean => {
        kept?.received((memory as Buffer).subarray(0, bytes));
        return true;
      },
    };
    const intoSpace = binding === undefined;
    // This throws only for a bad port number, which rejects the promise.
    const socket = createConnection({
      host: address.host,
      port: address.port,
      localPort,
      ...(intoSpace ? { onread } : {}),
    });
    // Who takes the connection over reads its first byte.
    if (!intoSpace) socket.pause();
    const settle = (): void => {
      clearTimeout(timer);
      unlisten();
      socket.off('connect', connected);
      socket.off('error', failed);
    };
    const failed = (error: Error): void => {
      settle();
      // Later errors of this socket do not matter, but without a listener they would end the process.
      socket.on('error', (late) => log('after a failed connect: %s', late.message));
      socket.destroy();
      reject(error);
    };
    const connected = (): void => {
      settle();
      const connection = connectionOf(socket, binding, intoSpace);
      if (connection instanceof NetConnection) kept = connection;
      connection.start(open(connection));
      resolve(connection);
    };
    const timer = setTimeout(
      () => failed(new FsError('ETIMEDOUT', `no answer from ${show(address)} within ${timeoutMs} ms`)),
      Math.max(0, deadlineMs - performance.now()),
    );
    const unlisten = onAbort(signal, () => failed(cancelled()));
    socket.once('connect', connected);
    socket.once('error', failed);
  });
}

/** @param through what carries the bytes. The addon, if it has no sockets, gives way to node:net. */
export function tcpTransport(through: 'addon' | 'node:net'): Transport {
  const binding = (): NativeBinding | undefined => (through === 'addon' ? streamBinding() : undefined);
  return {
    listen: (address, accept) => listenTcp(address, accept, binding()),
    connect: (address, open, options) => connect(address, open, options, binding()),
  };
}
