/**
 * The transport of a real process: TCP, with or without TLS, and Unix sockets. Without the addon it is TCP only.
 *
 * - Unix sockets are there in two ways: beside each TCP listener, for peers of the same host (node_unix.ts), and at a path
 *   (node_unix_path.ts).
 * - Over a Unix socket the kernel says who the peer is. Over TCP the peer has to prove it, so a client that has nothing to prove
 *   it with does not use TCP.
 */

import { FsError } from '../base/errno.js';
import { cancelled } from './node_dial.js';
import { show } from './node_peer.js';
import { type StreamConnection, streamBinding } from './node_stream.js';
import { connectTcp, knock, listenTcp } from './node_tcp.js';
import { connectUnix, listenUnix } from './node_unix.js';
import { connectPath, listenPath } from './node_unix_path.js';
import type { Address, Connection, ConnectionEvents, ConnectOptions, Listener, Transport } from './ports.js';

function isPath({ host }: Address): boolean {
  return host.startsWith('/');
}

async function listenBoth(...[address, accept, tls]: Parameters<Transport['listen']>): Promise<Listener> {
  const binding = streamBinding();
  const listener = await listenTcp(address, accept, binding, tls);
  const closeUnix =
    binding === undefined
      ? undefined
      : listenUnix(binding, { host: listener.boundHost, port: listener.address.port }, accept);
  return {
    address: listener.address,
    close: async () => {
      // First, so that whoever gets the port gets the name too.
      closeUnix?.();
      await listener.close();
    },
  };
}

/** @throws FsError: see ConnectOptions.credentials. */
async function withoutCredentials(address: Address, options: ConnectOptions): Promise<StreamConnection> {
  await knock(address, options);
  // A server takes its port a moment before it takes its name.
  const binding = streamBinding();
  const connection = binding === undefined ? undefined : connectUnix(binding, address);
  if (connection !== undefined) return connection;
  throw new FsError(
    'EACCES',
    `${show(address)} needs a key: make one on the server with \`holdfast access add NAME\`, put it into a file, and ` +
      'name that with -o key=FILE (--key FILE); or use -o tls=off, only on a network that you trust',
  );
}

async function connect(
  address: Address,
  open: (connection: Connection) => ConnectionEvents,
  options: ConnectOptions,
): Promise<Connection> {
  const binding = streamBinding();
  // As with TCP, the caller's `open` runs in an event of its own.
  await new Promise(setImmediate);
  if (options.signal?.aborted === true) throw cancelled(address);
  let connection: StreamConnection | undefined;
  if (isPath(address)) connection = connectPath(binding, address.host);
  else if (binding !== undefined) connection = connectUnix(binding, address);
  if (connection === undefined) {
    if (options.credentials !== undefined) return await connectTcp(address, open, options, binding);
    connection = await withoutCredentials(address, options);
  }
  connection.start(open(connection));
  return connection;
}

export const nodeTransport: Transport = {
  listen: async (address, accept, tls) =>
    isPath(address)
      ? listenPath(streamBinding(), address.host, accept)
      : await listenBoth(address, accept, tls),
  connect,
};
