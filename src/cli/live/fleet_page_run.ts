/** holdfast fleet FILE --http: serves the page of a fleet until a signal ends it. */

import { nodeRuntime } from '../../runtime/node_runtime.js';
import { type Address, formatAddress } from '../../runtime/ports.js';
import { readFleet } from '../fleet/file.js';
import { listenHttp } from '../http_listener.js';
import { FleetPage } from './fleet_page.js';
import { readPageFiles } from './page_files.js';
import { PageKey } from './page_key.js';
import { PageServer } from './page_server.js';

/** @throws CliError, FsError for a file, a key or an address that is not right. */
export async function serveFleetPage(path: string, address: Address, keyFile?: string): Promise<void> {
  const runtime = nodeRuntime();
  const fleet = readFleet(path);
  const key = keyFile === undefined ? undefined : PageKey.read(keyFile);
  const files = readPageFiles('fleet');
  const page = new FleetPage(runtime, fleet, () => pages.changed());
  const pages: PageServer = new PageServer({ timers: runtime.timers, files, key, source: page });
  try {
    await listenHttp(runtime, pages.http, { what: 'the page', address, busy: { is: 'failure' } });
    process.stdout.write(`holdfast: page of ${path} at http://${formatAddress(address)}/\n`);
    await new Promise<void>((resolve) => {
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve());
    });
  } finally {
    pages.close();
    page.close();
  }
}
