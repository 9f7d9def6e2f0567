/** Networks that peers may come from, as people write them: 10.0.0.0/8, 2001:db8::/32, or one address. */

import ipaddr from 'ipaddr.js';
import { FsError } from './errno.js';

/** Of ::ffff:0:0/96. */
const MAPPED_BITS = 96;

export class AddressRange {
  /** ADDRESS/BITS. */
  readonly text: string;
  readonly #network: readonly [ipaddr.IPv4 | ipaddr.IPv6, number];

  /** @throws FsError EINVAL for what is no network. */
  constructor(text: string) {
    this.#network = parse(text);
    this.text = `${this.#network[0]}/${this.#network[1]}`;
  }

  /** @param address an IP address as text; ::ffff:1.2.3.4 counts as 1.2.3.4. */
  includes(address: string): boolean {
    if (!ipaddr.isValid(address)) return false;
    const found = ipaddr.process(address);
    const [network, bits] = this.#network;
    return found.kind() === network.kind() && found.match(network, bits);
  }
}

function parse(text: string): [ipaddr.IPv4 | ipaddr.IPv6, number] {
  const refusal = new FsError(
    'EINVAL',
    `${JSON.stringify(text)} is not a network; write ADDRESS/BITS, as 10.1.0.0/16`,
  );
  // The library takes an address like 10.1 too, which people do not mean.
  const [host = ''] = text.split('/');
  if (!ipaddr.IPv6.isValid(host) && !ipaddr.IPv4.isValidFourPartDecimal(host)) throw refusal;
  // A network has no zone: fe80::1%eth0 is an address of one link.
  if (host.includes('%')) throw refusal;
  try {
    if (text.includes('/')) return ofOneFamily(ipaddr.parseCIDR(text), refusal);
    const address = ipaddr.process(text);
    return [address, address.kind() === 'ipv4' ? 32 : 128];
  } catch (cause) {
    throw new FsError('EINVAL', refusal.message, { cause });
  }
}

/** Peers with IPv4 addresses are told by those, also when they come through an IPv6 socket. @throws what is given for no such network. */
function ofOneFamily(
  [network, bits]: [ipaddr.IPv4 | ipaddr.IPv6, number],
  refusal: Error,
): [ipaddr.IPv4 | ipaddr.IPv6, number] {
  if (network.kind() === 'ipv4' || !(network as ipaddr.IPv6).isIPv4MappedAddress()) return [network, bits];
  if (bits < MAPPED_BITS) throw refusal;
  return [(network as ipaddr.IPv6).toIPv4Address(), bits - MAPPED_BITS];
}

/** @returns whether one of the ranges has the address. */
export function isIn(ranges: readonly AddressRange[], address: string | undefined): boolean {
  return address !== undefined && ranges.some((range) => range.includes(address));
}
