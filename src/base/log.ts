/** Logs by debug: one namespace a room (`holdfast:server`, `holdfast:client`, ...), written to stderr. */

import createDebug from 'debug';

export interface Log {
  /** printf-style, as the debug package: %s %d %o %O. Costs one test when the namespace is off. */
  (format: string, ...args: unknown[]): void;
  readonly enabled: boolean;
}

/**
 * @param room name of the folder under src/, perhaps with a topic: 'server', 'client:gate'.
 */
export function logger(room: string): Log {
  return createDebug(`holdfast:${room}`);
}
