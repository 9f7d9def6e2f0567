/** The time of a world that has to have real storage: lmdb takes the real time that it takes. */

import { NodeClock, nodeTimers } from '../../src/runtime/node_clock.js';
import { sleep } from '../../src/runtime/ports.js';
import { until, within } from '../fixtures/until.js';
import type { WorldTime } from './virtual_time.js';

export function realTime(): WorldTime {
  return {
    clock: new NodeClock(),
    timers: nodeTimers,
    sleep: (ms) => sleep(nodeTimers, ms),
    turn: () => new Promise((resolve) => nodeTimers.soon(resolve)),
    until,
    within,
    stop: () => undefined,
  };
}
