/**
 * Connections between processes of one host through abstract Unix sockets, which cost less than TCP over loopback.
 *
 * - A listener at HOST:PORT has a name that follows from its address. Such names belong to a network namespace, as ports
 *   do. Whoever holds the TCP port takes the name too; if another process has the name, there is TCP only.
 * - A client tries the names under which a local listener would take its TCP connection: first that of the address itself,
 *   then those of the wildcard addresses, if the address is this host's. It never waits: there is a listener or there is
 *   none.
 * - Any process may take a name while the server is down. So a client accepts only a listener of its own user (and root only
 *   one of root), and else uses TCP, with its own rights: those to low ports may not come from its user.
 * - The server trusts a peer of root or of its own user as one from a privileged port.
 */

import { closeSync } from 'node:fs';
import { createServer, isIPv4, isIPv6, type Socket, SocketAddress } from 'node:net';
import { networkInterfaces } from 'node:os';
import type { NativeBinding, UnixPeer } from '../../native/binding.js';
import { logger } from '../base/log.js';
import { adoptSocket, descriptorOf, StreamConnection } from './node_stream.js';
import type { Address, Connection, ConnectionEvents, Origin } from './ports.js';

const log = logger('runtime:unix');

const BACKLOG = 1024;
const PREFIX = 'holdfast:';
const ANY_IPV4 = '0.0.0.0';
const ANY_IPV6 = '::';
const MAPPED = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/;
/** As RFC 6761 has it. */
const LOCALHOST = ['127.0.0.1', '::1'];

/** One text for each address. @returns undefined for what is no address, and for one of a single link (fe80::1%eth0). */
function canonical(host: string): string | undefined {
  if (isIPv4(host)) return host;
  if (!isIPv6(host) || host.includes('%')) return undefined;
  const { address } = new SocketAddress({ address: host, family: 'ipv6' });
  return MAPPED.exec(address)?.[1] ?? address;
}

function isOfThisHost(address: string): boolean {
  if (address.startsWith('127.') || address === '::1') return true;
  return Object.values(networkInterfaces()).some((found) =>
    found?.some((one) => canonical(one.address) === address),
  );
}

function nameOf(address: string, port: number): string {
  return `${PREFIX}${address.includes(':') ? `[${address}]` : address}:${port}`;
}

/** The names at which a listener that takes TCP connections to this address may be; none if the address is not this host's. */
export function namesFor({ host, port }: Address): string[] {
  const addresses = host === 'localhost' ? LOCALHOST : [canonical(host)];
  const local = addresses.filter((address) => address !== undefined).filter(isOfThisHost);
  if (local.length === 0) return [];
  // A listener at :: takes connections to IPv4 addresses too.
  const wildcards = local.some((address) => isIPv4(address)) ? [ANY_IPV4, ANY_IPV6] : [ANY_IPV6];
  return [...local, ...wildcards].map((address) => nameOf(address, port));
}

function ownUid(): number {
  return process.geteuid?.() ?? -1;
}

/** Root may do anything, and so may our own user with what is ours. */
export function isTrusted(uid: number): boolean {
  return uid === 0 || uid === ownUid();
}

/**
 * Listens for connections of this host beside a TCP listener.
 * @param bound the address that the TCP listener has.
 * @returns a function that stops it at once; open connections stay. Undefined if the name is not to be had.
 */
export function listenUnix(
  binding: NativeBinding,
  bound: Address,
  accept: (connection: Connection) => ConnectionEvents,
): (() => void) | undefined {
  const address = canonical(bound.host);
  if (address === undefined) return undefined;
  const name = nameOf(address, bound.port);
  try {
    return listenAt(binding, `@${name}`, (backlog) => binding.unixListen(name, backlog), accept);
  } catch (error) {
    log('no connections through @%s: %s', name, error instanceof Error ? error.message : error);
    return undefined;
  }
}

/** @returns a function that stops it. @throws what `bind` throws, which makes the descriptor. */
export function listenAt(
  binding: NativeBinding,
  shown: string,
  bind: (backlog: number) => number,
  accept: (connection: Connection) => ConnectionEvents,
): () => void {
  const fd = bind(BACKLOG);
  const server = createServer({ pauseOnConnect: true }, (socket) => acceptFrom(binding, socket, accept));
  server.on('error', (error) => log('%s: %s', shown, error.message));
  // net listens once more, and would lower the backlog.
  server.listen({ fd, backlog: BACKLOG });
  return () => void server.close();
}
function acceptFrom(
  binding: NativeBinding,
  socket: Socket,
  accept: (connection: Connection) => ConnectionEvents,
): void {
  const { uid, pid } = binding.unixPeer(descriptorOf(socket));
  const origin: Origin = { proof: { kind: 'local', uid, trusted: isTrusted(uid) }, port: 0, sameHost: true };
  const connection = adoptSocket(binding, socket, `unix:${pid}`, origin);
  if (connection === undefined) socket.destroy();
  else connection.start(accept(connection));
}

/** Connects to a listener of listenUnix() at this address. @returns undefined if there is none that may be trusted. */
export function connectUnix(binding: NativeBinding, address: Address): StreamConnection | undefined {
  for (const name of namesFor(address)) {
    let fd: number;
    try {
      fd = binding.unixConnect(name);
    } catch (error) {
      // Mostly nobody listens here. TCP tells if there is no server at all.
      if ((error as NodeJS.ErrnoException).code !== 'ECONNREFUSED') log('@%s: %s', name, error);
      continue;
    }
    try {
      const peer: UnixPeer = binding.unixPeer(fd);
      if (peer.uid === ownUid()) {
        const text = name.replace(PREFIX, 'unix:');
        const proof = { kind: 'local', uid: peer.uid, trusted: true } as const;
        return new StreamConnection(binding, fd, text, { proof, port: 0, sameHost: true });
      }
      log('@%s belongs to a process of user %d: not used', name, peer.uid);
    } finally {
      closeSync(fd);
    }
  }
  return undefined;
}
