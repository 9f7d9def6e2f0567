/** What a TCP socket says of its peer, addresses as text, and the options of every connection. */

import { BlockList, isIPv6, type Socket } from 'node:net';
import { ownerOf } from './node_socket_owner.js';
import { type Address, type Origin, PRIVILEGED_PORTS_END } from './ports.js';

/** Detects peers whose machine is gone if nothing else does. */
const KEEPALIVE_MS = 15_000;

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

/** Of a peer that has proved nothing so far. */
export function originOf(socket: Socket): Origin {
  const { remoteAddress = '', remotePort = PRIVILEGED_PORTS_END, localAddress = '', localPort = 0 } = socket;
  const family = isIPv6(remoteAddress) ? 'ipv6' : 'ipv4';
  // BlockList recognizes an IPv4 peer of an IPv6 listener (::ffff:127.0.0.1).
  const sameHost =
    remoteAddress !== '' && (remoteAddress === localAddress || loopback.check(remoteAddress, family));
  const origin = {
    proof: { kind: 'none' },
    address: plain(remoteAddress),
    port: remotePort,
    sameHost,
  } as const;
  if (!sameHost) return origin;
  const isOwners = (): boolean => {
    const uid = ownerOf(
      { address: remoteAddress, port: remotePort },
      { address: localAddress, port: localPort },
    );
    return uid === 0 || (uid !== undefined && uid === process.geteuid?.());
  };
  return { ...origin, isOwners };
}

/** Of an IPv4 peer of an IPv6 listener the IPv4 address. */
function plain(address: string): string {
  return address.replace(/^::ffff:(?=\d+\.)/i, '');
}

export function show(address: Address): string {
  if (address.host.startsWith('/')) return address.host;
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  return `${host}:${address.port}`;
}

export function peerOf(socket: Socket): string {
  return show({ host: socket.remoteAddress ?? 'unknown', port: socket.remotePort ?? 0 });
}

/** They belong to the connection, and stay if another descriptor takes it over. */
export function setOptions(socket: Socket): void {
  socket.setNoDelay(true);
  socket.setKeepAlive(true, KEEPALIVE_MS);
}
