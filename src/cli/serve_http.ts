/**
 * What a server serves over HTTP beside the filesystem: metrics for Prometheus, and its live page. A standby on the host of the active
 * server may have the same addresses: it waits for them as long as it stands by, and nothing of it waits for this.
 */

import type { MetricTable } from '../runtime/metric_table.js';
import { type Address, formatAddress, type Runtime } from '../runtime/ports.js';
import type { Server } from '../server/server.js';
import { describeFailure } from './failure.js';
import { type BusyAddress, listenHttp } from './http_listener.js';
import { readPageFiles } from './live/page_files.js';
import { PageKey } from './live/page_key.js';
import { PageServer } from './live/page_server.js';
import { ServerPage } from './live/server_page.js';
import { serveMetrics } from './metrics_http.js';

export interface ServeHttpOptions {
  readonly meta: string;
  readonly standby?: boolean;
  readonly metrics?: Address;
  readonly http?: Address;
  readonly httpKey?: string;
}

export class ServeHttp {
  readonly #runtime: Runtime;
  readonly #server: Server;
  readonly #table: MetricTable;
  readonly #options: ServeHttpOptions;
  readonly #closed = new AbortController();
  #page: ServerPage | undefined;
  #pages: PageServer | undefined;

  constructor(runtime: Runtime, server: Server, table: MetricTable, options: ServeHttpOptions) {
    this.#runtime = runtime;
    this.#server = server;
    this.#table = table;
    this.#options = options;
  }

  /** Without --standby an address that cannot be had is a failure. @throws CliError, FsError for the key of the page. */
  async open(): Promise<void> {
    const { metrics, http, httpKey } = this.#options;
    if (metrics !== undefined)
      await this.#listening((busy) => serveMetrics(this.#runtime, this.#table, metrics, busy));
    if (http === undefined) return;
    const key = httpKey === undefined ? undefined : PageKey.read(httpKey);
    const page = new ServerPage(this.#runtime, this.#server, this.#table, this.#options.meta);
    const pages = new PageServer({
      timers: this.#runtime.timers,
      files: readPageFiles('server'),
      key,
      source: page,
    });
    this.#page = page;
    this.#pages = pages;
    await this.#listening(async (busy) => {
      const isThere = await listenHttp(this.#runtime, pages.http, {
        what: 'the live page',
        address: http,
        busy,
      });
      if (this.#closed.signal.aborted) pages.http.close();
      else if (isThere) process.stderr.write(`holdfast: live page at http://${formatAddress(http)}/\n`);
    });
  }

  async #listening(listen: (busy: BusyAddress) => Promise<void>): Promise<void> {
    if (this.#options.standby !== true) {
      await listen({ is: 'failure' });
      return;
    }
    // The filesystem is what a standby is for: it says that an address is not to be had, and stands by all the same.
    listen({ is: 'waited for long', signal: this.#closed.signal }).catch((thrown: unknown) => {
      process.stderr.write(`holdfast: ${describeFailure(thrown).line}\n`);
    });
  }

  /** The server has said something. */
  changed(): void {
    this.#page?.changed();
    this.#pages?.changed();
  }

  /** Pages show the end of the server. */
  close(): void {
    this.#closed.abort();
    this.#pages?.close();
    this.#page?.close();
  }
}
