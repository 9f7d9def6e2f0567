/** What a decision about a CONNECT is based on: what the server has of the client, and what the client says. Changes nothing. */

import type { ClientRecord } from '../../storage/api.js';
import type { ConnectRequest } from '../../wire/session.js';
import type { Rights } from '../access/rights.js';
import type { ClientExport } from '../export/export.js';
import type { ServedTarget } from '../target/served_target.js';
import type { KnownOfClient, SaidByClient } from './connect_outcome.js';
import type { ServerView } from './server_view.js';

export function knownOf(
  server: ServerView,
  target: ServedTarget,
  { uuid, connCount }: ConnectRequest,
  existing: ClientExport | undefined,
  record: ClientRecord | undefined,
): KnownOfClient {
  return {
    server: opennessOf(server.state),
    has: hasOf(target, existing, record),
    hasLater: existing !== undefined && connCount <= existing.connCount,
    isWriting: target.leaving.get(uuid)?.isWriting === true,
  };
}

function opennessOf(state: ServerView['state']): KnownOfClient['server'] {
  if (state === 'active' || state === 'recovering') return 'open';
  return state === 'draining' ? 'draining' : 'closed';
}

function hasOf(
  target: ServedTarget,
  existing: ClientExport | undefined,
  record: ClientRecord | undefined,
): KnownOfClient['has'] {
  if (existing !== undefined) return target.undrained.has(existing) ? 'undrained export' : 'export';
  return record === undefined ? 'nothing' : 'record';
}

export function saidBy(
  target: ServedTarget,
  { previousInstance, secret }: ConnectRequest,
  { principal }: Rights,
  existing: ClientExport | undefined,
  record: ClientRecord | undefined,
): SaidByClient {
  const held = existing?.secret ?? record?.secret;
  const made = existing?.rights.principal ?? record?.principal;
  const hasSameProof = made === undefined || made === principal;
  return {
    cameFrom: cameFrom(previousInstance, target.store.superblock.instance, existing?.recoveredFrom),
    isTheClient: hasSameProof && (held === undefined || isSameSecret(held, secret)),
  };
}

function cameFrom(
  previous: number | undefined,
  here: number,
  recoveredFrom: number | undefined,
): SaidByClient['cameFrom'] {
  if (previous === undefined) return 'nowhere';
  if (previous === here) return 'this instance';
  return previous === recoveredFrom ? 'the one it recovered from' : 'another instance';
}

/** Compares in a time that does not depend on where two texts of one length differ. */
export function isSameSecret(held: string, said: string | undefined): boolean {
  if (said === undefined || said.length !== held.length) return false;
  let difference = 0;
  for (let at = 0; at < held.length; at++) difference |= held.charCodeAt(at) ^ said.charCodeAt(at);
  return difference === 0;
}
