/** The page of a server: what it looks at, and when. */

import type { MetricTable } from '../../runtime/metric_table.js';
import { type Runtime, type Timer, wallMs } from '../../runtime/ports.js';
import type { Server } from '../../server/server.js';
import type { ServerStateName } from '../../wire/admin.js';
import { OperationRates } from './operation_rates.js';
import type { PageSource } from './page_server.js';
import { serverView } from './server_view.js';
import type { ServerPageView } from './shapes.js';

const EVERY_MS = 1000;
/** The most clients that a page describes. */
const CLIENTS_MAX = 200;

export class ServerPage implements PageSource {
  readonly #runtime: Pick<Runtime, 'timers' | 'clock'>;
  readonly #server: Pick<Server, 'watch' | 'state' | 'target'>;
  readonly #table: Pick<MetricTable, 'family'>;
  readonly #devices: string;
  readonly #rates = new OperationRates();
  #timer: Timer | undefined;
  #state: ServerStateName;
  #stateSinceMs: number;

  /** @param devices what a standby waits for, for people. */
  constructor(
    runtime: Pick<Runtime, 'timers' | 'clock'>,
    server: Pick<Server, 'watch' | 'state' | 'target'>,
    table: Pick<MetricTable, 'family'>,
    devices: string,
  ) {
    this.#runtime = runtime;
    this.#server = server;
    this.#table = table;
    this.#devices = devices;
    this.#state = server.state;
    this.#stateSinceMs = runtime.clock.nowMs();
    this.#read();
  }

  /** The server says something: its state may be another one. */
  changed(): void {
    if (this.#server.state === this.#state) return;
    this.#state = this.#server.state;
    this.#stateSinceMs = this.#runtime.clock.nowMs();
  }

  view(): ServerPageView {
    this.changed();
    const { clock } = this.#runtime;
    return serverView({
      watched: this.#server.watch(CLIENTS_MAX),
      points: this.#rates.points,
      rates: this.#rates.rows(),
      stateMs: clock.nowMs() - this.#stateSinceMs,
      devices: this.#devices,
    });
  }

  close(): void {
    this.#timer?.cancel();
  }

  #read(): void {
    const { clock, timers } = this.#runtime;
    const { read = 0, write = 0 } = this.#server.target?.bytes ?? {};
    const operations = this.#table.family('holdfast_server_rpc_seconds');
    this.#rates.read({ operations, readBytes: read, writeBytes: write }, clock.nowMs(), wallMs(clock));
    this.#timer = timers.after(EVERY_MS, () => this.#read(), true);
  }
}
