/**
 * Decides whether the running version may serve a target, from the superblock that the previous instance left.
 *
 * A pure function of the superblock: the server writes nothing before this says yes. Rule (docs/recovery/shutdown.md, "Version
 * gate"): start if the version is unchanged, or the clean mark is there, or the administrator forces it. After a forced
 * start the server evicts the clients: their operations may be half done, which only a replay could tell, and no
 * version promises to replay another version's operations. For the same reason, after a version change, the server
 * evicts a client that has more to replay than opens.
 */

import type { Superblock } from '../../storage/api.js';

export type GateDecision =
  | { readonly start: true; readonly previousClients: 'recover' }
  | { readonly start: true; readonly previousClients: 'evict'; readonly reason: string }
  /** `message` is one line for the administrator. */
  | { readonly start: false; readonly message: string };

/** @param forced the administrator's --force-start; changes nothing if the target would start without it. */
export function decideStart(
  superblock: Pick<Superblock, 'softwareVersion' | 'clean' | 'label'>,
  runningVersion: string,
  forced: boolean,
): GateDecision {
  const previousVersion = superblock.softwareVersion;
  if (superblock.clean || previousVersion === runningVersion)
    return { start: true, previousClients: 'recover' };
  if (forced) {
    return {
      start: true,
      previousClients: 'evict',
      reason:
        `the administrator forced the start of version ${runningVersion} after version ${previousVersion} ` +
        'stopped without a controlled shutdown',
    };
  }
  return {
    start: false,
    message:
      `target ${superblock.label} was last served by version ${previousVersion}, which left no clean mark, and this ` +
      `is version ${runningVersion}: start version ${previousVersion} once more and stop it with ` +
      "'holdfast shutdown', or give --force-start, which evicts the previously connected clients",
  };
}

/** @returns why the server does not replay operations of the previous instance; undefined: it replays them. */
export function versionChange(previousVersion: string, runningVersion: string): string | undefined {
  if (previousVersion === runningVersion) return undefined;
  return (
    `it has operations that version ${previousVersion} of the server did not complete, and this is version ` +
    `${runningVersion}: it was not drained before the change`
  );
}
