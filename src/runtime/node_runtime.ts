/** The ports of a real process: node's clock, timers, sockets and random numbers. */

import { nodeChecksum } from './node_checksum.js';
import { NodeClock, nodeRng, nodeTimers } from './node_clock.js';
import { NodeMetrics } from './node_metrics.js';
import { nodeTransport } from './node_tcp.js';
import { type Faults, NO_FAULTS, type Runtime } from './ports.js';

export interface NodeRuntime extends Runtime {
  /** All metrics of this runtime in Prometheus' text format. */
  renderMetrics(): Promise<string>;
}

/**
 * Small Buffers share memory of this size, and one that lives long (the target of a symlink, an xattr) keeps all of it. Node 24
 * makes it 64 KiB by default, earlier versions this.
 */
const POOL_BYTES = 8 << 10;

export function nodeRuntime(faults: Faults = NO_FAULTS): NodeRuntime {
  Buffer.poolSize = POOL_BYTES;
  const metrics = new NodeMetrics();
  return {
    faults,
    clock: new NodeClock(),
    timers: nodeTimers,
    rng: nodeRng,
    transport: nodeTransport,
    metrics,
    checksum: nodeChecksum,
    renderMetrics: () => metrics.render(),
  };
}
