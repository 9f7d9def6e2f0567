/** The log of slow operations of this process: its lines are notices, so they are limited and counted as those are. */

import { notice } from '../base/notices.js';
import { NodeClock } from '../runtime/node_clock.js';
import { NO_WAITS, type Waits } from '../runtime/ports.js';

/** @param limitMs undefined: there is none, and it costs nothing. */
export async function slowLog(limitMs: number | undefined): Promise<Waits> {
  if (limitMs === undefined) return NO_WAITS;
  const { SlowLog } = await import('../runtime/node_slow_log.js');
  return new SlowLog(new NodeClock(), limitMs, (line) => notice('slow', `slow: ${line}`));
}
