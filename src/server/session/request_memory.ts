/** Memory for requests, of all connections: what is on its way in, what waits, and the bulks that are being written. */

import { ByteBudget } from '../../base/budget.js';
import { SlabPool } from '../../base/slab_pool.js';
import { PartyBudgets } from '../../rpc/party_budgets.js';
import { ReceiveRoom } from '../../rpc/receive_room.js';
import { WaitingRequests } from '../../rpc/waiting_requests.js';
import type { ServerView } from './server_view.js';

/** Of all bulks that are being written at one time. */
const BULK_BYTES_MAX = 256 << 20;
/** Of all frames that are on their way in, or wait for those that are being written. */
const ARRIVING_BYTES_MAX = 128 << 20;
const WRITE_SLABS = 32;

export class RequestMemory {
  /** Memory that the bulks of WRITEs are received in. */
  readonly slabs: SlabPool;
  /** For what is on its way in. */
  readonly room: ReceiveRoom;
  readonly waiting = new WaitingRequests();
  readonly bulkBudget = new PartyBudgets(new ByteBudget('server bulk', BULK_BYTES_MAX));

  constructor(server: Pick<ServerView, 'runtime' | 'time' | 'target'>) {
    this.slabs = new SlabPool(
      WRITE_SLABS,
      // The device takes a bulk's content from where it arrived.
      (lengthBytes) => server.target?.store.data.memory(lengthBytes) ?? Buffer.allocUnsafeSlow(lengthBytes),
    );
    this.room = new ReceiveRoom(server.time, ARRIVING_BYTES_MAX);
    const { metrics } = server.runtime;
    metrics.gauge('holdfast_server_arriving_bytes', 'Frames on their way in', () => this.room.usedBytes);
    metrics.gauge('holdfast_server_waiting_bytes', 'Requests that wait', () => this.waiting.usedBytes);
    metrics.gauge(
      'holdfast_server_bulk_bytes',
      'Bulks being written',
      () => this.bulkBudget.shared.usedBytes,
    );
  }
}
