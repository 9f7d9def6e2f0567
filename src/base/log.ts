/** Logs by debug: one namespace a room (`holdfast:server`, `holdfast:client`, ...), written to stderr. */

import createDebug from 'debug';

export interface Log {
  /** printf-style, as the debug package: %s %d %o %O. Costs one test when the namespace is off. */
  (format: string, ...args: unknown[]): void;
  readonly enabled: boolean;
}

/**
 * For bugs of ours: what is thrown and is no FsError. Written whatever DEBUG says, because its user sees EIO only.
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
