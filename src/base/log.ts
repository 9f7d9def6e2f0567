/**
 * Logs through the debug package: one namespace for each room (`holdfast:server`, `holdfast:client`, ...), written to
 * stderr.
 */

import createDebug from 'debug';

export interface Log {
  /** printf-style, as the debug package: %s %d %o %O. Costs one test if the namespace is off. */
  (format: string, ...args: unknown[]): void;
  readonly enabled: boolean;
}

/**
 * For bugs of ours: anything thrown that is not an FsError. Written whatever DEBUG says, because the user sees only
 * EIO.
 */
export function bugLogger(room: string): Log {
  const log = createDebug(`holdfast:bug:${room}`);
  log.enabled = true;
  return log;
}

/**
 * @param room name of the folder under src/, perhaps with a topic: 'server', 'client:gate'.
 */
export function logger(room: string): Log {
  return createDebug(`holdfast:${room}`);
}
