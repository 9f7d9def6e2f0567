/** holdfast top: what a mount or a server does right now, each second anew. */

import type { Command } from 'commander';
import { keyOption } from './common.js';
import { CliError, describeFailure } from './failure.js';

const PERIOD_MS = 1000;

interface TopOptions {
  readonly once?: boolean;
  readonly json?: boolean;
  readonly key?: string;
}

export function registerTop(program: Command): void {
  program
    .command('top')
    .description(
      'show what a mount or a server does: operations a second, latency, bytes, locks; each second anew',
    )
    .argument(
      '[what]',
      'MOUNTPOINT, LABEL of a filesystem that this host serves, or HOST:PORT; without it, the only one of this machine',
    )
    .option('--once', 'once, after a second; so it is too if the output is no terminal')
    .option('--json', 'one JSON object for each time')
    .addOption(keyOption())
    .action(async (what: string | undefined, options: TopOptions) => {
      await top(what ?? (await onlyOne()), options);
    });
}

async function top(what: string, { once, json, key }: TopOptions): Promise<void> {
  const { Source } = await import('./metrics_source.js');
  const { Reading, topText, topView } = await import('./top_view.js');
  const { nodeRuntime } = await import('../runtime/node_runtime.js');
  const { sleep } = await import('../runtime/ports.js');
  const { timers, clock } = nodeRuntime();
  const isOnce = once === true || (!process.stdout.isTTY && json !== true);
  let source = await Source.open(what, key);
  try {
    let before = { reading: new Reading(await source.metrics()), atMs: clock.nowMs() };
    for (;;) {
      await sleep(timers, PERIOD_MS);
      let text: string;
      try {
        const after = { reading: new Reading(await source.metrics()), atMs: clock.nowMs() };
        const view = topView(source.side, before.reading, after.reading, (after.atMs - before.atMs) / 1000);
        before = after;
        text = json === true ? JSON.stringify(view) : topText(what, view, rowsOfTerminal());
      } catch (thrown) {
        if (isOnce) throw thrown;
        // It may be upgraded just now.
        text = json === true ? '' : describeFailure(thrown).line;
        source.close();
        source = await Source.open(what, key).catch(() => source);
      }
      if (process.stdout.isTTY && json !== true) process.stdout.write('\x1b[H\x1b[J');
      if (text !== '') process.stdout.write(`${text}\n`);
      if (isOnce) return;
    }
  } finally {
    source.close();
  }
}

/** What fits below the lines that are always there. */
function rowsOfTerminal(): number {
  return Math.max(5, (process.stdout.rows ?? 30) - 6);
}

async function onlyOne(): Promise<string> {
  const { listMounts } = await import('../../mount/unmount.js');
  const { localServers } = await import('./local_servers.js');
  const found = [...listMounts(), ...localServers().map(({ label }) => label)];
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  const which = found.length === 0 ? 'there is none on this machine' : `there are ${found.join(', ')}`;
  throw new CliError(`name a mount point or a server: ${which}`, 2);
}
