/**
 * What this version can do, for whoever decides which versions may meet (fleet/check.ts). The shape is frozen: later versions only
 * add fields.
 */

import { FEATURES_KNOWN, FORMAT_VERSION } from '../storage/format/superblock.js';
import { PROTOCOL_MAX, PROTOCOL_MIN } from '../wire/header.js';
import { STATE_VERSIONS } from '../wire/mount_state.js';
import type { Requires } from '../wire/negotiate.js';
import { FEATURES_ALL } from '../wire/session.js';
import { installedVersion, requiresOf } from './installed.js';

export interface Capabilities {
  /** VERSION+DIGEST. */
  readonly version: string;
  readonly protocol: { readonly min: number; readonly max: number };
  /** Bits of what the version can speak. */
  readonly features: number;
  readonly disk: {
    readonly format: number;
    /** Bits of what a target may have so that the version serves it. compatible: it may have any others. */
    readonly incompatible: number;
    readonly compatible: number;
  };
  /** Versions of MountState: how a client is handed over. */
  readonly mountState: readonly number[];
  readonly requires: Requires;
}

export function capabilities(): Capabilities {
  return {
    version: installedVersion(),
    protocol: { min: PROTOCOL_MIN, max: PROTOCOL_MAX },
    features: FEATURES_ALL,
    disk: { format: FORMAT_VERSION, incompatible: FEATURES_KNOWN, compatible: 0 },
    mountState: STATE_VERSIONS,
    requires: requiresOf(),
  };
}

export function capabilitiesText(found: Capabilities): string {
  const { version, protocol, features, disk, mountState, requires } = found;
  const bits = (value: number): string => `0x${value.toString(16)}`;
  const wants = [
    ...(requires.first === undefined ? [] : [`${requires.first} first`]),
    ...(requires.lowestPeer === undefined ? [] : [`no peer below ${requires.lowestPeer}`]),
  ];
  return [
    `version   ${version}`,
    `protocol  ${protocol.min} to ${protocol.max}, features ${bits(features)}`,
    `disk      format ${disk.format}, features ${bits(disk.incompatible)}`,
    `takeover  MountState ${mountState.join(', ')}`,
    `requires  ${wants.length === 0 ? 'nothing' : wants.join(', ')}`,
  ].join('\n');
}
