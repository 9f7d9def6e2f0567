/** The ports of a real process: node's clock, timers, sockets and random numbers. */

import { nodeChecksum } from './node_checksum.js';
import { NodeClock, nodeRng, nodeTimers } from './node_clock.js';
import { nodeMac } from './node_mac.js';
import { nodeTransport } from './node_transport.js';
import {
  type Faults,
  type Metrics,
  NO_FAULTS,
  NO_METRICS,
  NO_WAITS,
  type Runtime,
  type Waits,
} from './ports.js';

/**
 * Small Buffers share memory of this size, and one that lives long (the target of a symlink, an xattr) keeps all of it. Node 24
 * makes it 64 KiB by default, earlier versions this.
 */
const POOL_BYTES = 8 << 10;

/** @param metrics where the caller renders them (node_metrics.ts): its package takes long to load, so only a reader loads it. */
export function nodeRuntime(
  faults: Faults = NO_FAULTS,
  metrics: Metrics = NO_METRICS,
  waits: Waits = NO_WAITS,
): Runtime {
  Buffer.poolSize = POOL_BYTES;
  return {
    faults,
    clock: new NodeClock(),
    timers: nodeTimers,
    rng: nodeRng,
    transport: nodeTransport,
    metrics,
    waits,
    checksum: nodeChecksum,
    mac: nodeMac,
  };
}
