/** holdfast metrics: what a mount or a server has counted, in Prometheus' text format. */

import type { Command } from 'commander';
import { keyOption } from './common.js';

export function registerMetrics(program: Command): void {
  program
    .command('metrics')
    .description("print what a mount or a server has counted, in Prometheus' text format")
    .argument('<what>', 'MOUNTPOINT, LABEL of a filesystem that this host serves, or HOST:PORT of a server')
    .addOption(keyOption())
    .action(async (what: string, { key }: { readonly key?: string }) => {
      const { Source } = await import('./metrics_source.js');
      const source = await Source.open(what, key);
      try {
        process.stdout.write(await source.metrics());
      } finally {
        source.close();
      }
    });
}
