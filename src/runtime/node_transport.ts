/**
 * The transport of a real process: TCP, and Unix sockets beside it for peers of the same host (node_unix.ts). Without the
 * addon it is TCP only.
 */

import { streamBinding } from './node_stream.js';
import { listenTcp, tcpTransport } from './node_tcp.js';
import { connectUnix, listenUnix } from './node_unix.js';
import type { Transport } from './ports.js';

const tcp = tcpTransport('addon');

export const nodeTransport: Transport = {
  listen: async (address, accept) => {
    const binding = streamBinding();
    const listener = await listenTcp(address, accept, binding);
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
  },
  connect: async (address, open, options) => {
    const binding = streamBinding();
    // As with TCP, the caller's `open` runs in an event of its own.
    await new Promise(setImmediate);
    const connection =
      binding === undefined || options.signal?.aborted === true ? undefined : connectUnix(binding, address);
    if (connection === undefined) return await tcp.connect(address, open, options);
    connection.start(open(connection));
    return connection;
  },
};
