/**
 * Transport over TCP: connections by node:net (node_dial.ts) and TLS (node_tls_connect.ts), listening, and the translation of its
 * errors to FsError.
 *
 * - Once TCP is connected, a socket of the addon takes the connection over (node_stream.ts), and speaks TLS if that is wanted. Without
 *   the addon the connection stays with Node (node_net_connection.ts). If only the addon's TLS is missing, TLS stays with node:tls.
 * - A client that uses no TLS takes a listener of its own host only if that is root's or its own user's.
 * - If the listener takes TLS, it looks at what a connection sends first (node_tls_listen.ts). Else it waits for nothing.
 */

import { close, open } from 'node:fs';
import { createConnection, createServer, type Socket } from 'node:net';
import type { NativeBinding } from '../../native/binding.js';
import { FsError } from '../base/errno.js';
import { logger } from '../base/log.js';
import { codeOf, dial, noteDescriptors, type Way } from './node_dial.js';
import { NetConnection } from './node_net_connection.js';
import { originOf, peerOf, setOptions, show } from './node_peer.js';
import { listenersAt } from './node_socket_owner.js';
import { adoptSocket, type StreamConnection, streamBinding } from './node_stream.js';
import { tlsWay } from './node_tls_connect.js';
import { TlsGate } from './node_tls_listen.js';
import { isTrusted } from './node_unix.js';
import type {
  Address,
  Connection,
  ConnectionEvents,
  ConnectOptions,
  Listener,
  TlsListen,
  Transport,
} from './ports.js';

const log = logger('runtime:tcp');

/** How often a listener checks whether it has a descriptor for a new connection. */
const DESCRIPTORS_LOOK_MS = 1000;
const BACKLOG = 1024;
/**
 * @param binding takes the connection over if that is possible.
 * @param intoSpace see NetConnectionOptions.
 * @param first what was read already.
 */
function plainConnection(
  socket: Socket,
  binding: NativeBinding | undefined,
  intoSpace: boolean,
  first?: Buffer,
): StreamConnection | NetConnection {
  setOptions(socket);
  const adopted =
    binding === undefined ? undefined : adoptSocket(binding, socket, peerOf(socket), originOf(socket), first);
  if (adopted === undefined && first !== undefined) socket.unshift(first);
  return adopted ?? new NetConnection(socket, { intoSpace });
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

interface TcpListener extends Listener {
  /** The IP address that it has, where `address` may have a name. */
  readonly boundHost: string;
}

/** As Transport.listen. @param binding carries the connections; undefined: node:net does. */
export function listenTcp(
  address: Address,
  accept: (connection: Connection) => ConnectionEvents,
  binding: NativeBinding | undefined,
  tls?: TlsListen,
): Promise<TcpListener> {
  return new Promise((resolve, reject) => {
    const begin = (connection: StreamConnection | NetConnection): void => {
      connection.start(accept(connection));
    };
    const gate =
      tls === undefined
        ? undefined
        : new TlsGate(tls, binding, {
            plain: (socket, first) => begin(plainConnection(socket, binding, false, first)),
            secure: begin,
          });
    const server = createServer({ pauseOnConnect: true }, (socket) => {
      // The peer has reset the connection before we accepted it: nobody knows any more whose it was.
      if (socket.remoteAddress === undefined) socket.destroy();
      else if (gate === undefined) begin(plainConnection(socket, binding, false));
      else gate.take(socket);
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
            gate?.close();
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

function plainWay(binding: NativeBinding | undefined): Way {
  const intoSpace = binding === undefined;
  return {
    intoSpace,
    readyEvent: 'connect',
    make: (to) => createConnection(to),
    take: (socket, opened) => {
      checkListener(socket);
      opened(plainConnection(socket, binding, intoSpace));
      return socket;
    },
  };
}

/**
 * While a server of this host is down, any user may take its port. A client that proves nothing, and asks for no proof, would believe
 * such a user all that he says of the files.
 * @throws FsError ECONNREFUSED: its server may come back.
 */
function checkListener(socket: Socket): void {
  if (!originOf(socket).sameHost) return;
  const { remoteAddress: address = '', remotePort: port = 0 } = socket;
  const users = listenersAt({ address, port });
  const other = users.find((uid) => !isTrusted(uid));
  if (users.length > 0 && other === undefined) return;
  const who = other === undefined ? 'nobody listens any more' : `user ${other} listens`;
  throw new FsError(
    'ECONNREFUSED',
    `${who} at ${peerOf(socket)}, which is an address of this host: only a server of root, or of the user of this process, is believed without a key`,
  );
}

/** As Transport.connect. Without credentials it is plain TCP. */
export async function connectTcp(
  address: Address,
  open: (connection: Connection) => ConnectionEvents,
  options: ConnectOptions,
  binding: NativeBinding | undefined,
): Promise<Connection> {
  const deadlineMs = performance.now() + options.timeoutMs;
  const { credentials } = options;
  if (credentials === undefined || credentials.kind === 'plain') {
    return await dial(address, open, options, deadlineMs, plainWay(binding));
  }
  const way = tlsWay(address, credentials, binding);
  try {
    return await dial(address, open, options, deadlineMs, way);
  } catch (error) {
    if (!(error instanceof FsError) || error.code !== 'EPROTO') throw error;
    // A server that ends in the middle of a handshake looks like one that does not know TLS. It does not look so twice.
    return await dial(address, open, options, deadlineMs, way);
  }
}

/** @returns if somebody listens there. @throws FsError as Transport.connect, if nobody does. */
export async function knock(address: Address, options: ConnectOptions): Promise<void> {
  const deadlineMs = performance.now() + options.timeoutMs;
  const nothing: ConnectionEvents = {
    data: () => undefined,
    drain: () => undefined,
    closed: () => undefined,
  };
  const connection = await dial(address, () => nothing, options, deadlineMs, plainWay(undefined));
  connection.destroy();
}

/**
 * TCP only; a client without credentials uses no TLS.
 * @param through what carries plain connections. The addon, if it has no sockets, gives way to node:net.
 */
export function tcpTransport(through: 'addon' | 'node:net'): Transport {
  const binding = (): NativeBinding | undefined => (through === 'addon' ? streamBinding() : undefined);
  return {
    listen: (address, accept, tls) => listenTcp(address, accept, binding(), tls),
    connect: (address, open, options) => connectTcp(address, open, options, binding()),
  };
}
