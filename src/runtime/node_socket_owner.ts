/**
 * Whose a TCP socket of this host is, or the sockets that listen at an address of it, as /proc/net/tcp says: the user who made it. A user cannot give his socket to root, so this
 * is worth as much as the credentials of a Unix socket. Only sockets of this process's network namespace are there.
 */

import { readFileSync } from 'node:fs';
import { isIPv4, SocketAddress } from 'node:net';
import { logger } from '../base/log.js';

const log = logger('runtime:owner');

const TABLES = ['/proc/net/tcp', '/proc/net/tcp6'];
/** tcp_states.h: all from TCP_ESTABLISHED on that a descriptor may refer to. */
const OWNED = new Set(['01', '02', '04', '05', '08', '09']);
const LISTENS = '0A';
const MAPPED = '0000000000000000FFFF0000';

export interface Ends {
  readonly address: string;
  readonly port: number;
}

/**
 * @param from the end of the socket that is asked about. @param to its other end.
 * @returns its user; undefined if there is no such socket in this network namespace, or nobody has it open any more.
 */
export function ownerOf(from: Ends, to: Ends): number | undefined {
  const wanted = textsOf(from).flatMap((own) => textsOf(to).map((other) => `${own} ${other}`));
  for (const { local, remote, state, uid, isHeld } of sockets()) {
    if (isHeld && OWNED.has(state) && wanted.includes(`${local} ${remote}`)) return uid;
  }
  return undefined;
}

/** @returns the users of the sockets that listen there, or at the wildcard addresses with this port. */
export function listenersAt({ address, port }: Ends): number[] {
  const wanted = [address, '0.0.0.0', '::'].flatMap((host) => textsOf({ address: host, port }));
  return [...sockets()]
    .filter(({ state, local }) => state === LISTENS && wanted.includes(local))
    .map(({ uid }) => uid);
}

interface SocketLine {
  readonly local: string;
  readonly remote: string;
  readonly state: string;
  readonly uid: number;
  /** Without an inode nobody has it any more. Before Linux 6.17 such a socket is shown as one of root, whoever has closed it. */
  readonly isHeld: boolean;
}

function* sockets(): Iterable<SocketLine> {
  for (const table of TABLES) {
    for (const line of linesOf(table)) {
      const [, local = '', remote = '', state = '', , , , uid, , inode] = line.trim().split(/\s+/);
      yield { local, remote, state, uid: Number(uid), isHeld: inode !== '0' };
    }
  }
}

function linesOf(table: string): string[] {
  try {
    return readFileSync(table, 'latin1').split('\n').slice(1, -1);
  } catch (error) {
    log('%s: %O', table, error);
    return [];
  }
}

/** As the tables write an end: an IPv4 address of an IPv6 socket too. */
function textsOf({ address, port }: Ends): string[] {
  const end = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  const v4 = /^(?:::ffff:)?(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (v4 !== undefined && isIPv4(v4)) {
    const word = wordOf(v4.split('.').map(Number));
    return [`${word}${end}`, `${MAPPED}${word}${end}`];
  }
  const bytes = bytesOf(address);
  const words = [0, 4, 8, 12].map((at) => wordOf(bytes.slice(at, at + 4)));
  return [`${words.join('')}${end}`];
}

/** Four bytes of an address as this machine's number, in hexadecimal digits. */
function wordOf(bytes: readonly number[]): string {
  const word = Buffer.from(bytes);
  const value = NATIVE_IS_LITTLE ? word.readUInt32LE(0) : word.readUInt32BE(0);
  return value.toString(16).toUpperCase().padStart(8, '0');
}

const NATIVE_IS_LITTLE = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

function bytesOf(address: string): number[] {
  const { address: text } = new SocketAddress({ address: address.replace(/%.*/, ''), family: 'ipv6' });
  const [head = '', tail] = text.split('::');
  const groups = (part: string): number[] =>
    part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16));
  const [first, last] = [groups(head), groups(tail ?? '')];
  const middle = new Array<number>(Math.max(0, 8 - first.length - last.length)).fill(0);
  return [...first, ...middle, ...last].flatMap((group) => [group >> 8, group & 0xff]);
}
