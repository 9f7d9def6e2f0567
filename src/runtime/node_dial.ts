/**
 * Makes TCP connections by node:net or node:tls: source ports, the time limit, cancelling, errors for people.
 *
 * - A connection uses a privileged source port if the process may bind one: a server can ask that of those who have no key.
 * - The time limit is for all of it: looking the name up, trying source ports, and the TLS handshake.
 */

import { randomInt } from 'node:crypto';
import type { OnReadOpts, Socket } from 'node:net';
import { type Errno, FsError } from '../base/errno.js';
import { logger } from '../base/log.js';
import { notice } from '../base/notices.js';
import { onAbort } from '../base/wait.js';
import { NetConnection } from './node_net_connection.js';
import { show } from './node_peer.js';
import { CHUNK_BYTES, type StreamConnection } from './node_stream.js';
import {
  type Address,
  type Connection,
  type ConnectionEvents,
  type ConnectOptions,
  PRIVILEGED_PORTS_END,
} from './ports.js';

const log = logger('runtime:tcp');

/** The privileged source ports that we try are those that NFS clients use. A machine's services mostly have lower ports. */
const SOURCE_PORTS = { start: 665, end: PRIVILEGED_PORTS_END };
/**
 * A port is unavailable only if a connection to the same server, or a listener, has it. More tries than this are rarely
 * needed.
 */
const SOURCE_PORT_TRIES = 64;

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

/** For net.connect() and tls.connect(). */
export interface DialTo {
  readonly host: string;
  readonly port: number;
  readonly localPort?: number | undefined;
  readonly onread?: OnReadOpts;
}

export interface Destroyable {
  destroy(): void;
}

/** How a connection is made. */
export interface Way {
  /** The socket is read through `onread` if it stays with node:net. */
  readonly intoSpace: boolean;
  /** The socket's event after which it can be used. */
  readonly readyEvent: 'connect' | 'secureConnect';
  make(to: DialTo): Socket;
  /**
   * Takes a socket that is ready. Calls one of both, now or later: neither of them after the result was destroyed.
   * @param opened the peer is who we want.
   * @returns what has the connection now.
   * @throws Error as failed().
   */
  take(
    socket: Socket,
    opened: (connection: StreamConnection | NetConnection) => void,
    failed: (error: Error) => void,
  ): Destroyable;
  /** What an error means that came when TCP was connected. undefined: what it means otherwise. */
  explain?(error: Error): FsError | undefined;
}

export function codeOf(error: Error): string {
  return (error as NodeJS.ErrnoException).code ?? '';
}

export function noteDescriptors(error: Error, what: string): void {
  const code = codeOf(error);
  if (code === 'EMFILE' || code === 'ENFILE') {
    notice('out-of-descriptors', `out of file descriptors (${code}): ${what}`);
  }
}

export function cancelled(address: Address): FsError {
  return new FsError('ECANCELED', `connecting to ${show(address)} was cancelled`);
}

function connectError(error: Error, address: Address): FsError {
  if (error instanceof FsError) return error;
  noteDescriptors(error, `no connection to ${show(address)}`);
  const [errno, text] = CONNECT_ERRNO[codeOf(error)] ?? ['EIO', `${error.message}:`];
  return new FsError(errno, `${text} ${show(address)}`, { cause: error });
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

/** @param deadlineMs of performance.now(). @throws FsError as Transport.connect. */
export async function dial(
  address: Address,
  open: (connection: Connection) => ConnectionEvents,
  options: ConnectOptions,
  deadlineMs: number,
  way: Way,
): Promise<Connection> {
  let forbidden = false;
  for (const localPort of sourcePorts()) {
    if (forbidden && localPort !== undefined) continue;
    try {
      return await dialFrom(localPort, address, open, options, deadlineMs, way);
    } catch (error) {
      const trouble = localPort === undefined ? undefined : isPortTrouble(error as Error);
      if (trouble === undefined) throw connectError(error as Error, address);
      forbidden = trouble === 'forbidden';
    }
  }
  throw new FsError('EIO', `cannot connect to ${show(address)}: no source port is free`);
}

/** @throws the socket's own error, or FsError if the attempt was cancelled or took too long. */
function dialFrom(
  localPort: number | undefined,
  address: Address,
  open: (connection: Connection) => ConnectionEvents,
  { timeoutMs, signal }: ConnectOptions,
  deadlineMs: number,
  way: Way,
): Promise<Connection> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(cancelled(address));
      return;
    }
    // Set when the socket is ready and stays with Node.
    let kept: NetConnection | undefined;
    const onread = {
      buffer: (): Buffer => kept?.space() ?? Buffer.allocUnsafeSlow(CHUNK_BYTES),
      callback: (bytes: number, memory: Uint8Array): boolean => {
        kept?.received((memory as Buffer).subarray(0, bytes));
        return true;
      },
    };
    // This throws only for a bad port number, which rejects the promise.
    const { host, port } = address;
    const socket = way.make({ host, port, localPort, ...(way.intoSpace ? { onread } : {}) });
    // Who takes the connection over reads its first byte.
    if (!way.intoSpace) socket.pause();
    let isConnected = false;
    let wire: Destroyable = socket;
    const settle = (): void => {
      clearTimeout(timer);
      unlisten();
      socket.off(way.readyEvent, ready);
      socket.off('error', failed);
    };
    const failed = (error: Error): void => {
      settle();
      // Later errors of this socket do not matter, but without a listener they would end the process.
      socket.on('error', (late) => log('after a failed connect: %s', late.message));
      socket.destroy();
      wire.destroy();
      reject((isConnected && !(error instanceof FsError) ? way.explain?.(error) : undefined) ?? error);
    };
    const opened = (connection: StreamConnection | NetConnection): void => {
      settle();
      if (connection instanceof NetConnection) kept = connection;
      connection.start(open(connection));
      resolve(connection);
    };
    const ready = (): void => {
      try {
        wire = way.take(socket, opened, failed);
      } catch (error) {
        failed(error as Error);
      }
    };
    const late = (): void => {
      const what = isConnected ? 'no TLS handshake with' : 'no answer from';
      failed(new FsError('ETIMEDOUT', `${what} ${show(address)} within ${timeoutMs} ms`));
    };
    const timer = setTimeout(late, Math.max(0, deadlineMs - performance.now()));
    const unlisten = onAbort(signal, () => failed(cancelled(address)));
    socket.once('connect', () => {
      isConnected = true;
    });
    socket.once(way.readyEvent, ready);
    socket.once('error', failed);
  });
}
