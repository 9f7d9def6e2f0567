/**
 * Decides what two builds speak with each other. The server runs this with the abilities in the client's CONNECT: it
 * takes the highest protocol version and the feature bits that both have. Pure functions.
 */

import { PROTOCOL_MAX, PROTOCOL_MIN } from './header.js';
import { FEATURES_ALL } from './session.js';

/** What one build can do, in fields of ConnectRequest. */
export interface Abilities {
  readonly protocolMin: number;
  readonly protocolMax: number;
  readonly features: number;
  readonly softwareVersion: string;
}

/** What a version wants of its peers: package.json, holdfast.requires. */
export interface Requires {
  /** Who has to be upgraded to it first. Absent: this version does not mind. */
  readonly first?: 'servers' | 'clients' | undefined;
  /** X.Y.Z: it takes no older peer. */
  readonly lowestPeer?: string | undefined;
}

export type Negotiated =
  | { readonly agreed: true; readonly protocol: number; readonly features: number }
  /** refusal: one line for people: both versions, and what to do. */
  | { readonly agreed: false; readonly refusal: string };

/** Abilities of this build. */
export function ownAbilities(softwareVersion: string): Abilities {
  return { protocolMin: PROTOCOL_MIN, protocolMax: PROTOCOL_MAX, features: FEATURES_ALL, softwareVersion };
}

/**
 * @param lowest X.Y.Z, of the one who asks. @returns why it does not take this peer: one line that names whom to upgrade; undefined: it
 *   does. What is no version is taken.
 */
export function tooOld(
  lowest: string | undefined,
  peer: { readonly is: 'client' | 'server'; readonly softwareVersion: string },
  ownVersion: string,
): string | undefined {
  if (lowest === undefined || !isBelow(peer.softwareVersion, lowest)) return undefined;
  const own = peer.is === 'client' ? 'server' : 'client';
  return (
    `${own} ${ownVersion} takes no ${peer.is} below ${lowest}, and this one is ${peer.softwareVersion}; ` +
    `upgrade the ${peer.is}`
  );
}

/** Whether the version is an older one, by its three numbers. */
export function isBelow(version: string, other: string): boolean {
  const [own, its] = [numbersOf(version), numbersOf(other)];
  if (own === undefined || its === undefined) return false;
  const at = own.findIndex((number, index) => number !== its[index]);
  return at >= 0 && (own[at] ?? 0) < (its[at] ?? 0);
}

function numbersOf(version: string): readonly number[] | undefined {
  const match = /^(\d+)\.(\d+)\.(\d+)/.exec(version);
  return match?.slice(1).map(Number);
}

export function negotiate(client: Abilities, server: Abilities): Negotiated {
  const protocol = Math.min(client.protocolMax, server.protocolMax);
  if (client.protocolMin > client.protocolMax) {
    return {
      agreed: false,
      refusal: `client ${client.softwareVersion} names an empty range of protocols (${range(client)})`,
    };
  }
  if (protocol < client.protocolMin || protocol < server.protocolMin) {
    const older = client.protocolMax < server.protocolMin ? 'client' : 'server';
    return {
      agreed: false,
      refusal:
        `client ${client.softwareVersion} speaks protocol ${range(client)}, ` +
        `server ${server.softwareVersion} speaks ${range(server)}; upgrade the ${older}`,
    };
  }
  // >>> 0: bit 31 must not make the result negative.
  return { agreed: true, protocol, features: (client.features & server.features) >>> 0 };
}

function range(side: Abilities): string {
  return side.protocolMin === side.protocolMax
    ? String(side.protocolMin)
    : `${side.protocolMin} to ${side.protocolMax}`;
}
